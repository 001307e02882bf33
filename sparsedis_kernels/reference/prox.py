"""Exact proximal operator of the nested penalty in a diagonal metric, and its derivative.

The penalty is a tree: elements inside (task, feature) groups inside features. In a metric that is
constant on every node the prox composes from the leaves to the root (Jenatton et al. 2011). In
any other metric a node's radius solves a secular equation, found with the reciprocal Newton step
of Hebden (1973) and More and Sorensen (1983).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis_kernels.reference.strengths import (
    Strengths,
    as_output,
    effective_strengths,
    live_entries,
    safe_reciprocal,
)

MAX_ROOT_STEPS = 60


def largest(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    """The largest entry over `dim`, which is kept; of none at all it is 0."""
    return x.amax(dim, keepdim=True) if x.numel() else x.sum(dim, keepdim=True)


def norm(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Euclidean norm over `dim` (kept); the squares neither overflow nor underflow."""
    scale = largest(x.abs(), dim)
    scaled = x / torch.where(scale > 0, scale, 1)
    return scale * scaled.square().sum(dim, keepdim=True).sqrt()


def soft_threshold(v: Tensor, l1: Tensor | None, nonneg: bool) -> Tensor:
    """sign(v) (|v| - l1)_+, or (v - l1)_+ with the sign constraint."""
    if nonneg:
        return (v if l1 is None else v - l1).clamp_min(0)
    return v if l1 is None else v - v.clamp(-l1, l1)


def block_soft_threshold(u: Tensor, strength: Tensor, dim: tuple[int, ...]) -> Tensor:
    """(1 - strength/||u||)_+ u with the norm over `dim`."""
    radius = norm(u, dim)
    return u * torch.where(radius <= strength, 0, (radius - strength) / radius)


def group_root(u: Tensor, curvature: Tensor, group: Tensor) -> Tensor:
    """Radius r of argmin 1/2 x'Dx + group ||x|| - u'x per group: (T, M, 1).

    r is 0 iff ||u|| <= group, else the root of ||u / (D r + group)|| = 1. The start
    (||u|| - group) / max D lies left of it, from where the iteration increases.
    """
    excess = norm(u, (2,)) - group
    radius = excess.clamp_min(0) / largest(curvature, (2,))
    for _ in range(MAX_ROOT_STEPS):
        denominator = torch.where(excess > 0, curvature * radius + group, 1)
        direction = u / denominator
        length = norm(direction, (2,))
        slope = ((direction / length).square() * (curvature / denominator)).sum(2, keepdim=True)
        step = torch.where(excess > 0, (length - 1) / slope, 0)
        if root_reached(length, step, radius, excess > 0):
            break
        radius = (radius + step).clamp_min(0)
    return radius


def root_reached(length: Tensor, step: Tensor, root: Tensor, live: Tensor) -> bool:
    """Say whether every live secular equation holds, or its root moves, only by rounding."""
    eps = 8 * torch.finfo(root.dtype).eps
    open_ = live & ((length - 1).abs() > eps) & (step.abs() > eps * root)
    return not bool(open_.any())


def solve_groups(u: Tensor, curvature: Tensor, group: Tensor | None) -> Tensor:
    """argmin 1/2 x'Dx + sum_tm group_tm ||x_tm|| - u'x; D is (T, M, C), or (T, M, 1) if uniform."""
    if group is None:
        return u / curvature
    if curvature.shape[2] == 1:
        return block_soft_threshold(u, group, (2,)) / curvature
    radius = group_root(u, curvature, group)
    return torch.where(radius <= 0, 0, u * (radius / (curvature * radius + group)))


def solve_tree(u: Tensor, curvature: Tensor, group: Tensor | None, shared: Tensor | None) -> Tensor:
    """argmin 1/2 x'Dx + sum_tm group_tm ||x_tm|| + sum_m shared_m ||x_m||_F - u'x: (T, M, C).

    With x = theta y and theta = ||x_m||_F, y solves the groups in the curvature D theta + shared
    and theta is the root of ||y(theta)||_F = 1. A feature is 0 iff its blocks, thresholded, have
    norm <= shared.
    """
    if shared is None or u.numel() == 0:
        return solve_groups(u, curvature, group)
    blocks = u if group is None else block_soft_threshold(u, group, (2,))
    excess = norm(blocks, (0, 2)) - shared
    theta = excess.clamp_min(0) / largest(curvature, (0, 2))
    y = u
    for _ in range(MAX_ROOT_STEPS):
        metric = torch.where(excess > 0, curvature * theta + shared, 1)
        y = solve_groups(u, metric, group)
        length = norm(y, (0, 2))
        slope = feature_slope(y / length, y, curvature, metric, group)
        step = torch.where(excess > 0, (length - 1) / slope, 0)
        if root_reached(length, step, theta, excess > 0):
            break
        theta = (theta + step).clamp_min(0)
    return torch.where(excess <= 0, 0, theta * y)


def feature_slope(
    unit: Tensor, y: Tensor, curvature: Tensor, metric: Tensor, group: Tensor | None
) -> Tensor:
    """Relative slope -d log ||y|| / d theta = Y' A^-1 D Y, Y = y/||y||_F, A the groups' Hessian."""
    inverse_radius = safe_reciprocal(norm(y, (2,)))
    pull = torch.zeros_like(inverse_radius) if group is None else group * inverse_radius
    moved = solve_group_hessian(curvature * unit, y * inverse_radius, metric, pull)
    return (unit * moved).sum((0, 2), keepdim=True)


