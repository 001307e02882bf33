"""Optimality of head weights: the dual norm, the duality gap and the largest useful strength."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis_kernels.reference.heads_batch import layout_of, not_finite, per_task
from sparsedis_kernels.reference.heads_problem import HeadsProblem, make_problem, unpenalised
from sparsedis_kernels.reference.prox import (
    block_soft_threshold,
    norm,
    soft_threshold,
    solve_tree,
)
from sparsedis_kernels.reference.strengths import Strengths

MAX_NEWTON_STEPS = 100


def dual_norm(g: Tensor, levels: Strengths, nonneg: bool) -> Tensor:
    """Smallest nu for which g (T, M, C) / nu is a subgradient at 0 of the levels above the ridge.

    Per (t, m): ||ST(g, nu l1)|| <= nu group, shape (T, M, 1). With a shared level, per feature:
    ||BST(ST(g, nu l1), nu group)||_F <= nu shared, shape (1, M, 1). The excess is convex and
    decreasing in nu, so Newton's iteration rises from 0 to the root without passing it.
    """
    zero = g.new_zeros(1, 1, 1)
    l1, group, shared = (zero if level is None else level for level in levels[:3])
    coupled = levels.shared is not None
    nu = zero.expand(1 if coupled else g.shape[0], g.shape[1], 1)
    for _ in range(MAX_NEWTON_STEPS):
        u = soft_threshold(g, nu * l1, nonneg)
        radius = norm(u, (2,))
        blocks = (radius - nu * group).clamp_min(0)  # (T, M, 1)
        size = norm(blocks, (0,)) if coupled else blocks
        slope = l1 * u.abs().sum(2, keepdim=True) / torch.where(radius > 0, radius, 1) + group
        if coupled:
            weight = blocks / torch.where(size > 0, size, 1)
            slope = (weight * slope).sum(0, keepdim=True)
        step = torch.where(size > nu * shared, (size - nu * shared) / (slope + shared), 0)
        nu = nu + step
        if not bool((step > 4 * torch.finfo(nu.dtype).eps * nu).any()):
            break
    return nu


def dual_scale(problem: HeadsProblem, g: Tensor) -> Tensor:
    """Largest s <= 1 that makes s g feasible where there is no ridge: (T, 1, 1) or (1, 1, 1)."""
    bound = dual_norm(torch.where(problem.ridge == 0, g, 0), problem.levels, problem.nonneg)
    return 1 / bound.amax(1, keepdim=True).clamp_min(1)


def conjugate(problem: HeadsProblem, g: Tensor) -> Tensor:
    """Omega*(g) per task, (T,), for g that is feasible where there is no ridge.

    With a ridge it is 1/2 sum ridge w^2 at the maximiser w = prox(g) in the metric `ridge`. Inside
    a feature, entries without a ridge take up the part a = ||BST(ST(g, l1), group)||_F of the
    shared strength: max over their norm rho of a rho - shared sqrt(rho^2 + sigma^2) is
    -sqrt(shared^2 - a^2) sigma, which leaves sqrt(shared^2 - a^2) to act on the others.
    """
    ridge, (l1, group, shared) = problem.ridge, problem.levels[:3]
    u = soft_threshold(g, l1, problem.nonneg)
    if shared is not None:
        free = torch.where(ridge == 0, u, 0)
        free = free if group is None else block_soft_threshold(free, group, (2,))
        taken = norm(free, (0, 2)).minimum(shared)
        shared = ((shared - taken) * (shared + taken)).sqrt()
    curvature = torch.where(ridge > 0, ridge, 1)
    w = solve_tree(torch.where(ridge > 0, u, 0), curvature, group, shared)
    return (ridge * w.square()).sum((1, 2)) / 2


def penalty_per_task(problem: HeadsProblem, w: Tensor) -> Tensor:
    """All levels of Omega(w) but the shared one: (T,)."""
    value = problem.ridge * w.square().sum(2, keepdim=True) / 2  # (T, M, 1)
    if problem.levels.l1 is not None:
        value = value + problem.levels.l1 * w.abs().sum(2, keepdim=True)
    if problem.levels.group is not None:
        value = value + problem.levels.group * norm(w, (2,))
    value = value.sum((1, 2))
    return torch.where((w < 0).any(2).any(1), torch.inf, value) if problem.nonneg else value


def shared_penalty(problem: HeadsProblem, w: Tensor) -> Tensor:
    """The shared level of Omega(w): ()."""
    if problem.levels.shared is None:
        return w.new_zeros(())
    return (problem.levels.shared * norm(w, (0, 2))).sum()


def objective(problem: HeadsProblem, w: Tensor) -> Tensor:
    """The value at w, all tasks together, less the least that any scores can reach: ()."""
    loss = problem.loss_at(problem.scores(w))
    return (loss + penalty_per_task(problem, w)).sum() + shared_penalty(problem, w)


def relative_gap(problem: HeadsProblem, w: Tensor) -> Tensor:
    """Duality gap over the objective at w = 0, per task or, if coupled, over all tasks: (T,).

    With m the mean at w, g = sum_i p_i z_i'(y_i - m_i), at the dual point s (y - m) primal minus
    dual is sum_i p_i D((1 - s) y_i + s m_i) + Omega(w) + Omega*(s g) - s <g, w>, D the divergence
    from the scores at w: without the cancellation between two objectives.
    """
    scores = problem.scores(w)
    mean = problem.loss.mean(scores)
    g = problem.correlate(problem.y - mean)
    s = dual_scale(problem, g)
    between = problem.loss.divergence((1 - s) * problem.y + s * mean, scores)
    gap = (
        problem.mean_of(between)
        + penalty_per_task(problem, w)
        + conjugate(problem, s * g)
        - (s * g * w).sum((1, 2))
    )
    start = problem.loss_at(problem.scores(torch.zeros_like(w)))
    if problem.coupled:
        whole = gap.sum() + shared_penalty(problem, w)
        gap, start = whole.expand(len(gap)), start.sum().expand(len(gap))
    # Fenchel and Young: what is below 0 is rounding.
    return torch.where(start == 0, 0, gap.clamp_min(0) / start)


def duality_gap(
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
) -> Tensor:
    """Relative duality gap of weights (T, M, C) with the best intercept: (T,).

    (P - D)/P0 with P0 the objective at W = 0; over all tasks, the same number in every entry,
    when a shared level couples them; 0 where P0 = 0; NaN for a task that holds NaN or infinity.
    The dual point is the residual, scaled until it is feasible (Mairal 2010). Layouts and
    arguments as in `fit_heads`; sums are in float64.
    """
    layout = layout_of(z, y, offsets)
    strengths = (l1, group, shared, ridge)
    bad = not_finite(weight)
    problem, batch = make_problem(
        layout, z, y, sample_weight, loss, strengths, scale, nonneg, fit_intercept, bad
    )
    w = torch.where(per_task(batch.bad, 3), 0, weight.double())
    return torch.where(batch.bad, torch.nan, relative_gap(problem, w)).to(z.dtype)


def lambda_max(
    z: Tensor,
    y: Tensor,
    offsets: Tensor | None,
    sample_weight: Tensor | None,
    loss: int,
    l1: Tensor | None,
    group: Tensor | None,
    shared: Tensor | None,
    scale: list[float],
    fit_intercept: bool,
    nonneg: bool,
) -> Tensor:
    """Smallest nu for which W = 0 solves the problem with (nu l1, nu group, nu shared): (T,).

    It is the dual norm of the gradient at W = 0 with the best intercept; shape (1,), over all
    tasks, when there is a shared level, whatever its strength. Infinite if an unpenalised feature
    has a gradient, 0 for a task without rows, NaN for one that holds NaN or infinity.
    """
    layout = layout_of(z, y, offsets)
    strengths = (l1, group, shared, None)
    levels_only = [*scale[:3], 0.0]
    problem, batch = make_problem(
        layout, z, y, sample_weight, loss, strengths, levels_only, nonneg, fit_intercept
    )
    zero = torch.zeros_like(problem.correlate(problem.y))
    g = problem.correlate(problem.y - problem.loss.mean(problem.scores(zero)))
    free = unpenalised(problem.levels._replace(ridge=None), problem.ridge)
    pushed = g.clamp_min(0) if nonneg else g
    unbounded = (free & (pushed != 0)).flatten(1).any(1)  # (T,)
    nu = dual_norm(torch.where(free, 0, g), problem.levels, nonneg).amax((1, 2))
    if shared is None and scale[2] == 0:
        value = torch.where(unbounded, torch.inf, nu)
        return torch.where(batch.bad, torch.nan, value).to(z.dtype)
    value = torch.where(unbounded.any(), torch.inf, nu)
    value = torch.cat([value, nu.new_zeros(1)]).amax(0, keepdim=True)
    return torch.where(batch.bad.all() & batch.bad.any(), torch.nan, value).to(z.dtype)
