"""Sparse linear heads of many tasks: the penalised fit."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsedis_kernels.reference.heads_batch import layout_of, not_finite, per_task
from sparsedis_kernels.reference.heads_gap import relative_gap
from sparsedis_kernels.reference.heads_problem import HeadsProblem, make_problem
from sparsedis_kernels.reference.losses import Squared
from sparsedis_kernels.reference.prox import soft_threshold, solve_tree

CHECK_EVERY = 10


def ridge_system(problem: HeadsProblem) -> Tensor:
    """A'A + D, D the ridge, (T, M, M); with few rows A D^-1 A' + I, (T, n, n)."""
    a, ridge = problem.design, problem.ridge
    if problem.few_rows:
        eye = torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
        return a @ (a.mT / ridge) + eye
    return a.mT @ a + torch.diag_embed(ridge.squeeze(2))


def solve_ridge(problem: HeadsProblem) -> Tensor:
    """(A'A + D)^-1 A'B = D^-1 A' (A D^-1 A' + I)^-1 B; NaN where a factor fails: (T, M, C)."""
    a, b = problem.design, problem.target
    if problem.few_rows:
        return (a.mT / problem.ridge) @ solve_spd(ridge_system(problem), b)
    return solve_spd(ridge_system(problem), a.mT @ b)


def solve_spd(matrix: Tensor, rhs: Tensor) -> Tensor:
    """Solve with a positive definite matrix; NaN for a task where it numerically is not."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    solution = torch.cholesky_solve(rhs, factor)
    return torch.where((info == 0)[:, None, None], solution, torch.nan)


