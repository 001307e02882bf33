"""Launches the kernels of the nested prox."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsedis_kernels.arrays import accumulated
from sparsedis_kernels.triton.kernels.prox import (
    coupled_prox_kernel,
    feature_step_kernel,
    feature_sums_kernel,
    prox_kernel,
)
from sparsedis_kernels.triton.launch import (
    launch,
    launch_on_features,
    launch_on_groups,
    penalty_numbers,
    unspilt,
)
from sparsedis_kernels.triton.tile import ITERATES, Problem

# Of a program that adds chunks: its features, chunks at a time, and warps.
FEATURES, CHUNKS, WARPS = 32, 64, 4


def prox(
    v: Tensor, l1: Tensor | None, group: Tensor | None, shared: Tensor | None,
    ridge: Tensor | None, metric: Tensor | None, scale: list[float], nonneg: bool,
) -> Tensor:  # fmt: skip
    """`sparsedis_kernels.reference.prox`."""
    x = torch.empty_like(v, memory_format=torch.contiguous_format)
    _prox_into(x, v, l1, group, shared, ridge, metric, scale, nonneg)
    return x


def prox_(v: Tensor, *args: Any) -> None:
    """`prox`, written into v."""
    _prox_into(v, v, *args)


def shared_level(v: Tensor, shared: Tensor | None, scale: float) -> Tensor:
    """The strength of every feature, (M,), in the dtype that is computed in."""
    dtype = accumulated(v.dtype)
    if shared is None:
        return torch.full(v.shape[1:2], scale, dtype=dtype, device=v.device)
    return scale * shared


def feature_norms(
    v: Tensor, strengths: tuple[Tensor | None, ...], level: Tensor, metric: Tensor | None,
    scale: list[float], nonneg: bool,
) -> Tensor:  # fmt: skip
    """theta_m = ||x_m||_F of the solution, 0 where the feature is, 1 where it is not coupled."""
    T, M, _ = v.shape
    l1, group, ridge = strengths
    problem = Problem.of(v.shape, (v, metric), strengths)
    tile = problem.tile()
    blocks, tasks, chunks = problem.chunks_of_sums(tile)
    first, second = torch.empty(2, chunks, M, dtype=torch.float64, device=v.device)
    theta, moving = torch.empty_like(level), torch.empty_like(level, dtype=torch.int8)
    uniform = _is_uniform(problem)
    for step in range(1 if uniform else tile.newton_steps + 1):
        size = theta if step else None
        launch(
            feature_sums_kernel, blocks * chunks, tile.warps, v,
            v, metric, l1, group, ridge, size, level if step else None, moving, first, second,
            T, M, blocks, tasks, *problem.strides,
            TILE=tile, L1=problem.form(0), GROUP=problem.form(1), RIDGE=problem.form(2),
            NONNEG=nonneg, **penalty_numbers(problem, scale), **unspilt(tile.warps),
        )  # fmt: skip
        launch(
            feature_step_kernel, -(-M // FEATURES), WARPS, v,
            first, second, theta, level, moving, chunks, M,
            FIRST=step == 0, FEATURES=FEATURES, CHUNKS=CHUNKS, **unspilt(WARPS),
        )  # fmt: skip
    return theta


def _is_uniform(problem: Problem) -> bool:
    """Whether the quadratic is the same in all groups of a feature."""
    return problem.arrays[1] is None and problem.is_shared(2)


def _prox_into(
    x: Tensor, v: Tensor, l1: Tensor | None, group: Tensor | None, shared: Tensor | None,
    ridge: Tensor | None, metric: Tensor | None, scale: list[float], nonneg: bool,
) -> None:  # fmt: skip
    if v.numel() == 0:
        return
    grouped = group is not None or scale[1] > 0
    coupled = shared is not None or scale[2] > 0
    problem = Problem.of(v.shape, (v, metric, x), (l1, group, ridge))
    level = shared_level(v, shared, scale[2]) if coupled else None
    if level is None:
        problem, theta = problem.merged(grouped=grouped), None
    elif tile := problem.tile_of_features(kept=2 if _is_uniform(problem) else ITERATES):
        launch_on_features(
            coupled_prox_kernel, problem, tile, *problem.tensors, level,
            NONNEG=nonneg, UNIFORM=_is_uniform(problem), **penalty_numbers(problem, scale),
        )  # fmt: skip
        return
    else:
        theta = feature_norms(v, (l1, group, ridge), level, metric, scale, nonneg)
    launch_on_groups(
        prox_kernel, problem, v, metric, x, l1, group, ridge, theta, level,
        L1=problem.form(0), GROUP=problem.form(1), RIDGE=problem.form(2),
        NONNEG=nonneg, **penalty_numbers(problem, scale),
    )  # fmt: skip
