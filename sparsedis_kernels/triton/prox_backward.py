"""Launches the kernels of the nested prox's vector-Jacobian product."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsedis_kernels.arrays import accumulated, outputs, wanted
from sparsedis_kernels.triton.kernels.prox_backward import (
    coupled_prox_backward_kernel,
    feature_projections_kernel,
    prox_backward_kernel,
)
from sparsedis_kernels.triton.launch import (
    launch,
    launch_on_features,
    launch_on_groups,
    penalty_numbers,
    unspilt,
)
from sparsedis_kernels.triton.prox import shared_level
from sparsedis_kernels.triton.tile import Problem, Tile


class Coupling(NamedTuple):
    """What the shared level adds to the equations of every feature; each is (M,)."""

    kappa: Tensor  # shared / ||x_m||_F
    lift: Tensor  # of x in the right-hand side
    alive: Tensor  # whether the feature may move
    projection: Tensor  # <Xh, y>


def feature_coupling(problem: Problem, level: Tensor, scale: list[float]) -> Coupling:
    """Sums over tasks: the norm of every feature, then what its rank-one term needs.

    Where a feature has one curvature D the second is <Xh, grad> / D, and comes with the first.
    """
    uniform = problem.arrays[3] is None and problem.is_shared(2)
    squares, product = _feature_sums(problem, None, None, uniform, scale)
    theta = squares.sqrt()
    kappa = torch.where(theta > 0, level / theta, 0)
    if uniform:
        ridge = problem.tensors[-1]
        curvature = 1 + scale[3] * (1 if ridge is None else ridge[0])
        along = torch.where(theta > 0, product / (theta * curvature), 0)
    else:
        norms = (theta.to(level), kappa.to(level))
        projection, denominator = _feature_sums(problem, *norms, uniform, scale)
        along = torch.where(denominator > 0, projection / denominator, 0)
    lift = torch.where(theta > 0, kappa * along / theta, 0)
    alive = (theta > 0) | (level == 0)
    return Coupling(kappa.to(level), lift.to(level), alive, along)


def _feature_sums(
    problem: Problem, theta: Tensor | None, kappa: Tensor | None, uniform: bool,
    scale: list[float],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    grad, x, _, metric, *_ = problem.arrays
    _, group, ridge = problem.strengths
    problem = replace(problem, arrays=(grad, x, metric), strengths=(group, ridge))
    tile = problem.tile()
    blocks, tasks, chunks = problem.chunks_of_sums(tile)
    sums = torch.empty(2, chunks, problem.M, dtype=torch.float64, device=problem.like.device)
    launch(
        feature_projections_kernel, blocks * chunks, tile.warps, problem.like,
        *problem.tensors, theta, kappa, sums[0], sums[1],
        problem.T, problem.M, blocks, tasks, *problem.strides, scale[1], scale[3],
        TILE=tile, GROUP=problem.form(0), RIDGE=problem.form(1),
        GROUPED=group is not None or scale[1] > 0, UNIFORM=uniform, **unspilt(tile.warps),
    )  # fmt: skip
    first, second = sums.sum(1)
    return first, second


def prox_backward(
    grad: Tensor, x: Tensor, v: Tensor | None, l1: Tensor | None, group: Tensor | None,
    shared: Tensor | None, ridge: Tensor | None, metric: Tensor | None, scale: list[float],
    nonneg: bool, needs: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """`sparsedis_kernels.reference.prox_backward`."""
    grads = _gradients(x, metric, needs)
    if x.numel() == 0:
        return tuple(g.zero_() for g in grads)
    written = wanted(grads, needs)
    arrays = (grad, x, v if needs[5] else None, metric, written[0], written[5])
    problem = Problem.of(x.shape, arrays, (l1, group, ridge))
    if shared is None and scale[2] == 0:
        grads[3].zero_()
        _differentiate_groups(problem, written, None, scale, nonneg)
    elif tile := problem.tile_of_features(kept=4 if metric is None else 7):
        level = shared_level(x, shared, scale[2])
        _differentiate_features(problem, tile, written, level, scale, nonneg)
    else:
        coupling = feature_coupling(problem, shared_level(x, shared, scale[2]), scale)
        if needs[3]:
            grads[3].copy_(coupling.projection).mul_(-scale[2])
        _differentiate_groups(problem, written, coupling, scale, nonneg)
    return grads


def _gradients(x: Tensor, metric: Tensor | None, needs: list[bool]) -> tuple[Tensor, ...]:
    T, M, C = x.shape
    dtype = accumulated(x.dtype)
    dtypes = [x.dtype, *4 * [dtype], dtype if metric is None else metric.dtype]
    shapes = [(T, M, C), (T, M), (T, M), (M,), (T, M), (T, M, C)]
    return outputs(x, shapes, needs, dtypes)


def _differentiate_groups(
    problem: Problem, written: tuple[Tensor | None, ...], coupling: Coupling | None,
    scale: list[float], nonneg: bool,
) -> None:  # fmt: skip
    _, grad_l1, grad_group, _, grad_ridge, _ = written
    sums = (grad_l1, grad_group, grad_ridge)
    arrays, strengths = problem.tensors[:6], problem.tensors[6:]
    constants = _constants(problem, scale, nonneg)
    if coupling is None:
        by_group = constants["GROUPED"] or any(g is not None for g in sums)
        problem = problem.merged(grouped=by_group)
    kappa, lift, alive, _ = coupling or (None,) * 4
    launch_on_groups(
        prox_backward_kernel, problem, *arrays, *sums, *strengths, kappa, lift, alive,
        L1=problem.form(0), GROUP=problem.form(1), RIDGE=problem.form(2), **constants,
    )  # fmt: skip


def _differentiate_features(
    problem: Problem, tile: Tile, written: tuple[Tensor | None, ...], level: Tensor,
    scale: list[float], nonneg: bool,
) -> None:  # fmt: skip
    """All tasks of a few features in one program."""
    _, grad_l1, grad_group, grad_shared, grad_ridge, _ = written
    arrays, strengths = problem.tensors[:6], problem.tensors[6:]
    launch_on_features(
        coupled_prox_backward_kernel, problem, tile,
        *arrays, grad_l1, grad_group, grad_ridge, grad_shared, *strengths, level,
        shared_scale=scale[2], **_constants(problem, scale, nonneg),
    )  # fmt: skip


def _constants(problem: Problem, scale: list[float], nonneg: bool) -> dict[str, Any]:
    l1 = problem.strengths[0]
    zeros = "either" if l1 is not None else "held" if scale[0] > 0 else "free"
    return penalty_numbers(problem, scale) | {"ZEROS": "held" if nonneg else zeros}
