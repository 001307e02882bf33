"""The training loop, with checkpoints that resume bit for bit, and a comparison of heads."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from sparsedis_kernels.data import TaskSource
from sparsedis_kernels.data.extra import train_extra
from sparsedis_kernels.data.tasks import KnownFactors, describe
from sparsedis_kernels.nn import SparseHeads
from sparsedis_kernels.training.backbone import Backbone
from sparsedis_kernels.training.episodes import Episode, sample_episode
from sparsedis_kernels.training.evaluate import Evaluation, evaluate, few_shot, usage_numbers
from sparsedis_kernels.training.factors import FactorScores, factor_scores
from sparsedis_kernels.training.recipe import Recipe
from sparsedis_kernels.training.step import bilevel_step

_STREAMS = ("train", "validation", "test", "held-out")
_MODULES = ("backbone", "optimizer", "scheduler")
_VALUES = ("history", "validation", "seconds")
_VALIDATION_TASKS = 20
_BATCH = 20  # tasks that go through the backbone at once, to bound memory


class Run:
    """One training, with all the state that a checkpoint must hold to go on bit for bit.

    Attributes:
        history: "loss" and "score" on the query and usage numbers, for each step.
        validation: the mean score at each validation, always on the same tasks, of examples that
            neither training nor test tasks have.
        seconds: time spent training, validations included.

    Raises:
        ValueError: a loss for classes meets a source of regression.
    """

    def __init__(self, source: TaskSource, heads: SparseHeads, recipe: Recipe) -> None:
        if source.kind == "regression" and heads.loss != "squared":
            raise ValueError(f"Run: loss={heads.loss!r}, but source {source.name!r} is regression")
        self.source, self.heads, self.recipe = source, heads, recipe
        self.backbone = Backbone(source.input_shape, recipe.features, recipe.seed)
        self.optimizer = AdamW(self.backbone.parameters(), lr=recipe.lr)
        self.scheduler = CosineAnnealingLR(self.optimizer, recipe.steps)
        self.generator = self._generator("train")
        self.history: list[dict[str, float]] = []
        self.validation: list[float] = []
        self.seconds = 0.0

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or `patience` validations brought no better score."""
        before = self.validation[: -self.recipe.patience]
        stale = bool(before) and max(self.validation) <= max(before)
        return stale or len(self.history) >= self.recipe.steps

    def advance(self) -> bool:
        """One training step, and a validation where one is due: whether it was."""
        start, r = time.perf_counter(), self.recipe
        episode = sample_episode(self.source, r.tasks, (r.support, r.query), self.generator)
        outcome = bilevel_step(self.backbone, self.heads, episode, self.source.kind)
        self.optimizer.zero_grad()
        outcome.loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        query = {"loss": outcome.loss.item(), "score": outcome.score.mean().item()}
        self.history.append(query | usage_numbers(outcome.fit.weight))
        due = len(self.history) % r.check_every == 0 or len(self.history) == r.steps
        if due:
            score = self.evaluate("validation", _VALIDATION_TASKS).score
            self.validation.append(score.mean().item())
        self.seconds += time.perf_counter() - start
        return due

    def evaluate(self, stream: str, n_tasks: int) -> Evaluation:
        """Evaluate on fresh "validation", "test" or "held-out" tasks, the same at every call."""
        episodes = self._episodes(stream, n_tasks, self.recipe.support)
        return evaluate(self.backbone, self.heads, episodes, self.source.kind)

    def few_shot(self, stream: str, n_tasks: int, shots: Sequence[int]) -> dict[int, Evaluation]:
        """As `evaluate`, of heads fitted to k samples of each class, for every k of `shots`."""
        episodes = self._episodes(stream, n_tasks, max(shots) * self.source.n_outputs)
        return few_shot(self.backbone, self.heads, episodes, shots)

    def factor_scores(self) -> FactorScores | None:
        """How the features recover the factors of the source, if it knows them."""
        if not isinstance(self.source, KnownFactors):
            return None
        return factor_scores(self.backbone, self.source, self._generator("test"))

    def check(self, shots: Sequence[int]) -> None:
        """Draw a task of every kind to come, so that what cannot be drawn is said before training.

        Raises:
            ValueError: the source has too few examples of a class, a number of shots is not
                positive, the support of a multinomial loss would lack classes, whose query loss is
                infinite, or the query of regression has one sample, which has no R^2.
        """
        self._check_sizes(shots)
        support = self.recipe.support
        largest = max([support, *(k * self.source.n_outputs for k in shots)])
        for stream in ("train", "validation"):
            next(self._episodes(stream, 1, support))
        for stream in self.test_streams.values():
            next(self._episodes(stream, 1, largest))

    def _check_sizes(self, shots: Sequence[int]) -> None:
        r, ways = self.recipe, self.source.n_outputs
        if min(shots, default=1) < 1:
            raise ValueError(f"Run: shots must be at least 1, got {min(shots)}")
        if self.heads.loss == "multinomial" and r.support < ways:
            raise ValueError(
                f"Run: support={r.support} has no sample of some of the ways={ways} classes, which "
                "loss='multinomial' needs"
            )
        if self.source.kind == "regression" and r.query < 2:
            raise ValueError(
                f"Run: query={r.query}, but R^2 of regression needs 2 samples at least"
            )

    @property
    def test_streams(self) -> dict[str, str]:
        """The streams of test tasks that the source has, under the names of `Arm`."""
        seen = {"seen": "test"}
        return seen if self.source.held_out is None else seen | {"held_out": "held-out"}

    def save(self, path: Path) -> None:
        """Write a checkpoint; one that is there stays whole until the new one is."""
        state = {name: getattr(self, name).state_dict() for name in _MODULES}
        state |= {name: getattr(self, name) for name in _VALUES}
        state |= {"generator": self.generator.get_state(), "settings": self._settings()}
        torch.save(state, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)

    def load(self, path: Path) -> None:
        """Go back to the state of a checkpoint.

        Raises:
            ValueError: it was written with other settings.
        """
        state = torch.load(path, weights_only=True)
        settings = self._settings()
        for name, there in state["settings"].items():
            if there != (here := settings.get(name)):
                raise ValueError(f"{path} was written with {name}={there}, not {here}")
        for name in _MODULES:
            getattr(self, name).load_state_dict(state[name])
        for name in _VALUES:
            setattr(self, name, state[name])
        self.generator.set_state(state["generator"])

    def _settings(self) -> dict[str, Any]:
        return {**asdict(self.recipe), **describe(self.source), "heads": str(self.heads)}

    def _generator(self, stream: str) -> torch.Generator:
        seed = len(_STREAMS) * self.recipe.seed + _STREAMS.index(stream)
        return torch.Generator().manual_seed(seed)

    def _episodes(self, stream: str, n_tasks: int, support: int) -> Iterator[Episode]:
        sizes, generator = (support, self.recipe.query), self._generator(stream)
        held_out = stream == "held-out"
        options = {"split": "test" if held_out else stream, "held_out": held_out}
        for first in range(0, n_tasks, _BATCH):
            count = min(_BATCH, n_tasks - first)
            yield sample_episode(self.source, count, sizes, generator, **options)


