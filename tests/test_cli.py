from __future__ import annotations

import builtins
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsedis_kernels import backends, cli
from sparsedis_kernels.bench import MODULES, feature_usage, measure

SMALL = ["--steps", "4", "--tasks", "2", "--support", "20", "--query", "20", "--features", "8"]
SMALL += ["--check-every", "2", "--test-tasks", "4", "--data", "digits", "--shots", "1", "2"]


def table(text: str) -> dict[str, list[str]]:
    """Rows of cells that two spaces or more keep apart, by their first cell."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return {first: rest for first, *rest in rows}


def test_train_as_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sparsedis_kernels.cli", "train", *SMALL, "--seed", "3"]
    command += ["--group", "0.4", "--out", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["settings"]["recipe"]["seed"] == 3
    assert "group=0.4" in report["settings"]["heads"]["sparse"]
    assert "group=0.0" in report["settings"]["heads"]["dense"]
    rows, arms = table(result.stdout), [report["arms"][name] for name in ("dense", "sparse")]
    expected = [f"{arm['seen']['features_per_task']:.1f}" for arm in arms]
    assert rows["features per task of 8"] == expected
    shown = [cell.split(" ± ")[0] for cell in rows["query accuracy, held out: 270 degrees"]]
    assert shown == [f"{arm['held_out']['score']:.3f}" for arm in arms]
    shown = [cell.split(" ± ")[0] for cell in rows["2-shot accuracy, seen domains"]]
    assert shown == [f"{arm['few_shot']['seen']['2']['score']:.3f}" for arm in arms]
    assert str(tmp_path / "report.json") in result.stdout


def test_resume_goes_on_from_the_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["train", *SMALL, "--out", str(tmp_path)]
    assert cli.main(args) == 0
    first = table(capsys.readouterr().out)
    times = [(tmp_path / f"{name}.pt").stat().st_mtime_ns for name in ("dense", "sparse")]
    assert cli.main([*args, "--resume"]) == 0
    # All steps were done, so nothing was trained or saved again, and even the seconds agree.
    assert table(capsys.readouterr().out) == first
    assert times == [(tmp_path / f"{name}.pt").stat().st_mtime_ns for name in ("dense", "sparse")]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--shift", "colour"], "load: digits takes ways, held_out, but not shift"),
        (["--threads", "0"], "--threads must be >= 1, got 0"),
        (["--steps", "0"], "Recipe: steps must be > 0, got 0"),
        (["--group", "-1"], "Penalty: group must be >= 0 everywhere, got -1.0"),
        (["--resume"], "--resume: there is no checkpoint in "),
        (
            ["--support", "4", "--loss", "multinomial"],
            "Run: support=4 has no sample of some of the",
        ),
        (["--data", "shapes", "--query", "1"], "Run: query=1, but R^2 of regression needs 2"),
        (["--support", "5000"], "DigitTasks.sample: n_samples=5020 needs 1004 examples of each"),
    ],
)
def test_impossible_arguments_give_one_sentence(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "new")]
    assert cli.main(["train", *SMALL, *out, *args]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sparsedis: {message}")
    assert error.count("\n") == 1


def test_checkpoint_of_other_settings_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["train", *SMALL, "--out", str(tmp_path)]
    assert cli.main(args) == 0
    assert cli.main([*args, "--resume", "--lr", "0.1"]) == 2
    assert "dense.pt was written with lr=0.002, not 0.1" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["tqdm", "matplotlib"])
def test_missing_extra_gives_one_sentence(
    package: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    assert cli.main(["train", *SMALL, "--out", str(tmp_path)]) == 2
    assert f"needs {package}: pip install 'sparsedis-kernels[train]'" in capsys.readouterr().err


def test_env_shows_what_serves_each_op(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["env"]) == 0
    text = capsys.readouterr().out
    rows = table(text)
    assert rows["torch"] == [torch.__version__]
    assert rows["instruction_set"] == [backends.instruction_set()]
    for library in (backends.CPU_LIBRARY, backends.CUDA_LIBRARY):
        assert str(library.path or library.error) in text
    for row in backends.op_table():
        assert re.search(r"\s+".join(map(re.escape, row)), text)


def test_env_shows_why_a_library_did_not_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = backends.Library(None, "_C.so did not load: undefined symbol")
    monkeypatch.setattr(backends, "CPU_LIBRARY", broken)
    assert cli.main(["env"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"CPU library\s+_C.so did not load: undefined symbol", text)
    assert re.search(r"fit_heads\s+cpu\s+reference\s+cpu: _C.so did not load", text)


def test_bench_times_what_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    options = ["--quick", "--match", " group 100x", "--device", "cpu", "--save", str(file)]
    assert cli.main(["bench", "prox", *options]) == 0
    text, document = capsys.readouterr().out, json.loads(file.read_text())
    machine, rows = document["machine"], document["rows"]
    assert machine["device_type"] == "cpu"
    assert machine["device"]
    assert machine["threads"] == 1
    assert machine["versions"]["torch"] == torch.__version__
    assert machine["commit"] is None or re.fullmatch("[0-9a-f]{40}(-dirty)?", machine["commit"])
    assert {row["direction"] for row in rows} == {"forward", "backward"}
    assert {"ours", "reference", "torch eager", "copy", "in-place axpy"} == {
        row["provider"] for row in rows
    }
    for row in rows:
        assert row["status"] == "timed", row["note"]
        assert 0 < row["low"] <= row["seconds"] <= row["high"]
        assert row["gb_per_s"] == pytest.approx(1e-9 * row["bytes_moved"] / row["seconds"])
        assert row["provider"] != "copy" or row["copy_fraction"] == 1
    assert text.count("  ours ") == sum(row["provider"] == "ours" for row in rows)
    assert "prox group 100x128x5 forward\n" in text
    assert {row["kind"] for row in rows} == {"group", "sparse group"}
    assert shlex.split(document["command"])[:4] == ["sparsedis", "bench", "prox", "--match"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no process")
def test_bench_holds_every_library_to_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before, within = os.sched_getaffinity(0), []

    def cases(*args: object, **options: object) -> list[Any]:
        within.append((os.sched_getaffinity(0), torch.get_num_threads()))
        return []

    monkeypatch.setattr(measure, "cases", cases)
    for threads in ([], ["--threads", "2"]):
        assert cli.main(["bench", *threads]) == 0
    assert [(len(cpus), threads) for cpus, threads in within] == [(1, 1), (min(2, len(before)), 2)]
    assert within[0][0] <= within[1][0] <= before
    assert os.sched_getaffinity(0) == before


def test_bench_fails_where_an_answer_of_ours_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = feature_usage.feature_usage

    def wrong(weight: torch.Tensor, **options: Any) -> Any:
        return right(weight if options else 1.01 * weight.square(), **options)

    monkeypatch.setattr(feature_usage, "feature_usage", wrong)
    file = tmp_path / "rows.json"
    args = ["bench", "feature_usage", "--quick", "--device", "cpu", "--save", str(file)]
    assert cli.main(args) == 1
    assert re.search(r"ours +wrong: .*not close", capsys.readouterr().out)
    for row in json.loads(file.read_text())["rows"]:
        assert (row["seconds"] is None) == (row["provider"] == "ours")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--device", "cuda"], f"--device cuda: torch {torch.__version__} finds no CUDA device"),
        (["prox", "lasso"], "bench: there is no op 'lasso'; there are prox, prox_, prox_mcp, "),
        (["--save", "nowhere/rows.json"], "--save: there is no folder nowhere"),
        (["prox", "--match", "lasso"], "bench: --match 'lasso' is in the name of no case"),
        (["--threads", "0"], "--threads must be >= 1, got 0"),
    ],
)
def test_impossible_benchmarks_give_one_sentence(
    args: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "--quick", *args]) == 2
    out, error = capsys.readouterr()
    assert error.startswith(f"sparsedis: {message}")
    assert error.count("\n") == 1
    assert out == ""


def test_bench_help_names_every_op(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(["bench", "--help"])
    assert error.value.code == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert ", ".join(MODULES) in text
    assert "(default: None)" not in text


def test_help_shows_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(["train", "--help"])
    assert error.value.code == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    for option in ("--steps", "--hypergradient", "--patience", "--resume"):
        assert option in text
    assert "how mnist's domains differ (rotation)" in text
    assert "(default: None)" not in text


def test_no_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main([])
    assert error.value.code == 2
    assert "command" in capsys.readouterr().err
