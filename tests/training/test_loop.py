from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sparsedis_kernels as sk
from sparsedis_kernels.data import ClassTasks, Labelled, Tasks, TaskSource, load
from sparsedis_kernels.nn import SparseHeads
from sparsedis_kernels.training.loop import Arm, Run, _shown, compare, train
from sparsedis_kernels.training.recipe import Recipe
from sparsedis_kernels.training.step import bilevel_step
from tests.training.common import HEADS, RECIPE


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


def texts(test_classes: tuple[str, ...] = ()) -> ClassTasks:
    """Vectors of unit length about a centre for each of six classes, moved in the last domain."""
    g = torch.Generator().manual_seed(0)
    label, domain = torch.arange(1500) % 6, torch.arange(1500) // 500
    x = torch.randn(6, 30, generator=g)[label] + 2 * torch.randn(1500, 30, generator=g)
    x = torch.nn.functional.normalize(x + (domain == 2)[:, None] * torch.randn(30, generator=g))
    return ClassTasks(
        Labelled(
            "texts", x, label, domain, torch.zeros(1500).bool(), tuple("abcdef"), tuple("xyz")
        ),
        ways=3,
        test_classes=test_classes,
    )


MULTINOMIAL = SparseHeads(sk.Penalty(group=0.2, ridge=0.1), loss="multinomial", relative=True)


@pytest.mark.parametrize(
    ("source", "heads"),
    [
        (lambda: load("digits"), HEADS["dense"]),
        (lambda: load("digits"), HEADS["sparse"]),
        (texts, HEADS["sparse"]),
        (lambda: texts(("a", "b", "c")), MULTINOMIAL),
    ],
    ids=["dense", "sparse", "texts", "texts-multinomial"],
)
def test_resumed_training_is_bitwise_the_uninterrupted_one(
    source: Callable[[], TaskSource], heads: SparseHeads, tmp_path: Path
) -> None:
    straight = Run(source(), heads, RECIPE)
    train(straight, tmp_path / "straight.pt")
    broken = Run(Interrupted(source(), 13), heads, RECIPE)
    with pytest.raises(KeyboardInterrupt):
        train(broken, tmp_path / "broken.pt")
    assert len(broken.history) == 13
    resumed = Run(source(), heads, RECIPE)
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
    with pytest.raises(ValueError, match=r"a.pt was written with held_out=3, not 0"):
        Run(load("digits", held_out=0), HEADS["dense"], RECIPE).load(tmp_path / "a.pt")


def test_checkpoint_of_other_classes_is_refused(tmp_path: Path) -> None:
    Run(texts(), HEADS["dense"], RECIPE).save(tmp_path / "a.pt")
    other = Run(texts(("a", "b", "c")), HEADS["dense"], RECIPE)
    with pytest.raises(ValueError, match=r"written with test_classes=\[\], not \['a', 'b', 'c'\]"):
        other.load(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("recipe", "shots", "message"),
    [
        ({"support": 1000}, (1,), "split 'train' has"),
        ({}, (1, 40), "n_samples=220 needs 44 examples of each of 5 classes .* split 'test' has"),
        ({"query": 200}, (), "n_samples=220 needs 44 examples .* split 'validation' has"),
        ({}, (0, 1), "Run: shots must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_training(
    recipe: dict[str, int], shots: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    told = Recipe(**{**vars(RECIPE), **recipe})
    with pytest.raises(ValueError, match=message):
        compare(load("digits"), told, HEADS, tmp_path, resume=False, shots=shots)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "heads", "recipe", "message"),
    [
        (
            texts,
            MULTINOMIAL,
            {"support": 2, "query": 18},
            "Run: support=2 has no sample of some of the ways=3",
        ),
        (lambda: load("shapes"), HEADS["dense"], {"query": 1}, r"Run: query=1, but R\^2"),
    ],
    ids=["a class without support", "one query"],
)
def test_what_has_no_score_is_said_before_training(
    source: Callable[[], TaskSource],
    heads: SparseHeads,
    recipe: dict[str, int],
    message: str,
    tmp_path: Path,
) -> None:
    told = Recipe(**{**vars(RECIPE), **recipe})
    with pytest.raises(ValueError, match=message):
        compare(source(), told, {"sparse": heads}, tmp_path, resume=False, shots=())
    (name, size), *_ = recipe.items()
    enough = Run(source(), heads, Recipe(**{**vars(told), name: size + 1}))
    enough.check(())
    episode = next(enough._episodes("validation", 1, enough.recipe.support))
    outcome = bilevel_step(enough.backbone, heads, episode, enough.source.kind)
    assert bool(torch.isfinite(outcome.loss) and torch.isfinite(outcome.score).all())


def test_few_shot_accuracy_grows_with_the_shots(arms: tuple[dict[str, Arm], Path]) -> None:
    for arm in arms[0].values():
        assert set(arm.few_shot) == {"seen", "held_out"}
        one, five, ten = (arm.few_shot["seen"][k].summary()["score"] for k in (1, 5, 10))
        assert 0.3 < one < five < ten + 0.05
        # Tasks are the same ones, so half of the support of `evaluate` cannot be much better.
        assert five < arm.seen.summary()["score"] + 0.1


def test_the_bar_shows_the_numbers_that_matter() -> None:
    run = Run(texts(), HEADS["sparse"], RECIPE)
    run.advance()
    last = run.history[0]
    assert _shown(run) == {
        "loss": f"{last['loss']:.3f}",
        "accuracy": f"{last['score']:.3f}",
        "validation": "-",
        "features/task": f"{last['features_per_task']:.1f}",
        "exp(H)": f"{last['effective_features']:.1f}",
    }
    run.validation.append(0.12345)
    assert _shown(run)["validation"] == "0.123"


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
    streams = [next(run._episodes(s, 4, 20)).x for s in ("validation", "test", "held-out")]
    streams.append(run.source.sample(4, 40, run.generator).x)
    for a, b in itertools.combinations(streams, 2):
        assert not torch.equal(a, b)


def test_validation_is_on_examples_that_neither_training_nor_test_has() -> None:
    run = Run(load("digits"), HEADS["dense"], RECIPE)

    def images(x: torch.Tensor) -> set[bytes]:
        return {image.numpy().tobytes() for image in x.flatten(0, 1)}

    validation = images(next(run._episodes("validation", 20, 20)).x)
    assert not validation & images(run.source.sample(200, 100, run.generator).x)
    assert not validation & images(next(run._episodes("test", 20, 20)).x)


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
