"""Trains an encoder on tasks that are sparse in the factors, and judges its codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from sparsedis_kernels import metrics
from sparsedis_kernels.data.shapes import add_noise
from sparsedis_kernels.evidence.worlds import Encoder, K, Mixed, Scenes, World, draw_tasks
from sparsedis_kernels.nn import Hypergradient, SparseHeads
from sparsedis_kernels.optim import ProxAdamW
from sparsedis_kernels.penalty import Penalty
from sparsedis_kernels.training.episodes import Episode
from sparsedis_kernels.training.evaluate import evaluate

_LR = 2e-3
_KEPT_LR = 1e-2  # of heads that are kept
_JUDGED = 4000  # samples
_JUDGED_TREES = 1500  # of them for the trees
_TEST_BATCHES, _TEST_TASKS, _TEST_SAMPLES = 10, 20, 50  # 200 tasks, 50 support and 50 query
_READ_OUT = SparseHeads(Penalty(ridge=1e-4))  # in effect least squares


@dataclass(frozen=True)
class Setting:
    """One training: the world, its tasks and the heads.

    Attributes:
        world: "mixed" or "scenes".
        correlation: of the factors' copula while training and in test tasks.
        penalty: strengths of the heads by level, as in Penalty.
        relative, hypergradient, unrolled_steps: as in SparseHeads.
        features: M.
        outputs: C.
        dense: tasks depend on all factors, not on a random subset.
        pool: number of tasks that there are, or 0 for fresh tasks at every step.
        kept: the heads of the pool are parameters, moved by one proximal step of AdamW with the
            encoder's, instead of being fitted anew. `penalty` is absolute, and `tasks` = `pool`.
        split: heads are fitted to the first half of a task's samples and judged on the second;
            otherwise both on all.
        steps, tasks, samples: training steps, tasks of a step, samples of a task.
    """

    world: Literal["mixed", "scenes"] = "mixed"
    correlation: float = 0.0
    penalty: Mapping[str, Any] = field(default_factory=dict)
    relative: bool = True
    hypergradient: Hypergradient = "detached"
    unrolled_steps: int = 1
    features: int = 6
    outputs: int = 1
    dense: bool = False
    pool: int = 0
    kept: bool = False
    split: bool = False
    steps: int = 1000
    tasks: int = 16
    samples: int = 50

    def heads(self) -> SparseHeads:
        """The heads that are fitted to a support."""
        return SparseHeads(
            Penalty(**self.penalty),
            relative=self.relative,
            hypergradient=self.hypergradient,
            unrolled_steps=self.unrolled_steps,
        )


def measure(setting: Setting, seed: int) -> dict[str, Any]:
    """Train and judge: numbers by name, and ``correlation``, |corr| of codes and factors (M, 6)."""
    world = _world(setting, seed)
    encoder = train(world, setting, seed)
    generator = _generator(seed, 2)
    return _codes(world, encoder, setting, generator) | _tasks(world, encoder, setting, generator)


def train(world: World, setting: Setting, seed: int) -> Encoder:
    """Train an encoder by AdamW with a step size that falls to 0 along a cosine."""
    generator, s = _generator(seed, 1), setting
    encoder = Encoder(world, s.features, seed)
    pool = draw_tasks(s.pool, s.outputs, s.dense, generator)
    loss = _Kept(s) if s.kept else _Fitted(s)
    groups: list[dict[str, Any]] = [{"params": list(encoder.parameters())}]
    if isinstance(loss, _Kept):
        groups.append({"params": [loss.weight], "penalty": Penalty(**s.penalty), "lr": _KEPT_LR})
    optimizer = ProxAdamW(groups, lr=_LR, weight_decay=0.0)
    scheduler = CosineAnnealingLR(optimizer, s.steps)
    for _ in range(s.steps):
        weight = _step_tasks(pool, s, generator)
        x, y = _draw(world, weight, s, s.samples, generator)
        optimizer.zero_grad()
        loss(encoder(x), y).backward()
        optimizer.step()
        scheduler.step()
    return encoder.eval()


class _Fitted:
    """Half the mean squared query error of heads fitted to the support."""

    def __init__(self, setting: Setting) -> None:
        self.heads, self.split = setting.heads(), setting.split

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        half = z.shape[1] // 2
        support, query = (slice(half), slice(half, None)) if self.split else 2 * (slice(None),)
        prediction = self.heads.predict(self.heads(z[:, support], y[:, support]), z[:, query])
        return (prediction - y[:, query]).square().sum(2).mean() / 2


class _Kept:
    """The same error of heads that stay from step to step; tasks are summed, as in `fit_heads`."""

    def __init__(self, setting: Setting) -> None:
        self.weight = nn.Parameter(torch.zeros(setting.pool, setting.features, setting.outputs))

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        return (z @ self.weight - y).square().sum(2).mean(1).sum() / 2


def _step_tasks(pool: Tensor, setting: Setting, generator: torch.Generator) -> Tensor:
    """Weights of a step's tasks, (T, 6, C); kept heads have theirs at every step."""
    if setting.kept:
        return pool
    if setting.pool:
        return pool[torch.randint(setting.pool, (setting.tasks,), generator=generator)]
    return draw_tasks(setting.tasks, setting.outputs, setting.dense, generator)


