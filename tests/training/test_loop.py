from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import sparsedis_kernels as sk
from sparsedis_kernels.data import Tasks, TaskSource, load
from sparsedis_kernels.nn import SparseHeads
from sparsedis_kernels.training.loop import Arm, Run, compare, train
from sparsedis_kernels.training.recipe import Recipe
from sparsedis_kernels.training.report import write_report

RECIPE = Recipe(steps=20, tasks=3, support=20, query=20, features=16, check_every=10, test_tasks=20)
HEADS = {
    "dense": SparseHeads(sk.Penalty(ridge=0.3), relative=True),
    "sparse": SparseHeads(sk.Penalty(group=0.3, ridge=0.3), relative=True),
}


class Interrupted:
    """A source whose power fails at the k-th call for a training episode."""

    def __init__(self, source: TaskSource, k: int) -> None:
        self._source, self._left = source, k

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def sample(self, n_tasks: int, *args: Any, **options: Any) -> Tasks:
        if n_tasks == RECIPE.tasks:
            self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return self._source.sample(n_tasks, *args, **options)


def state_of(run: Run) -> list[torch.Tensor]:
    moments = [v for s in run.optimizer.state_dict()["state"].values() for v in s.values()]
    return [*run.backbone.state_dict().values(), *moments, run.generator.get_state()]


@pytest.mark.parametrize("name", HEADS)
def test_resumed_training_is_bitwise_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    source = load("digits")
    straight = Run(source, HEADS[name], RECIPE)
    train(straight, tmp_path / "straight.pt")
    broken = Run(Interrupted(source, 13), HEADS[name], RECIPE)
    with pytest.raises(KeyboardInterrupt):
        train(broken, tmp_path / "broken.pt")
    assert len(broken.history) == 13
    resumed = Run(source, HEADS[name], RECIPE)
    resumed.load(tmp_path / "broken.pt")
    assert len(resumed.history) == 10
    train(resumed, tmp_path / "broken.pt", resume=True)
    assert len(resumed.history) == 20
    for a, b in zip(state_of(straight), state_of(resumed), strict=True):
        assert torch.equal(a, b)
    assert resumed.history == straight.history
    assert resumed.validation == straight.validation
    assert not torch.equal(state_of(broken)[0], state_of(straight)[0])


def test_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    source = load("digits")
    Run(source, HEADS["dense"], RECIPE).save(tmp_path / "a.pt")
    other = Run(source, HEADS["dense"], Recipe(**{**vars(RECIPE), "steps": 30}))
    with pytest.raises(ValueError, match=r"a.pt was written with steps=20, not 30"):
        other.load(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"heads=SparseHeads\(Penalty\(.*ridge=0.3"):
        Run(source, HEADS["sparse"], RECIPE).load(tmp_path / "a.pt")


def test_runs_depend_on_the_seed_alone(tmp_path: Path) -> None:
    scores = []
    for seed in (0, 0, 1):
        torch.rand(3)  # the global generator plays no part
        recipe = Recipe(**{**vars(RECIPE), "steps": 3, "seed": seed})
        run = Run(load("digits"), HEADS["sparse"], recipe)
        train(run, tmp_path / "run.pt")
        scores.append(run.history)
    assert scores[0] == scores[1]
    assert scores[0] != scores[2]


def test_streams_of_tasks_are_apart() -> None:
    run = Run(load("digits"), HEADS["dense"], RECIPE)
    streams = [next(run._episodes(s, 4)).x for s in ("validation", "test", "held-out")]
    streams.append(run.source.sample(4, 40, run.generator).x)
    for a, b in itertools.combinations(streams, 2):
        assert not torch.equal(a, b)


