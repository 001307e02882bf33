"""Launches the kernels of the nested prox's vector-Jacobian product."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsedis_kernels.triton.kernels.prox_backward import (
    feature_projections_kernel,
    prox_backward_kernel,
)
from sparsedis_kernels.triton.launch import launch, launch_on_groups
from sparsedis_kernels.triton.prox import shared_level
from sparsedis_kernels.triton.tile import Problem


class Coupling(NamedTuple):
    """What the shared level adds to the equations of every feature; each is (M,)."""

    kappa: Tensor  # shared / ||x_m||_F
    lift: Tensor  # of x in the right-hand side
    alive: Tensor  # whether the feature may move
    projection: Tensor  # <Xh, y>


def feature_coupling(
    grad: Tensor, x: Tensor, group: Tensor | None, shared: Tensor | None, ridge: Tensor | None,
    metric: Tensor | None, scale: list[float],
) -> Coupling:  # fmt: skip
    """Sums over tasks, twice: the norm of every feature, then what its rank-one term needs."""
    level = shared_level(x, shared, scale[2])
    args = (grad, x, metric, group, ridge, scale)
    theta = _feature_sums(*args, None, None)[0].sqrt()
    kappa = torch.where(theta > 0, level / theta, 0)
    projection, denominator = _feature_sums(*args, theta.to(level), kappa.to(level))
    along = torch.where(denominator > 0, projection / denominator, 0)
    lift = torch.where(theta > 0, kappa * along / theta, 0)
    alive = (theta > 0) | (level == 0)
    return Coupling(kappa.to(level), lift.to(level), alive, along)


def _feature_sums(
    grad: Tensor, x: Tensor, metric: Tensor | None, group: Tensor | None, ridge: Tensor | None,
    scale: list[float], theta: Tensor | None, kappa: Tensor | None,
) -> Tensor:  # fmt: skip
    T, M, _ = x.shape
    problem = Problem.of(x.shape, (grad, x, metric), (group, ridge))
    tile = problem.tile()
    blocks, tasks, chunks = problem.chunks(tile)
    kinds = 1 if theta is None else 2
    sums = torch.empty(kinds, chunks, M, dtype=torch.float64, device=x.device)
    launch(
        feature_projections_kernel, blocks * chunks, tile.warps, x,
        grad, x, metric, group, ridge, theta, kappa, sums[0], sums[-1],
        T, M, blocks, tasks, *problem.strides, scale[1], scale[3],
        TILE=tile, GROUP=problem.form(0), RIDGE=problem.form(1),
    )  # fmt: skip
    return sums.sum(1)


def _write_gradients(
    grads: list[Tensor], needs: list[bool], grad: Tensor, x: Tensor, v: Tensor | None,
    metric: Tensor | None, strengths: tuple[Tensor | None, ...], coupling: Coupling | None,
    scale: list[float], nonneg: bool,
) -> None:  # fmt: skip
    grad_v, grad_l1, grad_group, _, grad_ridge, grad_metric = (
        g if need else None for g, need in zip(grads, needs, strict=True)
    )
    l1, group, _ = strengths
    grouped = group is not None or scale[1] > 0
    sums = (grad_l1, grad_group, grad_ridge)
    arrays = (grad, x, None if grad_metric is None else v, metric, grad_v, grad_metric)
    problem = Problem.of(x.shape, arrays, strengths)
    if coupling is None:
        problem = problem.merged(grouped=grouped or any(g is not None for g in sums))
    zeros = "either" if l1 is not None else "held" if scale[0] > 0 else "free"
    kappa, lift, alive, _ = coupling or (None,) * 4
    launch_on_groups(
        prox_backward_kernel, problem, x, *arrays, *sums, *strengths, kappa, lift, alive,
        l1_scale=scale[0], group_scale=scale[1], ridge_scale=scale[3],
        L1=problem.form(0), GROUP=problem.form(1), RIDGE=problem.form(2),
        GROUPED=grouped, ZEROS="held" if nonneg else zeros,
    )  # fmt: skip


def prox_backward(
    grad: Tensor, x: Tensor, v: Tensor | None, l1: Tensor | None, group: Tensor | None,
    shared: Tensor | None, ridge: Tensor | None, metric: Tensor | None, scale: list[float],
    nonneg: bool, needs: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """`sparsedis_kernels.reference.prox_backward`."""
    T, M, C = x.shape
    dtype = torch.promote_types(x.dtype, torch.float32)
    like = [x.dtype, dtype, dtype, dtype, dtype, dtype if metric is None else metric.dtype]
    shapes = [(T, M, C), (T, M), (T, M), (M,), (T, M), (T, M, C)]
    grads = [
        x.new_empty(s if need else (0,), dtype=d)
        for s, need, d in zip(shapes, needs, like, strict=True)
    ]
    if x.numel() == 0:
        return tuple(g.zero_() for g in grads)
    coupling = None
    if shared is not None or scale[2] > 0:
        coupling = feature_coupling(grad, x, group, shared, ridge, metric, scale)
        if needs[3]:
            grads[3].copy_(coupling.projection).mul_(-scale[2])
    elif needs[3]:
        grads[3].zero_()
    strengths = (l1, group, ridge)
    _write_gradients(grads, needs, grad, x, v, metric, strengths, coupling, scale, nonneg)
    return tuple(grads)
