"""An experiment: settings and seeds, measured cell by cell and kept on disk."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsedis_kernels import __version__
from sparsedis_kernels.data.extra import train_extra
from sparsedis_kernels.evidence.claims import Claim


@dataclass(frozen=True)
class Experiment:
    """What is run, and what should show.

    Attributes:
        about: what is measured and how, for the head of the report.
        columns: heading of each measured number that the table shows, in its order.
        settings: from whether the run is quick to the settings (dataclasses that JSON holds) by
            label.
        measure: from settings and a seed to numbers (or nested lists of them) by name. It depends
            on nothing else.
        claims: the effects that are expected.
        draw: draws the results on a matplotlib Figure.
    """

    about: str
    columns: Mapping[str, str]
    settings: Callable[[bool], Mapping[str, Any]]
    measure: Callable[[Any, int], dict[str, Any]]
    claims: Sequence[Claim]
    draw: Callable[[Any, Results], None]


@dataclass(frozen=True)
class Results:
    """Measured cells: for each label of settings one row a seed, in the order of seeds."""

    rows: Mapping[str, Sequence[Mapping[str, Any]]]

    def values(self, label: str, key: str) -> NDArray[np.float64]:
        """The number `key` for every seed, (seeds,); or (seeds, ...) where it is a nested list."""
        return np.array([row["numbers"][key] for row in self.rows[label]], dtype=np.float64)

    def text(self, label: str, key: str) -> str:
        """Mean ± standard deviation over seeds; the mean alone for one seed."""
        values = self.values(label, key)
        digits = 3 if np.abs(values).max() < 1.5 else 1
        spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
        return f"{values.mean():.{digits}f}{spread}"

    def seconds(self, label: str) -> float:
        """Mean CPU time of a cell."""
        return float(np.mean([row["cpu_seconds"] for row in self.rows[label]]))


def run_cells(experiment: Experiment, seeds: int, out: Path, *, quick: bool) -> Results:
    """Measure every setting for seeds 0 to `seeds` - 1, but for the cells that are there already.

    Each cell is appended to ``cells.jsonl`` in the folder `out` as soon as it is measured. A cell
    is known by its settings, its seed and the package's version.

    Raises:
        ImportError: tqdm is not installed.
        ValueError: a number is NaN or infinite, which JSON does not know.
    """
    with train_extra("run_cells"):
        from tqdm import tqdm
    out.mkdir(parents=True, exist_ok=True)
    file, settings = out / "cells.jsonl", experiment.settings(quick)
    done = _read(file)
    # Seed by seed, so that a run cut short has all settings for the first seeds.
    with tqdm(list(itertools.product(range(seeds), settings)), disable=None) as bar:
        for seed, label in bar:
            bar.set_postfix_str(f"seed {seed}, {label}")
            key = _key(settings[label], seed)
            if key not in done:
                done[key] = _measure(experiment, settings[label], seed)
                with file.open("a") as lines:
                    lines.write(json.dumps(done[key], allow_nan=False) + "\n")
    return Results(
        {label: [done[_key(s, k)] for k in range(seeds)] for label, s in settings.items()}
    )


def _measure(experiment: Experiment, setting: Any, seed: int) -> dict[str, Any]:
    start = time.process_time()  # not wall time, which other processes of a machine lengthen
    numbers = experiment.measure(setting, seed)
    return {
        "settings": asdict(setting),
        "seed": seed,
        "version": __version__,
        "cpu_seconds": time.process_time() - start,
        "numbers": numbers,
    }


def _key(setting: Any, seed: int, version: str = __version__) -> str:
    settings = setting if isinstance(setting, Mapping) else asdict(setting)
    return json.dumps([settings, seed, version], sort_keys=True)


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """Rows by key. A last line that a crash cut off is dropped from the file."""
    text = file.read_text() if file.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole)
    rows = [json.loads(line) for line in whole.splitlines()]
    return {_key(row["settings"], row["seed"], row["version"]): row for row in rows}