def _draw(
    world: World, weight: Tensor, setting: Setting, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Inputs (T, n, ...) and noisy targets (T, n, C) of tasks with these weights."""
    factors, x = world.sample(len(weight) * n, setting.correlation, generator)
    y = add_noise(factors.view(len(weight), n, -1) @ weight, generator)
    return x.unflatten(0, (len(weight), n)), y


@torch.no_grad()
def _codes(
    world: World, encoder: Encoder, setting: Setting, generator: torch.Generator
) -> dict[str, Any]:
    """How well codes recover the factors, on independent ones and on those of the training law."""
    factors, x = world.sample(_JUDGED, 0.0, generator)
    law, x_law = world.sample(_JUDGED, setting.correlation, generator)
    codes, codes_law = encoder(x[None])[0], encoder(x_law[None])[0]
    trees = metrics.dci(codes[:_JUDGED_TREES], factors[:_JUDGED_TREES])
    linear = metrics.dci(codes, factors, variant="linear")
    return {
        "mcc": metrics.mcc(codes, factors),
        "mcc_law": metrics.mcc(codes_law, law),
        "dci_gbt": trees.disentanglement,
        "dci_linear": linear.disentanglement,
        "informativeness": linear.informativeness,
        "correlation": torch.corrcoef(torch.cat([codes, factors], 1).T)[:-K, -K:].abs().tolist(),
    }


def _tasks(
    world: World, encoder: Encoder, setting: Setting, generator: torch.Generator
) -> dict[str, Any]:
    """How well fresh tasks are solved, by the arm's heads and by least squares, and with what."""
    episodes = []
    for _ in range(_TEST_BATCHES):
        weight = draw_tasks(_TEST_TASKS, setting.outputs, setting.dense, generator)
        x, y = _draw(world, weight, setting, 2 * _TEST_SAMPLES, generator)
        episodes.append(Episode(x, y, _TEST_SAMPLES))
    own = evaluate(encoder, setting.heads(), episodes, "regression")
    summary = own.summary()
    return {
        "r2_own": summary["score"],
        "r2_ridge": evaluate(encoder, _READ_OUT, episodes, "regression").score.mean().item(),
        "features_per_task": summary["features_per_task"],
        "effective_features": summary["effective_features"],
        "used_features": float((own.weight != 0).any(0).any(1).sum()),
    }


def _world(setting: Setting, seed: int) -> World:
    return Mixed(_generator(seed, 0)) if setting.world == "mixed" else Scenes()


def _generator(seed: int, stream: int) -> torch.Generator:
    """Streams: 0 the world, 1 training, 2 judging."""
    return torch.Generator().manual_seed(3 * seed + stream)