class Quadratic(NamedTuple):
    """The squared loss as proximal gradient steps need it."""

    lipschitz: Tensor  # largest eigenvalue of A'A, or 1 where A is 0: (T, 1, 1)
    operator: Tensor  # A'A (T, M, M) if it is the smaller, else A (T, n, M)
    correlation: Tensor  # A'B, (T, M, C)

    def gradient(self, problem: HeadsProblem, w: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """A'(A w - B), (T, M, C), and the bias, which is 0."""
        image = self.operator @ w
        square = self.operator.shape[1] == self.operator.shape[2]
        return (image if square else self.operator.mT @ image) - self.correlation, bias


class Curved(NamedTuple):
    """Any other loss as proximal gradient steps need it."""

    lipschitz: Tensor  # the loss's curvature times the largest eigenvalue of A'A: (T, 1, 1)

    def gradient(self, problem: HeadsProblem, w: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of the loss minimised over the bias, and that bias, found from `bias`."""
        scores = problem.z @ w
        bias = problem.bias(scores, bias)
        mean = problem.loss.mean(scores + bias + problem.limit)
        return problem.correlate(mean - problem.y), bias


def make_smooth(problem: HeadsProblem) -> Quadratic | Curved:
    """Choose the smaller side and find the step size, by the exact eigenvalues of its Gram."""
    a = problem.design
    gram = a @ a.mT if problem.few_rows else a.mT @ a
    if gram.shape[1]:
        largest = torch.linalg.eigvalsh(gram).amax(1)[:, None, None]
    else:
        largest = a.new_zeros(a.shape[0], 1, 1)
    # Eigenvalues err by rounding, and the step must not be too long.
    lipschitz = torch.where(largest > 0, problem.loss.curvature * largest * (1 + 1e-12), 1)
    if not isinstance(problem.loss, Squared):
        return Curved(lipschitz)
    return Quadratic(lipschitz, a if problem.few_rows else gram, a.mT @ problem.target)


class Iterate(NamedTuple):
    """State of the accelerated proximal gradient method."""

    w: Tensor  # (T, M, C)
    extrapolated: Tensor  # (T, M, C)
    momentum: Tensor  # (T, 1, 1)
    bias: Tensor  # best at the extrapolated point before: (T, 1, C)


def advance(problem: HeadsProblem, smooth: Quadratic | Curved, state: Iterate) -> Iterate:
    """One step of FISTA (Beck and Teboulle 2009) in the metric of the tasks' Lipschitz constants.

    The momentum restarts where it points uphill (O'Donoghue and Candes 2015): per task, or for
    all of them at once if they are coupled.
    """
    metric, levels = smooth.lipschitz, problem.levels
    gradient, bias = smooth.gradient(problem, state.extrapolated, state.bias)
    u = metric * state.extrapolated - gradient
    u = soft_threshold(u, levels.l1, problem.nonneg)
    w = solve_tree(u, metric + problem.ridge, levels.group, levels.shared)
    moved = w - state.w
    uphill = (metric * (state.extrapolated - w) * moved).sum((1, 2), keepdim=True)
    uphill = uphill.sum(0, keepdim=True) if problem.coupled else uphill
    following = (1 + (1 + 4 * state.momentum.square()).sqrt()) / 2
    momentum = torch.where(uphill > 0, 1, following)
    inertia = torch.where(uphill > 0, 0, (state.momentum - 1) / following)
    return Iterate(w, w + inertia * moved, momentum, bias)


def solve_proximal(
    problem: HeadsProblem, start: Tensor, tol: float, max_iter: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Iterate every task until its gap, certified on the weights in `dtype`, meets `tol`.

    Returns the weights (T, M, C) and the iterations (T,). Tasks that are done leave the batch.
    """
    smooth, done = make_smooth(problem), 0
    state = Iterate(start, start, torch.ones_like(smooth.lipschitz), torch.zeros_like(start[:, :1]))
    steps = torch.zeros(len(start), dtype=torch.int32, device=start.device)
    active = (relative_gap(problem, rounded(start, dtype)) > tol).nonzero()[:, 0]
    while len(active) and done < max_iter:
        part = problem if problem.coupled else problem.select(active)
        local = type(smooth)(*(x[active] for x in smooth))
        current = Iterate(*(x[active] for x in state))
        count = min(CHECK_EVERY, max_iter - done)
        for _ in range(count):
            current = advance(part, local, current)
        done += count
        steps = steps.index_fill(0, active, done)
        moved = zip(state, current, strict=True)
        state = Iterate(*(old.index_copy(0, active, new) for old, new in moved))
        active = active[relative_gap(part, rounded(current.w, dtype)) > tol]
    return state.w, steps


def solve_heads(
    problem: HeadsProblem, start: Tensor, tol: float, max_iter: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Solve directly if the problem is quadratic; iterate otherwise, or where a factor failed."""
    if not problem.quadratic:
        return solve_proximal(problem, start, tol, max_iter, dtype)
    direct = solve_ridge(problem)
    failed = not_finite(direct)
    n_iter = torch.zeros(len(start), dtype=torch.int32, device=start.device)
    if bool(failed.any()):
        tasks = failed.nonzero()[:, 0]
        part = solve_proximal(problem.select(tasks), start[tasks], tol, max_iter, dtype)
        direct, n_iter = direct.index_copy(0, tasks, part[0]), n_iter.index_copy(0, tasks, part[1])
    return direct, n_iter


def rounded(w: Tensor, dtype: torch.dtype) -> Tensor:
    """Pass through the caller's precision, so that the gap is that of the weights returned."""
    return w.to(dtype).double()


def starting_point(problem: HeadsProblem, init: Tensor | None, bad: Tensor) -> Tensor:
    """Feasible warm start; 0 where it is missing, bad, or the target leaves nothing to fit."""
    zero = torch.zeros_like(problem.correlate(problem.y))
    if init is None:
        return zero
    idle = bad | (problem.loss_at(problem.scores(zero)) == 0)
    start = torch.where(per_task(idle, 3) | (problem.limit != 0), 0, init.double())
    return start.clamp_min(0) if problem.nonneg else start


def fit_heads(
    z: Tensor,
    y: Tensor,
    offsets: Tensor | None,
    sample_weight: Tensor | None,
    loss: int,
    l1: Tensor | None,
    group: Tensor | None,
    shared: Tensor | None,
    ridge: Tensor | None,
    scale: list[float],
    nonneg: bool,
    fit_intercept: bool,
    init: Tensor | None,
    tol: float,
    max_iter: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Minimise sum_ti p_ti l(z_ti W_t + b_t; y_ti) + Omega(W), p = s_i / sum s.

    l is `LOSSES[loss]`, Omega as in `prox`. Layouts: dense z (T, n, M), y (T, n, C); ragged z
    (N, M), y (N, C) with `offsets` (T + 1,); one design for all tasks z (n, M), y (T, n, C).
    `sample_weight` s >= 0 is (T, n), (N,), or (n,) or (T, n) for a shared design. The intercept b
    is not penalised. A feature on which no level acts gets a ridge of 1e-10 (1e-6 below float64) of
    its curvature.

    A squared loss without l1, group, shared and sign constraint is solved directly; else there is
    accelerated proximal gradient (Beck and Teboulle 2009), from `init` or 0, until the relative
    duality gap is <= `tol` or `max_iter` is reached. Arithmetic is in float64: in float32 the
    iteration floors near a gap of 1e-6.

    Returns weight (T, M, C), bias (T, C), gap (T,), n_iter (T,) and status (T,) in int32: 0
    converged, 1 not, 2 NaN or infinity in the task, a negative sample weight or a target that the
    loss does not take; then weight, bias and gap are NaN. A task without rows or weight has
    weight, bias and gap 0.
    """
    layout = layout_of(z, y, offsets)
    given = None if init is None else not_finite(init)
    strengths = (l1, group, shared, ridge)
    problem, batch = make_problem(
        layout, z, y, sample_weight, loss, strengths, scale, nonneg, fit_intercept, given
    )
    weight, n_iter = solve_heads(
        problem, starting_point(problem, init, batch.bad), tol, max_iter, z.dtype
    )
    final = rounded(weight, z.dtype).contiguous()
    gap = relative_gap(problem, final)
    bias = problem.bias(problem.z @ final) + batch.y_mean - batch.z_mean @ final
    bias = (problem.loss.determined(bias, problem.limit == 0) + problem.limit).squeeze(1)
    status = torch.where(batch.bad, 2, (gap > tol).int()).int()
    weight, bias, gap = (
        torch.where(per_task(batch.bad, x.dim()), torch.nan, x).to(z.dtype)
        for x in (final, bias, gap)
    )
    return weight, bias, gap, n_iter, status
