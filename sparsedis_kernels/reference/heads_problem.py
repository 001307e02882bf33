"""The penalised problem of a batch of tasks, ready to be solved."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsedis_kernels.reference.heads_batch import (
    Batch,
    Layout,
    make_batch,
    not_finite,
    per_task,
)
from sparsedis_kernels.reference.losses import LOSSES, Loss, Squared, best_bias
from sparsedis_kernels.reference.strengths import (
    Strengths,
    StrengthTensors,
    effective_strengths,
)


@dataclass(frozen=True)
class HeadsProblem:
    """sum_ti p_ti l(z_ti W_t + b_t; y_ti) + Omega(W), and W >= 0 if `nonneg`.

    Levels that act nowhere are None; the ridge is always there, floor included. With a shared
    level the tasks are coupled. The squared loss of centred rows is 1/2 ||A W - B||^2.
    """

    loss: Loss
    z: Tensor  # (T, n, M), centred where there is an intercept
    y: Tensor  # (T, n, C), centred for the squared loss
    p: Tensor  # (T, n, 1)
    limit: Tensor  # of the bias, where no finite one is best, else 0: (T, 1, C)
    fit_intercept: bool
    levels: Strengths  # (T, M, 1); shared (1, M, 1)
    ridge: Tensor  # (T, M, 1)
    floor: Tensor  # d ridge / d sum_i A_ij^2, not 0 on unpenalised features: (T, M, 1)
    nonneg: bool

    @property
    def design(self) -> Tensor:
        """A = sqrt(p) z: (T, n, M)."""
        return self.p.sqrt() * self.z

    @property
    def target(self) -> Tensor:
        """B = sqrt(p) y: (T, n, C)."""
        return self.p.sqrt() * self.y

    @property
    def coupled(self) -> bool:
        """Say whether the shared level ties the tasks together."""
        return self.levels.shared is not None

    @property
    def quadratic(self) -> bool:
        """Say whether the problem is linear: nothing but the ridge acts on a squared loss."""
        levels = (self.levels.l1, self.levels.group, self.levels.shared)
        free = not self.nonneg and all(level is None for level in levels)
        return free and isinstance(self.loss, Squared)

    @property
    def few_rows(self) -> bool:
        """Say whether A A' is smaller than A'A."""
        return self.z.shape[1] < self.z.shape[2]

    def select(self, tasks: Tensor) -> HeadsProblem:
        """Keep some of the tasks of an uncoupled problem."""
        l1, group = (x if x is None else x[tasks] for x in self.levels[:2])
        return replace(
            self,
            z=self.z[tasks],
            y=self.y[tasks],
            p=self.p[tasks],
            limit=self.limit[tasks],
            levels=self.levels._replace(l1=l1, group=group, ridge=self.ridge[tasks]),
            ridge=self.ridge[tasks],
            floor=self.floor[tasks],
        )

    def bias(self, scores: Tensor, start: Tensor | None = None) -> Tensor:
        """Finite part of the best bias for z W, after centring: (T, 1, C)."""
        zero = scores.new_zeros(len(scores), 1, scores.shape[2])
        if isinstance(self.loss, Squared) or not self.fit_intercept:
            return zero
        start = zero if start is None else start
        return best_bias(self.loss, scores, self.y, self.p, self.limit, start)

    def scores(self, w: Tensor) -> Tensor:
        """z W + b with the best bias: (T, n, C)."""
        scores = self.z @ w
        return scores + self.bias(scores) + self.limit

    def correlate(self, residual: Tensor) -> Tensor:
        """sum_i p_i z_i' residual_i: (T, M, C)."""
        return self.z.mT @ (self.p * residual)

    def loss_at(self, scores: Tensor) -> Tensor:
        """sum_i p_i l(scores_i; y_i), less the least that any scores can reach: (T,)."""
        return self.mean_of(self.loss.divergence(self.y, scores))

    def mean_of(self, rows: Tensor) -> Tensor:
        """sum_i p_i of rows (T, n): (T,). One without weight may be infinite, as past a task's."""
        p = self.p[:, :, 0]
        return (p * torch.where(p > 0, rows, 0)).sum(1)


def make_problem(
    layout: Layout,
    z: Tensor,
    y: Tensor,
    sample_weight: Tensor | None,
    loss: int,
    strengths: StrengthTensors,
    scale: list[float],
    nonneg: bool,
    fit_intercept: bool,
    bad: Tensor | None = None,
) -> tuple[HeadsProblem, Batch]:
    """Assemble the problem; tasks with NaN or infinity anywhere are emptied and marked bad."""
    size = (layout.tasks, z.shape[-1], 1)
    like = z.new_empty(0, dtype=torch.float64)
    levels = effective_strengths(like, strengths, scale)
    dropped = bad_strengths(levels, size, z.device)
    kind = LOSSES[loss]
    batch = make_batch(
        layout, z, y, sample_weight, kind, fit_intercept, dropped if bad is None else dropped | bad
    )
    levels = clean_levels(levels, size, batch.bad)
    limit = kind.limit(batch.y, batch.p, fit_intercept)
    share = 1e-10 if z.dtype == torch.float64 else 1e-6
    ridge, floor = floored_ridge(levels, curvature_of_design(batch.p, batch.z), share)
    levels = levels._replace(ridge=ridge)
    data = (batch.z, batch.y, batch.p, limit, fit_intercept)
    return HeadsProblem(kind, *data, levels, ridge, floor, nonneg), batch


def curvature_of_design(p: Tensor, z: Tensor) -> Tensor:
    """Diagonal h_tj = sum_i p_i z_ij^2 of the Gram matrices: (T, M, 1)."""
    return (p * z.square()).sum(1)[:, :, None]


def bad_strengths(levels: Strengths, size: tuple[int, int, int], device: torch.device) -> Tensor:
    """Say which tasks have a strength that is NaN or infinite: (T,)."""
    bad = torch.zeros(size[0], dtype=torch.bool, device=device)
    for level in levels:
        bad = bad if level is None else bad | not_finite(level.expand(size))
    return bad


def clean_levels(levels: Strengths, size: tuple[int, int, int], bad: Tensor) -> Strengths:
    """Shape the levels (T, M, 1), 0 on bad tasks, and drop those that act nowhere."""

    def clean(level: Tensor | None, shared: bool) -> Tensor | None:
        if level is None:
            return None
        shape = (1, *size[1:]) if shared else size
        unusable = bad.all() if shared else per_task(bad, 3)
        level = torch.where(unusable, 0, level.expand(shape))
        return level if bool((level > 0).any()) else None

    return Strengths(*(clean(level, k == 2) for k, level in enumerate(levels)))


def unpenalised(levels: Strengths, like: Tensor) -> Tensor:
    """Mark the features of each task on which no level acts: (T, M, 1), bool."""
    acting = torch.zeros_like(like)
    for level in levels:
        acting = acting if level is None else acting + level
    return acting == 0


def floored_ridge(levels: Strengths, curvature: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Ridge that leaves no feature without curvature, and its slope in h; both (T, M, 1).

    An unpenalised feature gets share h_tj, h_tj = sum_i A_ij^2, or 1 where h is 0, so that every
    problem is strictly convex in it.
    """
    ridge = torch.zeros_like(curvature) if levels.ridge is None else levels.ridge
    lifted = unpenalised(levels, curvature)
    slope = share * (lifted & (curvature > 0)).to(curvature.dtype)
    return torch.where(lifted, torch.where(curvature > 0, slope * curvature, 1), ridge), slope
