from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sparsedis_kernels import cli
from sparsedis_kernels.evidence import synthetic
from sparsedis_kernels.evidence.command import EXPERIMENTS


def test_reproduce_prints_the_report_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(synthetic, "_SAMPLES", (25, 50))
    monkeypatch.setattr(synthetic, "_RELEVANT", (5,))
    args = ["reproduce", "synthetic", "--quick", "--seeds", "2", "--out", str(tmp_path)]
    assert cli.main(args) == 0
    text, report = capsys.readouterr().out, (tmp_path / "report.json").read_text()
    cells = (tmp_path / "cells.jsonl").read_text()
    assert cells.count("\n") == 4
    arm = json.loads(report)["arms"]["5 %, n = 50"]
    assert f"| 5 %, n = 50 | {arm['mean']['lasso']:.3f} ± " in text
    assert arm["mean"]["lasso"] > 0.8 > 0.6 > arm["mean"]["ridge"] > arm["mean"]["lasso_mixed"]
    assert cli.main(args) == 0
    assert capsys.readouterr().out == text
    assert (tmp_path / "cells.jsonl").read_text() == cells
    assert (tmp_path / "report.json").read_text() == report


@pytest.mark.parametrize("option", ["seeds", "threads"])
def test_impossible_arguments_give_one_sentence(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["reproduce", "synthetic", f"--{option}", "0"]) == 2
    assert capsys.readouterr().err == f"sparsedis: --{option} must be >= 1, got 0\n"


@pytest.mark.parametrize("package", ["tqdm", "matplotlib", "sklearn"])
def test_a_missing_extra_is_named_before_anything_is_measured(
    package: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["reproduce", "synthetic", "--out", str(tmp_path)]) == 2
    message = f"reproduce needs {package}: pip install 'sparsedis-kernels[train]'"
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_experiment_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["reproduce", "nothing"])
    error = capsys.readouterr().err
    assert all(name in error for name in ("nothing", *EXPERIMENTS))