@pytest.mark.parametrize(("scores", "steps"), [([0.5, 0.6, 0.6, 0.1, 0.9], 4), ([0.5] * 9, 3)])
def test_early_stop_after_patience_validations(
    scores: list[float], steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stops once the last two scores are not above the best before them."""
    rest = iter(scores)
    score = lambda self, *_: type("E", (), {"score": torch.tensor([next(rest)])})  # noqa: E731
    monkeypatch.setattr(Run, "evaluate", score)
    recipe = Recipe(**{**vars(RECIPE), "check_every": 1, "patience": 2})
    run = Run(load("digits"), HEADS["dense"], recipe)
    train(run, tmp_path / "run.pt")
    assert len(run.history) == steps
    assert run.finished


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Arm], Path]:
    out = tmp_path_factory.mktemp("run")
    recipe = Recipe(**{**vars(RECIPE), "steps": 60, "tasks": 4, "features": 24, "lr": 5e-3})
    arms = compare(load("digits"), recipe, HEADS, out, resume=False)
    write_report(arms, out)
    return arms, out


@pytest.mark.parametrize("name", HEADS)
def test_training_improves_accuracy(name: str, arms: tuple[dict[str, Arm], Path]) -> None:
    arm = arms[0][name]
    untrained = Run(arm.run.source, arm.run.heads, arm.run.recipe)
    # Running statistics of an untrained backbone: those of a few training batches.
    for _ in range(20):
        untrained.backbone(arm.run.source.sample(4, 40, untrained.generator).x)
    before = untrained.evaluate("test", 20).summary()["score"]
    after = arm.seen.summary()["score"]
    assert after > before + 0.1
    assert arm.run.history[-1]["loss"] < 0.7 * arm.run.history[0]["loss"]


def test_sparse_heads_use_fewer_features_as_accurately(arms: tuple[dict[str, Arm], Path]) -> None:
    dense, sparse = (arms[0][name].seen.summary() for name in ("dense", "sparse"))
    assert dense["features_per_task"] == 24
    assert sparse["features_per_task"] < 12
    assert sparse["score"] > dense["score"] - 0.05


def test_report_has_every_number_finite(arms: tuple[dict[str, Arm], Path]) -> None:
    report = json.loads((arms[1] / "report.json").read_text())
    assert report["settings"]["recipe"] == vars(arms[0]["dense"].run.recipe)
    assert report["settings"]["source"]["held_out"] == 3
    assert report["versions"]["torch"] == torch.__version__
    for name, arm in report["arms"].items():
        assert len(arm["history"]) == 60
        assert len(arm["validation"]) == 6
        assert sum(arm["usage"]) == pytest.approx(1, abs=1e-5)
        assert max(arm["tasks_per_feature"]) <= 20
        expected = arms[0][name].seen.summary()
        assert arm["seen"] == expected
        assert 0 < arm["held_out"]["score"] < 1
    numbers = list(leaves(report))
    assert len(numbers) > 600
    assert all(math.isfinite(x) for x in numbers)


def leaves(value: Any) -> list[float]:
    if isinstance(value, dict):
        return list(itertools.chain.from_iterable(map(leaves, value.values())))
    if isinstance(value, list):
        return list(itertools.chain.from_iterable(map(leaves, value)))
    return [value] if isinstance(value, (int, float)) else []


@pytest.mark.parametrize("name", ["curves", "weights", "usage"])
def test_plots_are_not_blank(name: str, arms: tuple[dict[str, Arm], Path]) -> None:
    """Both halves of each picture, one for each arm or quantity, hold something coloured."""
    pixels = imread(arms[1] / f"{name}.png")[..., :3]
    height, width = pixels.shape[:2]
    assert min(height, width) > 400
    for half in np.array_split(pixels, 2, axis=1):
        colourful = np.ptp(half, axis=2) > 0.2
        assert 0.001 < colourful.mean() < 0.9


def test_report_refuses_nan(arms: tuple[dict[str, Arm], Path], tmp_path: Path) -> None:
    arm = arms[0]["dense"]
    bad = arm._replace(seen=arm.seen._replace(score=torch.tensor([math.nan])))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report({"dense": bad, "sparse": bad}, tmp_path)


def test_regression_without_held_out_domain(tmp_path: Path) -> None:
    recipe = Recipe(steps=4, tasks=2, support=20, query=20, features=8, check_every=4, test_tasks=4)
    arms = compare(load("shapes"), recipe, HEADS, tmp_path, resume=False)
    report = json.loads(write_report(arms, tmp_path).read_text())
    for arm in report["arms"].values():
        assert arm["held_out"] is None
        assert arm["seen"]["score"] < 1
