"""The entropy of feature usage in the inner problem: a descent by reweighted convex problems."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sparsedis_kernels.ops._define import raw
from sparsedis_kernels.ops._samples import task_count
from sparsedis_kernels.ops.feature_usage import entropy_of_usage
from sparsedis_kernels.penalty import SHARING_FLOOR
from sparsedis_kernels.reference.heads_batch import layout_of, not_finite
from sparsedis_kernels.reference.heads_gap import objective
from sparsedis_kernels.reference.heads_problem import make_problem

MAX_STEPS, MAX_HALVINGS = 50, 5
SMALL_FALL = 1e-4  # of the objective at zero weights, which every loss's default tol resolves
ROUNDING = 1e-13  # of the objective at zero weights: what sums in float64 may err by


class Heads(NamedTuple):
    """The arguments of the raw op `fit_heads` that state a problem."""

    z: Tensor
    y: Tensor
    offsets: Tensor | None
    sample_weight: Tensor | None
    loss: int
    l1: Tensor | None
    group: Tensor | None
    shared: Tensor | None
    ridge: Tensor | None
    scale: list[float]
    nonneg: bool
    fit_intercept: bool

    @property
    def l1_per_group(self) -> Tensor:
        """The l1 strength of every (task, feature): (T, M)."""
        T, M = task_count(self.z, self.y, self.offsets), self.z.shape[-1]
        l1 = self.z.new_ones(T, M) if self.l1 is None else self.l1
        return self.scale[0] * l1

    def reweighted(self, v: Tensor) -> Heads:
        """The problem with v (M,) added to the l1 strength of every feature."""
        return self._replace(l1=self.l1_per_group + v, scale=[1.0, *self.scale[1:]])


class Usage(NamedTuple):
    """How the tasks that are not marked with NaN use the features, in float64."""

    magnitude: Tensor  # (M,)
    entropy: Tensor  # floored, ()
    slope: Tensor  # (M,)
    tasks: Tensor  # their number, ()


def usage_of(ns: str, weight: Tensor) -> Usage:
    """The usage at weights (T, M, C), tasks with NaN left out."""
    good = ~not_finite(weight)
    w = torch.where(good[:, None, None], weight, 0).double()
    magnitude = raw(ns, "feature_usage")(w)[0]
    _, entropy, slope = entropy_of_usage(magnitude, SHARING_FLOOR)
    return Usage(magnitude, entropy, slope, good.sum())


def lowest_v(l1: Tensor, weight: Tensor) -> Tensor:
    """The least v (M,) that leaves the l1 strengths (T, M) of tasks without NaN >= 0."""
    l1 = torch.where(not_finite(weight)[:, None], torch.inf, l1)
    return -torch.cat([l1, l1.new_full((1, l1.shape[1]), torch.inf)]).amin(0)


class Iterate(NamedTuple):
    """A solution of the problem reweighted by v, and what the whole objective says of it."""

    v: Tensor  # (M,)
    solution: tuple[Tensor, ...]  # what the raw op fit_heads returns
    objective: float  # J
    target: Tensor  # sharing T dH/da, clamped where it would leave an l1 strength < 0: (M,)


class SharingProblem:
    r"""J(W) = sum_t loss_t + Omega(W) + sharing T H(p(W)), with H floored by `SHARING_FLOOR`.

    T counts the tasks that are not marked bad, those without samples too. J(0) = sum_t loss_t,
    since H is 0 there.
    """

    def __init__(self, ns: str, heads: Heads, sharing: Tensor, tol: float, max_iter: int) -> None:
        self.ns, self.heads, self.sharing = ns, heads, sharing
        self.tol, self.max_iter = tol, max_iter
        layout, h = layout_of(heads.z, heads.y, heads.offsets), heads
        self.convex, _ = make_problem(
            layout, h.z, h.y, h.sample_weight, h.loss, (h.l1, h.group, h.shared, h.ridge), h.scale,
            h.nonneg, h.fit_intercept,
        )  # fmt: skip
        zero = torch.zeros_like(self.convex.correlate(self.convex.y))
        self.at_zero = float(objective(self.convex, zero))
        self.n_iter: Tensor | int = 0  # (T,), over all solves

    def solve(self, v: Tensor, start: Tensor | None) -> Iterate:
        """The solution of the problem reweighted by v; for v = 0 the plain one, to the bit."""
        heads = self.heads.reweighted(v) if bool(v.any()) else self.heads
        solution = raw(self.ns, "fit_heads")(*heads, start, self.tol, self.max_iter)
        self.n_iter = self.n_iter + solution[3]
        usage = usage_of(self.ns, solution[0])
        strength = self.sharing.double() * usage.tasks
        w = torch.nan_to_num(solution[0].double())
        value = float(objective(self.convex, w) + strength * usage.entropy)
        lowest = lowest_v(self.heads.l1_per_group, solution[0])
        target = (strength * usage.slope).to(v.dtype).maximum(lowest)
        return Iterate(v, solution, value, target)

    def step(self, current: Iterate) -> Iterate | None:
        """The first of the full step to the target and its halves that J does not rise on."""
        for k in range(MAX_HALVINGS + 1):
            v = current.v.lerp(current.target, 0.5**k)
            following = self.solve(v, current.solution[0])
            if following.objective <= current.objective + ROUNDING * self.at_zero:
                return following
        return None

    def iterates(self, init: Tensor | None) -> Iterator[Iterate]:
        r"""Solutions of reweighted problems along which J does not rise.

        W(v) minimises the convex F_v = sum_t loss_t + Omega + sum_m v_m a_m, a_m = sum_tc |W_tmc|,
        with v >= -min_t l1_tm. A step goes from v towards w = sharing T dH/da at W(v), clamped, as
        an iteratively reweighted l1 does (Candes, Wakin and Boyd 2008), and is halved until J does
        not rise.

        J falls to first order where nothing is clamped: let a' be the derivative of a(W(v)) along
        w - v. Since F_v is stationary at W(v), that of J is <w - v, a'>, and it is <= 0, since a
        minimiser's a(W(v)) is a monotone decreasing function of v. It is 0 only where a does not
        move, as at a fixed point v = w. Not guaranteed: a global minimum; where weights are
        clamped, descent to first order, so that the scheme may stop short of a local minimum.

        Solutions are exact to their gap, and so J is compared as computed, up to its rounding: a
        solver's error may end the scheme early, but cannot raise J. It ends where J falls by
        at most min(tol, SMALL_FALL) of J(0), which is what the solver resolves, at a fixed point,
        where no step is accepted, or after MAX_STEPS.
        """
        current = self.solve(self.heads.z.new_zeros(self.heads.z.shape[-1]), init)
        yield current
        for _ in range(MAX_STEPS):
            if _is_fixed(current):
                return
            following = self.step(current)
            if following is None:
                return
            yield following
            if current.objective - following.objective <= min(self.tol, SMALL_FALL) * self.at_zero:
                return
            current = following


def _is_fixed(at: Iterate) -> bool:
    """Whether a full step would move v by rounding only."""
    eps = torch.finfo(at.v.dtype).eps
    return bool((at.target - at.v).norm() <= 4 * eps * at.target.norm())
