"""Trains a backbone in all domains but one, tunes its strength, and judges its features in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from sparsedis_kernels import __version__
from sparsedis_kernels.data import ClassTasks, cached, load
from sparsedis_kernels.data.tasks import Split
from sparsedis_kernels.nn import Hypergradient, SparseHeads
from sparsedis_kernels.penalty import Penalty
from sparsedis_kernels.training.backbone import Backbone
from sparsedis_kernels.training.episodes import Episode, sample_episode
from sparsedis_kernels.training.evaluate import Evaluation, evaluation_mode, few_shot
from sparsedis_kernels.training.step import bilevel_step

TUNING_SEED = 100  # and up, above all that are judged
SHOTS = (1, 5, 10)
PROBES = {
    "ridge": SparseHeads(Penalty(ridge=1.0), relative=True),
    "sparse": SparseHeads(Penalty(group=0.2, ridge=1.0), relative=True),
}
_LR = 2e-3
_FEATURES, _TASKS = 64, 4
_BATCHES, _BATCH = 10, 20  # 200 test tasks


@dataclass(frozen=True)
class Data:
    """A data set and the tasks that are drawn from it.

    Attributes:
        name, options: what `load` takes, options as pairs.
        turns: the domains that are held out, in turn.
        shots: support samples of a class in training and in the comparison of domains; there are
            as many query samples.
        new_classes: names of classes that no training task has.
        tunings: trainings with each strength and held-out domain, before one is chosen.
    """

    name: str
    options: tuple[tuple[str, Any], ...]
    turns: tuple[int, ...]
    shots: int = 10
    new_classes: tuple[str, ...] = ()
    tunings: int = 1


@dataclass(frozen=True)
class Setting:
    """One way of training on one data set.

    Attributes:
        data: what is trained on.
        heads: "ridge" or "sparse" (group and ridge), fitted to every five-way task, or "softmax",
            one layer for all classes that is trained with the backbone.
        strengths: what is tried: ridge; group as a fraction of lambda_max, besides a ridge of 1; or
            for "softmax" the step size, as a multiple of that of the others.
        hypergradient: of heads that are fitted, as in SparseHeads.
        steps: training steps.
    """

    data: Data
    heads: Literal["ridge", "sparse", "softmax"]
    strengths: tuple[float, ...]
    hypergradient: Hypergradient = "detached"
    steps: int = 200

    def inner(self, strength: float) -> SparseHeads:
        """The heads that are fitted to a support."""
        ridge = Penalty(ridge=strength)
        penalty = ridge if self.heads == "ridge" else Penalty(group=strength, ridge=1.0)
        return SparseHeads(penalty, relative=True, hypergradient=self.hypergradient)


class Sources(NamedTuple):
    """Where tasks come from when one domain is held out."""

    train: ClassTasks
    known: ClassTasks  # test tasks of the training classes
    new: ClassTasks | None  # test tasks of the others


def measure(setting: Setting, seed: int) -> dict[str, Any]:
    """Tune, train and judge: accuracies and usage by name, strengths and how they validated."""
    data = setting.data
    held_out = data.turns[seed % len(data.turns)]
    validation = tune(setting, held_out)
    strength = setting.strengths[int(validation.argmax())]
    sources = _sources_of(data, held_out)
    backbone = train(sources.train, setting, strength, seed)
    tuned = {"strength": strength, "validation": validation.tolist()}
    return tuned | judge(backbone, sources, data.shots, seed)


def tune(setting: Setting, held_out: int) -> Tensor:
    """Mean validation accuracy of each strength where this domain is held out, (strengths,).

    By the ridge probe, whatever the heads, on validation tasks, which are of the domains of
    training. Kept by ``cached``, since all seeds that hold out the domain share it.
    """
    key = ("shift", __version__, str(setting), f"held out: {held_out}, from seed {TUNING_SEED}")
    return cached(
        lambda: torch.stack([_validate(setting, s, held_out) for s in setting.strengths]), key
    )


def _validate(setting: Setting, strength: float, held_out: int) -> Tensor:
    shots, accuracies = setting.data.shots, []
    source = _sources_of(setting.data, held_out).train
    first = TUNING_SEED + held_out * setting.data.tunings
    for seed in range(first, first + setting.data.tunings):
        backbone = train(source, setting, strength, seed)
        probed = _probe(backbone, source, (shots,), seed, split="validation", probes=("ridge",))
        accuracies.append(probed["ridge"][shots].score.mean())
    return torch.stack(accuracies).mean()


def train(source: ClassTasks, setting: Setting, strength: float, seed: int) -> Backbone:
    """Train a backbone by AdamW with a step size that falls to 0 along a cosine."""
    generator = _generator(seed, 0)
    backbone = Backbone(source.input_shape, _FEATURES, seed)
    joint = setting.heads == "softmax"
    loss = _Joint(source, setting) if joint else _Episodes(source, setting, strength)
    parameters = [*backbone.parameters(), *loss.parameters()]
    optimizer = AdamW(parameters, lr=strength * _LR if joint else _LR)
    scheduler = CosineAnnealingLR(optimizer, setting.steps)
    for _ in range(setting.steps):
        optimizer.zero_grad()
        loss(backbone, generator).backward()
        optimizer.step()
        scheduler.step()
    return backbone


class _Episodes(nn.Module):
    """The query loss of heads fitted to the tasks of a step."""

    def __init__(self, source: ClassTasks, setting: Setting, strength: float) -> None:
        super().__init__()
        self.source, self.heads = source, setting.inner(strength)
        self.size = setting.data.shots * source.n_outputs

    def forward(self, backbone: Backbone, generator: torch.Generator) -> Tensor:
        episode = sample_episode(self.source, _TASKS, (self.size, self.size), generator)
        return bilevel_step(backbone, self.heads, episode, self.source.kind).loss


class _Joint(nn.Module):
    """Cross-entropy of all classes at once, on as many examples as the tasks of a step have."""

    def __init__(self, source: ClassTasks, setting: Setting) -> None:
        super().__init__()
        self.source, self.head = source, nn.Linear(_FEATURES, len(source.details["classes"]))
        nn.init.zeros_(self.head.weight)  # which needs no seed
        nn.init.zeros_(self.head.bias)
        self.size = _TASKS * 2 * setting.data.shots * source.n_outputs

    def forward(self, backbone: Backbone, generator: torch.Generator) -> Tensor:
        x, label = self.source.sample_examples(self.size, generator)
        return F.cross_entropy(self.head(backbone(x[None])[0]), label)


def judge(backbone: Backbone, sources: Sources, shots: int, seed: int) -> dict[str, Any]:
    """Probes on fresh test tasks: accuracies by domain, classes and shots, and usage."""
    seen = _probe(backbone, sources.known, (shots,), seed)
    away = _probe(backbone, sources.known, sorted({*SHOTS, shots}), seed, held_out=True)
    numbers = {f"seen_{probe}": _accuracy(seen, probe, shots) for probe in PROBES}
    numbers |= {f"held_out_{probe}": _accuracy(away, probe, shots) for probe in PROBES}
    numbers |= {f"shots_{k}_{probe}": _accuracy(away, probe, k) for k in SHOTS for probe in PROBES}
    if sources.new:
        new = _probe(backbone, sources.new, (shots,), seed, held_out=True)
        numbers |= {f"new_{probe}": _accuracy(new, probe, shots) for probe in PROBES}
    usage = seen["sparse"][shots].summary()
    return numbers | {key: usage[key] for key in ("features_per_task", "effective_features")}


def _accuracy(probed: Mapping[str, Mapping[int, Evaluation]], probe: str, shots: int) -> float:
    return probed[probe][shots].score.mean().item()


@torch.no_grad()
def _probe(
    backbone: Backbone,
    source: ClassTasks,
    shots: Sequence[int],
    seed: int,
    *,
    split: Split = "test",
    held_out: bool = False,
    probes: Sequence[str] = tuple(PROBES),
) -> dict[str, dict[int, Evaluation]]:
    """Each probe on frozen features of the same tasks, by samples of a class."""
    size, generator = max(shots) * source.n_outputs, _generator(seed, 1 + held_out)
    options: dict[str, Any] = {"split": split, "held_out": held_out}
    episodes = []
    with evaluation_mode(backbone):
        for _ in range(_BATCHES):
            drawn = sample_episode(source, _BATCH, (size, size), generator, **options)
            episodes.append(Episode(backbone(drawn.x), drawn.y, size))
    return {name: few_shot(nn.Identity(), PROBES[name], episodes, shots) for name in probes}


def _sources_of(data: Data, held_out: int) -> Sources:
    known = _load(data, held_out)
    if not data.new_classes:
        return Sources(known, known, None)
    new = _load(data, held_out, data.new_classes)
    rest = tuple(name for name in known.details["classes"] if name not in data.new_classes)
    return Sources(new, _load(data, held_out, rest), new)


@lru_cache(maxsize=8)  # one seed's of all data sets
def _load(data: Data, held_out: int, test_classes: tuple[str, ...] = ()) -> ClassTasks:
    options = dict(data.options) | ({"test_classes": test_classes} if test_classes else {})
    return cast(ClassTasks, load(data.name, held_out=held_out, **options))


def _generator(seed: int, stream: int) -> torch.Generator:
    """Streams: 0 training, 1 judging in seen domains, 2 in the held-out one."""
    return torch.Generator().manual_seed(3 * seed + stream)
