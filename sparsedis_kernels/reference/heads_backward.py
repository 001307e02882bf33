"""Derivative of the fitted heads by implicit differentiation on their support."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedis_kernels.reference.heads import ridge_system, solve_spd
from sparsedis_kernels.reference.heads_batch import (
    Batch,
    Layout,
    layout_of,
    not_finite,
    per_task,
)
from sparsedis_kernels.reference.heads_problem import (
    HeadsProblem,
    curvature_of_design,
    make_problem,
)
from sparsedis_kernels.reference.prox import norm, solve_prox_hessian
from sparsedis_kernels.reference.strengths import (
    as_output,
    live_entries,
    safe_reciprocal,
)

TOLERANCE = 1e-12


@dataclass(frozen=True)
class Curvature:
    """The Hessian of the loss at a solution, with the bias eliminated."""

    problem: HeadsProblem
    mean: Tensor  # of the loss at the solution, (T, n, C)
    of_bias: Tensor | None  # (T, C, C); None without an intercept

    @staticmethod
    def at(problem: HeadsProblem, w: Tensor) -> Curvature:
        """The curvature at the weights w."""
        mean = problem.loss.mean(problem.scores(w))
        of_bias = problem.loss.bias_hessian(mean, problem.p) if problem.fit_intercept else None
        return Curvature(problem, mean, of_bias)

    def bias_for(self, pull: Tensor) -> Tensor:
        """The bias that answers a pull, (T, 1, C), on it; 0 without an intercept."""
        if self.of_bias is None:
            return torch.zeros_like(pull)
        return torch.linalg.solve(self.of_bias, pull.mT).mT

    def scores(self, u: Tensor, pull: Tensor | float = 0.0) -> Tensor:
        """z u + b for the b that minimises the quadratic model in b, less <pull, b>: (T, n, C)."""
        v = self.problem.z @ u
        drift = (self.problem.p * self.curve(v)).sum(1, keepdim=True)
        return v + self.bias_for(pull - drift)

    def curve(self, v: Tensor) -> Tensor:
        """The Hessian of every row's loss on scores v: (T, n, C)."""
        return self.problem.loss.curve(self.mean, v)


def apply_hessian(curvature: Curvature, w: Tensor, live: Tensor, u: Tensor) -> Tensor:
    """Apply M, the Hessian of the problem at w on its support: (T, M, C).

    M u = z' p Q(z u + b) + ridge u + group (u - wh <wh, u>)/||w_tm||
    + shared (u - Wh <Wh, u>)/||W_m||_F, with Q the Hessian of a row's loss.
    """
    problem = curvature.problem
    result = problem.correlate(curvature.curve(curvature.scores(u))) + problem.ridge * u
    for strength, dim in ((problem.levels.group, (2,)), (problem.levels.shared, (0, 2))):
        if strength is not None:
            inverse = safe_reciprocal(norm(w, dim))
            unit = w * inverse
            along = (unit * u).sum(dim, keepdim=True)
            result = result + strength * inverse * (u - unit * along)
    return torch.where(live, result, 0)


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    rhs: Tensor,
    start: Tensor,
    live: Tensor,
    coupled: bool,
) -> Tensor:
    """Solve apply(x) = rhs, every task by itself or, if coupled, all as one: (T, M, C).

    A task stops at a relative residual of 1e-12, or when as many iterations as it has live
    unknowns have not halved its residual, and keeps the best x it has seen.
    """

    def total(a: Tensor) -> Tensor:
        return a.sum((0, 1, 2) if coupled else (1, 2), keepdim=True)

    x, r = start, rhs - apply(start)
    best, least = x, total(r * r)
    goal, patience = TOLERANCE**2 * total(rhs * rhs), total(live.to(rhs.dtype))
    mark, idle = least, torch.zeros_like(least)
    p = z = precondition(r)
    rz = total(r * z)
    while bool((active := (least > goal) & (idle <= patience)).any()):
        mp = apply(p)
        curvature = total(p * mp)
        length = torch.where(active & (curvature > 0), rz / curvature, 0)
        x, r = x + length * p, r - length * mp
        z, size = precondition(r), total(r * r)
        better, halved = active & (size < least), size < mark / 4
        best, least = torch.where(better, x, best), torch.where(better, size, least)
        mark, idle = torch.where(halved, size, mark), torch.where(halved, 0, idle + 1)
        rz, before = total(r * z), rz
        p = z + torch.where(before > 0, rz / before, 0) * p
    return best


def solve_quadratic(problem: HeadsProblem, rhs: Tensor) -> Tensor:
    """(A'A + D)^-1 rhs through a factor of the smaller side; 0 where the factor fails."""
    a, ridge = problem.design, problem.ridge
    if problem.few_rows:
        inner = solve_spd(ridge_system(problem), a @ (rhs / ridge))
        u = rhs / ridge - (a.mT / ridge) @ inner
    else:
        u = solve_spd(ridge_system(problem), rhs)
    return torch.where(not_finite(u)[:, None, None], 0, u)


