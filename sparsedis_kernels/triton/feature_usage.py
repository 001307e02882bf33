"""Launches the kernels of feature usage."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis_kernels.arrays import accumulated
from sparsedis_kernels.triton.kernels.feature_usage import (
    feature_usage_backward_kernel,
    feature_usage_kernel,
)
from sparsedis_kernels.triton.launch import launch, launch_on_groups
from sparsedis_kernels.triton.tile import Problem


def feature_usage(w: Tensor) -> tuple[Tensor, ...]:
    """`sparsedis_kernels.reference.feature_usage`; the magnitude is in float32 at least.

    Sums over a chunk of tasks in one pass over w, then over chunks. No atomics: results repeat.
    """
    T, M, _ = w.shape
    dtype = accumulated(w.dtype)
    if w.numel() == 0:
        return w.new_zeros(M, dtype=dtype), *(w.new_zeros(n, dtype=torch.int64) for n in (M, T))
    problem = Problem.of(w.shape, (w,), ())
    tile = problem.tile()
    blocks, tasks, chunks = problem.chunks_of_sums(tile)
    magnitudes = torch.empty(chunks, M, dtype=torch.float64, device=w.device)
    users = torch.empty(chunks, M, dtype=torch.int32, device=w.device)
    features = torch.empty(blocks, T, dtype=torch.int32, device=w.device)
    launch(
        feature_usage_kernel, blocks * chunks, tile.warps, w,
        w, magnitudes, users, features, T, M, blocks, tasks, *problem.strides, TILE=tile,
    )  # fmt: skip
    return magnitudes.sum(0).to(dtype), users.sum(0), features.sum(0)


def feature_usage_backward(grad_magnitude: Tensor, w: Tensor) -> Tensor:
    """`sparsedis_kernels.reference.feature_usage_backward`."""
    grad_w = torch.empty_like(w, memory_format=torch.contiguous_format)
    grad = grad_magnitude.expand(w.shape[:2])
    problem = Problem.of(w.shape, (w, grad_w), (grad,)).merged(grouped=False)
    tensors = (w, grad_w, grad)
    launch_on_groups(feature_usage_backward_kernel, problem, *tensors, GRAD=problem.form(0))
    return grad_w
