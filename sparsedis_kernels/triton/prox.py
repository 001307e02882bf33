"""Launches the kernels of the nested prox."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsedis_kernels.triton.kernels.prox import (
    feature_step_kernel,
    feature_sums_kernel,
    prox_kernel,
)
from sparsedis_kernels.triton.launch import launch, launch_on_groups
from sparsedis_kernels.triton.tile import Problem

# Newton steps of a secular equation. Measured over 20,000 random groups: from the start used here
# twelve reach float32's rounding where D spans twelve decades, sixteen float64's; six, which
# suffice near the threshold, leave 2e-4 of the weight away from it where D spans four.
SECULAR_STEPS = {torch.float64: 16}
FEATURES, CHUNKS = 32, 64  # features of one program that adds chunks, and chunks at a time


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
    dtype = torch.promote_types(v.dtype, torch.float32)
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
    blocks, tasks, chunks = problem.chunks(tile)
    first, second = torch.empty(2, chunks, M, dtype=torch.float64, device=v.device)
    theta = torch.empty_like(level)
    uniform = metric is None and problem.form(2) in ("number", "feature")
    steps = SECULAR_STEPS.get(v.dtype, 12)
    for step in range(1 if uniform else steps + 1):
        size = theta if step else None
        launch(
            feature_sums_kernel, blocks * chunks, tile.warps, v,
            v, metric, l1, group, ridge, size, level if step else None, first, second,
            T, M, blocks, tasks, *problem.strides, scale[0], scale[1], scale[3],
            TILE=tile, L1=problem.form(0), GROUP=problem.form(1), RIDGE=problem.form(2),
            GROUPED=group is not None or scale[1] > 0, NONNEG=nonneg, STEPS=steps,
        )  # fmt: skip
        launch(
            feature_step_kernel, -(-M // FEATURES), 4, v,
            first, second, theta, level, chunks, M,
            FIRST=step == 0, FEATURES=FEATURES, CHUNKS=CHUNKS,
        )  # fmt: skip
    return theta


def _prox_into(
    x: Tensor, v: Tensor, l1: Tensor | None, group: Tensor | None, shared: Tensor | None,
    ridge: Tensor | None, metric: Tensor | None, scale: list[float], nonneg: bool,
) -> None:  # fmt: skip
    if v.numel() == 0:
        return
    grouped = group is not None or scale[1] > 0
    theta = level = None
    problem = Problem.of(v.shape, (v, metric, x), (l1, group, ridge))
    if shared is not None or scale[2] > 0:
        level = shared_level(v, shared, scale[2])
        theta = feature_norms(v, (l1, group, ridge), level, metric, scale, nonneg)
    else:
        problem = problem.merged(grouped=grouped)
    launch_on_groups(
        prox_kernel, problem, v, v, metric, x, l1, group, ridge, theta, level,
        l1_scale=scale[0], group_scale=scale[1], ridge_scale=scale[3],
        L1=problem.form(0), GROUP=problem.form(1), RIDGE=problem.form(2),
        GROUPED=grouped, NONNEG=nonneg, STEPS=SECULAR_STEPS.get(v.dtype, 12),
    )  # fmt: skip