def train(run: Run, checkpoint: Path, *, resume: bool = False, label: str = "train") -> None:
    """Train to the end, with a progress bar on a terminal and a checkpoint at every validation.

    With `resume` it starts from the checkpoint if it is there; the bar is named `label`.

    Raises:
        ValueError: the checkpoint was written with other settings.
        ImportError: tqdm is not installed.
    """
    with train_extra("train"):
        from tqdm import tqdm
    if resume and checkpoint.exists():
        run.load(checkpoint)
    steps, done = run.recipe.steps, len(run.history)
    with tqdm(total=steps, initial=done, desc=label, disable=None) as bar:
        while not run.finished:
            validated = run.advance()
            bar.set_postfix(_shown(run))
            bar.update()
            if validated:
                run.save(checkpoint)


def _shown(run: Run) -> dict[str, str]:
    """The numbers of the last step, and the last validation, for the progress bar."""
    last = run.history[-1]
    score = "accuracy" if run.source.kind == "classification" else "R²"
    return {
        "loss": f"{last['loss']:.3f}",
        score: f"{last['score']:.3f}",
        "validation": f"{run.validation[-1]:.3f}" if run.validation else "-",
        "features/task": f"{last['features_per_task']:.1f}",
        "exp(H)": f"{last['effective_features']:.1f}",
    }


class Arm(NamedTuple):
    """A finished training, evaluated on fresh test tasks."""

    run: Run
    seen: Evaluation  # in the domains of training
    held_out: Evaluation | None  # in the held-out domain, if there is one
    # By "seen" and "held_out", then by samples of a class; empty for regression.
    few_shot: dict[str, dict[int, Evaluation]]
    factors: FactorScores | None  # where the source knows the factors behind its inputs


def compare(
    source: TaskSource,
    recipe: Recipe,
    heads: Mapping[str, SparseHeads],
    out: Path,
    resume: bool,
    shots: Sequence[int] = (1, 5, 10),
) -> dict[str, Arm]:
    """Train and evaluate an arm for each of `heads`: same initial weights, same tasks.

    Classification is also judged with few `shots`, see `few_shot`. Checkpoints are ``<name>.pt`` in
    the folder `out`, which is made if it is not there; with `resume` training goes on from those
    there are.

    Raises:
        ValueError, ImportError: as `train`, or as `Run.check`, before anything is trained.
    """
    out.mkdir(parents=True, exist_ok=True)
    shots, arms = shots if source.kind == "classification" else (), {}
    for name, inner in heads.items():
        run = Run(source, inner, recipe)
        run.check(shots)
        train(run, out / f"{name}.pt", resume=resume, label=name)
        arms[name] = _judged(run, shots)
    return arms


def _judged(run: Run, shots: Sequence[int]) -> Arm:
    n, streams = run.recipe.test_tasks, run.test_streams
    whole = {name: run.evaluate(stream, n) for name, stream in streams.items()}
    few = {name: run.few_shot(stream, n, shots) for name, stream in streams.items() if shots}
    return Arm(run, whole["seen"], whole.get("held_out"), few, run.factor_scores())
