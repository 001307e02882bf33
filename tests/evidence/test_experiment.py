from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from sparsedis_kernels.evidence.claims import Check, Claim
from sparsedis_kernels.evidence.experiment import Experiment, Results, run_cells
from sparsedis_kernels.evidence.report import write_report


@dataclass(frozen=True)
class Line:
    slope: float


class Measured:
    """slope * seed, with a list of all calls; the power fails at the k-th."""

    def __init__(self, k: int = 100) -> None:
        self.calls: list[tuple[float, int]] = []
        self.left = k

    def __call__(self, setting: Line, seed: int) -> dict[str, Any]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        self.calls.append((setting.slope, seed))
        return {"y": setting.slope * seed, "matrix": [[seed, 1.0]]}


def experiment(measure: Measured, claims: Sequence[Claim] = ()) -> Experiment:
    return Experiment(
        about="A line.",
        columns={"y": "height"},
        settings=lambda quick: {"flat": Line(0.0)} | ({} if quick else {"steep": Line(10.0)}),
        measure=measure,
        claims=claims,
        draw=lambda figure, results: figure.subplots().plot(results.values("flat", "y")),
    )


def test_an_interrupted_run_goes_on_with_the_cells_that_are_missing(tmp_path: Path) -> None:
    whole = run_cells(experiment(Measured()), 3, tmp_path / "whole", quick=False)
    with pytest.raises(KeyboardInterrupt):
        run_cells(experiment(Measured(3)), 3, tmp_path / "cut", quick=False)
    rest = Measured()
    resumed = run_cells(experiment(rest), 3, tmp_path / "cut", quick=False)
    assert rest.calls == [(10.0, 1), (0.0, 2), (10.0, 2)]
    for label, expected in (("flat", [0, 0, 0]), ("steep", [0, 10, 20])):
        assert resumed.values(label, "y").tolist() == expected
        assert whole.values(label, "y").tolist() == expected
    assert resumed.values("steep", "matrix").shape == (3, 1, 2)


def test_a_line_that_a_crash_cut_off_is_measured_again(tmp_path: Path) -> None:
    run_cells(experiment(Measured()), 2, tmp_path, quick=False)
    file = tmp_path / "cells.jsonl"
    file.write_text(file.read_text()[:-9])
    again = Measured()
    run_cells(experiment(again), 2, tmp_path, quick=False)
    assert again.calls == [(10.0, 1)]
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 4


def test_cells_of_another_version_are_not_taken(tmp_path: Path) -> None:
    run_cells(experiment(Measured()), 1, tmp_path, quick=True)
    file = tmp_path / "cells.jsonl"
    row = json.loads(file.read_text())
    file.write_text(json.dumps(row | {"version": "0"}) + "\n")
    again = Measured()
    run_cells(experiment(again), 1, tmp_path, quick=True)
    assert again.calls == [(0.0, 0)]


def results(**values: list[float]) -> Results:
    return Results({k: [{"numbers": {"y": y}} for y in ys] for k, ys in values.items()})


@pytest.mark.parametrize(
    ("check", "holds", "seeds"),
    [
        (Check(("a", "y"), ">", 1.9), True, "2 of 3"),  # the mean of 1, 2, 3 is 2
        (Check(("a", "y"), ">", 1.9, by=0.2), False, "1 of 3"),
        (Check(("a", "y"), "<", ("b", "y")), True, "2 of 3"),
        (Check(("a", "y"), "<", ("b", "y"), by=1.0), False, "2 of 3"),
        (Check(("a", "y"), "near", ("b", "y"), by=1.0), True, "0 of 3"),
        (Check(("a", "y"), "near", 4.0, by=1.0), False, "1 of 3"),
    ],
    ids=str,
)
def test_a_check_asks_the_mean_and_counts_the_seeds(check: Check, holds: bool, seeds: str) -> None:
    verdict = check.verdict(results(a=[1.0, 2.0, 3.0], b=[3.0, 4.0, 1.0]))
    assert verdict.holds == holds
    assert verdict.text.endswith(f": {'yes' if holds else 'no'}, in {seeds} seeds")
    assert "y of 'a' 2.0 ± 1.0" in verdict.text


def test_a_claim_holds_where_all_its_checks_do() -> None:
    true, false = Check(("a", "y"), ">", 0.0), Check(("a", "y"), ">", 9.0)
    there = results(a=[1.0])
    for checks, holds in (((true, true), True), ((true, false), False)):
        verdict = Claim("a is large", checks).verdict(there)
        assert verdict is not None
        assert verdict.holds == holds
        assert verdict.text.startswith("- holds: a" if holds else "- **does not hold**: a")
    assert Claim("b is large", (true, Check(("b", "y"), ">", 0.0))).verdict(there) is None


def test_the_report_has_table_claims_and_cells(tmp_path: Path) -> None:
    claims = [
        Claim("steep is higher", (Check(("steep", "y"), ">", ("flat", "y")),)),
        Claim("flat is high", (Check(("flat", "y"), ">", 5.0),)),
        Claim("of what was not run nothing is said", (Check(("other", "y"), ">", 5.0),)),
    ]
    run = experiment(Measured(), claims)
    text = write_report(run, run_cells(run, 3, tmp_path, quick=False), tmp_path)
    assert text == (tmp_path / "report.md").read_text()[:-1]
    assert "|  | height | CPU s |" in text
    assert "| steep | 10.0 ± 10.0 |" in text
    assert "- holds: steep is higher" in text
    assert "- **does not hold**: flat is high" in text
    assert "nothing is said" not in text
    report = json.loads((tmp_path / "report.json").read_text())
    assert [claim["holds"] for claim in report["claims"].values()] == [True, False]
    assert report["arms"]["steep"]["mean"]["y"] == 10
    assert [cell["numbers"]["y"] for cell in report["arms"]["steep"]["cells"]] == [0, 10, 20]
    assert imread(tmp_path / "figure.png")[..., :3].std() > 0.01