def solve_hessian(curvature: Curvature, w: Tensor, rhs: Tensor) -> Tensor:
    """Solve M u = rhs on the support of w, u = 0 off it: (T, M, C).

    Conjugate gradients, preconditioned with the exact inverse of the penalty's Hessian plus the
    diagonal of A'A; a quadratic problem starts from the direct solution.
    """
    problem = curvature.problem
    live = live_entries(w, problem.levels, problem.nonneg) & (problem.limit == 0)
    diagonal = curvature_of_design(problem.p, problem.z) + problem.ridge
    diagonal = torch.where(diagonal > 0, diagonal, 1)
    start = solve_quadratic(problem, rhs) if problem.quadratic else torch.zeros_like(rhs)
    return conjugate_gradient(
        lambda u: apply_hessian(curvature, w, live, u),
        lambda r: solve_prox_hessian(r, w, diagonal, problem.levels, problem.nonneg),
        torch.where(live, rhs, 0),
        start,
        live,
        problem.coupled,
    )


def row_gradients(
    curvature: Curvature, batch: Batch, w: Tensor, u: Tensor, grad_bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z (T, n, M), y (T, n, C) and sample weight (T, n), padded.

    With r_i = mean_i - y_i and q_i = z_i U + u_b: grad_z_i = -p_i (U r_i + W Q_i q_i),
    grad_y_i = p_i q_i, grad_p_i = -<r_i, q_i>, grad_s = (grad_p - sum_i p_i grad_p_i)/sum s. An
    unpenalised feature also moves its own ridge, a share of sum_i p_i (z_ij - mean)^2.
    """
    r, q = curvature.mean - batch.y, curvature.scores(u, grad_bias)
    grad_floor = -(curvature.problem.floor * w * u).sum(2)[:, None, :]  # (T, 1, M)
    grad_z = batch.p * (2 * grad_floor * batch.z - r @ u.mT - curvature.curve(q) @ w.mT)
    grad_p = (grad_floor * batch.z.square()).sum(2, keepdim=True) - (r * q).sum(2, keepdim=True)
    grad_s = (grad_p - (batch.p * grad_p).sum(1, keepdim=True)) * safe_reciprocal(batch.total)
    return grad_z, batch.p * q, grad_s.squeeze(2)


def strength_gradients(
    w: Tensor, u: Tensor, scale: list[float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-<sign W, U>, -<wh, U> (T, M), -<Wh, U> (M,) and -<W, U> (T, M), times their scale."""
    unit, feature = (w * safe_reciprocal(norm(w, dim)) for dim in ((2,), (0, 2)))
    return (
        -scale[0] * (w.sign() * u).sum(2),
        -scale[1] * (unit * u).sum(2),
        -scale[2] * (feature * u).sum((0, 2)),
        -scale[3] * (w * u).sum(2),
    )


def fit_heads_backward(
    grad_weight: Tensor,
    grad_bias: Tensor,
    weight: Tensor,
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
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Vector-Jacobian product of `fit_heads` at its solution `weight`, by implicit differentiation.

    With M the Hessian on the support and the intercept eliminated, M U is grad_weight less what
    eliminating it takes of grad_bias (Bertrand et al. 2022). Returns the gradients of z, y and
    sample_weight in their layouts, summed over tasks where these share them, then of l1, group
    (T, M), shared (M,), ridge (T, M); `needs` says which are wanted, the rest are empty. A task
    whose weight or cotangent holds NaN or infinity gets NaN and adds nothing to what the tasks
    share.
    """
    layout = layout_of(z, y, offsets)
    inputs = (weight, grad_weight, grad_bias)
    bad = torch.stack([not_finite(x) for x in inputs]).any(0)
    strengths = (l1, group, shared, ridge)
    problem, batch = make_problem(
        layout, z, y, sample_weight, loss, strengths, scale, nonneg, fit_intercept, bad
    )
    w, grad_w, grad_b = (torch.where(per_task(batch.bad, x.dim()), 0, x.double()) for x in inputs)
    curvature = Curvature.at(problem, w)
    grad_b = grad_b[:, None, :] * float(fit_intercept)  # (T, 1, C)
    grad_b = problem.loss.determined(grad_b, problem.limit == 0)
    grad_w = grad_w - batch.z_mean.mT @ grad_b
    answer = curvature.curve(curvature.bias_for(grad_b).expand_as(curvature.mean))
    u = solve_hessian(curvature, w, grad_w - problem.correlate(answer))
    rows = row_gradients(curvature, batch, w, u, grad_b)
    like = (z, y, z if sample_weight is None else sample_weight)
    grads = [to_layout(x, layout, t, batch.bad) for x, t in zip(rows, like, strict=True)]
    for k, x in enumerate(strength_gradients(w, u, scale)):
        grads.append((x if k == 2 else mark_bad(x, batch.bad)).to(z.dtype))
    grads = [as_output(x, need) for x, need in zip(grads, needs, strict=True)]
    return grads[0], grads[1], grads[2], grads[3], grads[4], grads[5], grads[6]


def to_layout(x: Tensor, layout: Layout, like: Tensor, bad: Tensor) -> Tensor:
    """Bring a gradient of padded rows, (T, n, ...), to the caller's layout and dtype."""
    if layout.shares_design and like.dim() < x.dim():
        return x.sum(0).to(like.dtype)
    return layout.unpad(mark_bad(x, bad)).to(like.dtype)


def mark_bad(x: Tensor, bad: Tensor) -> Tensor:
    """Set the gradients of bad tasks to NaN."""
    return torch.where(per_task(bad, x.dim()), torch.nan, x)