def solve_group_hessian(rhs: Tensor, unit: Tensor, base: Tensor, pull: Tensor) -> Tensor:
    """Solve (diag(e + k) - k xh xh') y = rhs in every group, e = base, k = pull, xh = unit.

    Sherman-Morrison; 1 - k sum xh^2/(e + k) is written as sum xh^2 e/(e + k), free of
    cancellation. A group with xh = 0 is diagonal.
    """
    total = base + pull
    denominator = (unit.square() * (base / total)).sum(2, keepdim=True)
    along = (unit * (rhs / total)).sum(2, keepdim=True) * safe_reciprocal(denominator)
    return (rhs + pull * unit * along) / total


def curvature_of(like: Tensor, metric: Tensor | None, ridge: Tensor | None) -> Tensor:
    """Diagonal D = metric + ridge of the smooth part; its last axis is 1 where it is uniform."""
    base = like.new_ones(1, 1, 1) if metric is None else metric
    return base if ridge is None else base + ridge


def prox(
    v: Tensor,
    l1: Tensor | None,
    group: Tensor | None,
    shared: Tensor | None,
    ridge: Tensor | None,
    metric: Tensor | None,
    scale: list[float],
    nonneg: bool,
) -> Tensor:
    """Minimise 1/2 sum d_i (x_i - v_i)^2 + Omega(x), and x >= 0 if `nonneg`: (T, M, C).

    Omega(x) = sum l1 |x| + sum_tm group_tm ||x_tm|| + sum_m shared_m ||x_m||_F
    + sum ridge_tm/2 ||x_tm||^2, with d = `metric` (T, M, C) or 1. `l1`, `group`, `ridge` are
    (T, M), `shared` is (M,); each counts `scale` times, and None stands for ones. The prox of a
    tree of groups (Jenatton et al. 2011); in a metric, with secular roots (Hebden 1973).
    """
    strengths = effective_strengths(v, (l1, group, shared, ridge), scale)
    u = soft_threshold(v if metric is None else metric * v, strengths.l1, nonneg)
    curvature = curvature_of(v, metric, strengths.ridge)
    return solve_tree(u, curvature, strengths.group, strengths.shared)


def solve_prox_hessian(
    grad: Tensor, x: Tensor, curvature: Tensor, strengths: Strengths, nonneg: bool
) -> Tensor:
    """Solve A y = grad on the support of x, A the Hessian of the prox objective there.

    A = diag(D + k_g + K) - k_g xh_g xh_g' - K Xh Xh' with k_g = group/||x_g||,
    K = shared/||x_m||_F: Sherman-Morrison per group, then per feature with the denominator
    1 - K Xh' A_g^-1 Xh = sum_g rho_g^2 (sum xh^2 D/a) / (sum xh^2 (D + K)/a), a = D + k_g + K,
    rho_g = ||x_g||/||x_m||_F.
    """
    rhs = torch.where(live_entries(x, strengths, nonneg), grad, 0)
    radius, theta = norm(x, (2,)), norm(x, (0, 2))
    unit = x * safe_reciprocal(radius)
    pull = _strength_over(strengths.group, radius)
    lift = _strength_over(strengths.shared, theta)
    y = solve_group_hessian(rhs, unit, curvature + lift, pull)
    if strengths.shared is None or x.numel() == 0:
        return y
    feature = x * safe_reciprocal(theta)
    along = solve_group_hessian(feature, unit, curvature + lift, pull)
    total = curvature + lift + pull
    inner = [
        (unit.square() * (e / total)).sum(2, keepdim=True) for e in (curvature, curvature + lift)
    ]
    share = (radius * safe_reciprocal(theta)).square() * inner[0] * safe_reciprocal(inner[1])
    overlap = (feature * y).sum((0, 2), keepdim=True)
    return y + lift * along * overlap * safe_reciprocal(share.sum(0, keepdim=True))


def _strength_over(strength: Tensor | None, size: Tensor) -> Tensor:
    return torch.zeros_like(size) if strength is None else strength * safe_reciprocal(size)


def prox_backward(
    grad: Tensor,
    x: Tensor,
    v: Tensor | None,
    l1: Tensor | None,
    group: Tensor | None,
    shared: Tensor | None,
    ridge: Tensor | None,
    metric: Tensor | None,
    scale: list[float],
    nonneg: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Vector-Jacobian product of `prox` at its result `x`, by implicit differentiation.

    With y = A^-1 grad on the support: grad_v = d y, grad_l1 = -sum_c sign(x) y,
    grad_group = -sum_c xh_g y, grad_shared = -sum_tc Xh y, grad_ridge = -sum_c x y,
    grad_metric = (v - x) y, strengths times their scale. Shapes (T, M, C), three of (T, M) and
    (M,) as the inputs; `needs` says which are wanted, the rest are empty. `v` serves only the
    gradient of the metric.
    """
    strengths = effective_strengths(x, (l1, group, shared, ridge), scale)
    curvature = curvature_of(x, metric, strengths.ridge)
    y = solve_prox_hessian(grad, x, curvature, strengths, nonneg)
    unit, feature = (x * safe_reciprocal(norm(x, dim)) for dim in ((2,), (0, 2)))
    grad_metric = (v - x) * y if needs[5] and v is not None else y
    return (
        as_output(y if metric is None else metric * y, needs[0]),
        as_output(-scale[0] * (x.sign() * y).sum(2), needs[1]),
        as_output(-scale[1] * (unit * y).sum(2), needs[2]),
        as_output(-scale[2] * (feature * y).sum((0, 2)), needs[3]),
        as_output(-scale[3] * (x * y).sum(2), needs[4]),
        as_output(grad_metric, needs[5]),
    )
