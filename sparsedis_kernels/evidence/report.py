"""The report of an experiment: table, figure, and which claims hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparsedis_kernels.data.extra import train_extra
from sparsedis_kernels.evidence.experiment import Experiment, Results
from sparsedis_kernels.training.report import versions


def write_report(experiment: Experiment, results: Results, out: Path) -> str:
    """Write ``report.md``, ``report.json`` and ``figure.png`` to the folder `out`.

    Returns:
        The text of ``report.md``: the table, mean ± standard deviation over seeds, and the claims.

    Raises:
        ImportError: matplotlib is not installed.
    """
    with train_extra("write_report"):
        from matplotlib.figure import Figure
    verdicts = {c.sentence: c.verdict(results) for c in experiment.claims}
    found = {sentence: verdict for sentence, verdict in verdicts.items() if verdict}
    seeds = len(next(iter(results.rows.values())))
    over = "One seed" if seeds == 1 else f"Mean ± standard deviation over {seeds} seeds"
    words = "\n".join(verdict.text for verdict in found.values())
    text = f"{experiment.about}\n\n{table(experiment, results)}\n\n{over}. Expected:\n\n{words}"
    report = {
        "versions": versions(),
        "claims": {sentence: verdict._asdict() for sentence, verdict in found.items()},
        "arms": {label: _summary(experiment, results, label) for label in results.rows},
    }
    (out / "report.md").write_text(text + "\n")
    (out / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    figure = Figure(layout="constrained")
    experiment.draw(figure, results)
    figure.savefig(out / "figure.png", dpi=80)
    return text


def table(experiment: Experiment, results: Results) -> str:
    """A Markdown table, one row a label."""
    rows = [["", *experiment.columns.values(), "CPU s"]]
    for label in results.rows:
        cells = [results.text(label, key) for key in experiment.columns]
        rows.append([label, *cells, f"{results.seconds(label):.1f}"])
    return markdown(rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table, the headings first."""
    ruled = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in ruled)


def _summary(experiment: Experiment, results: Results, label: str) -> dict[str, object]:
    means = {key: float(np.mean(results.values(label, key))) for key in experiment.columns}
    return {"mean": means, "cells": results.rows[label]}
