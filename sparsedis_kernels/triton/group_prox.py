"""Launches the kernels of the standalone proxes of a group: MCP, SCAD, L0 and L-infinity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsedis_kernels.arrays import outputs, wanted
from sparsedis_kernels.reference.radial import MCP, SCAD
from sparsedis_kernels.triton.kernels.group_prox import (
    linf_prox_backward_kernel,
    linf_prox_kernel,
    radial_prox_backward_kernel,
    radial_prox_kernel,
)
from sparsedis_kernels.triton.launch import launch_on_groups
from sparsedis_kernels.triton.tile import Problem

KINDS = {MCP: "mcp", SCAD: "scad"}  # else L0


def radial_prox(v: Tensor, strength: Tensor, step: Tensor, shape: Tensor, kind: int) -> Tensor:
    """`sparsedis_kernels.reference.radial_prox`."""
    x = torch.empty_like(v, memory_format=torch.contiguous_format)
    _launch_radial(radial_prox_kernel, (v, x), (strength, step, shape), (), kind)
    return x


def radial_prox_backward(
    grad: Tensor, v: Tensor, strength: Tensor, step: Tensor, shape: Tensor, kind: int
) -> tuple[Tensor, ...]:
    """`sparsedis_kernels.reference.radial_prox_backward`."""
    levels = (strength, step, shape)
    grads = tuple(torch.empty_like(a, memory_format=torch.contiguous_format) for a in (v, *levels))
    if v.numel() == 0:
        return tuple(g.zero_() for g in grads)
    _launch_radial(radial_prox_backward_kernel, (grad, v, grads[0]), levels, grads[1:], kind)
    return grads


def _launch_radial(
    kernel: Any, arrays: tuple[Tensor, ...], levels: tuple[Tensor, ...],
    grads: tuple[Tensor, ...], kind: int,
) -> None:  # fmt: skip
    problem = Problem.of(arrays[0].shape, arrays, levels).merged(grouped=True)
    forms = {"LAM": problem.form(0), "ETA": problem.form(1), "SHAPE": problem.form(2)}
    tensors = (*arrays, *levels, *grads)
    launch_on_groups(kernel, problem, *tensors, KIND=KINDS.get(kind, "l0"), **forms)


def linf_prox(v: Tensor, strength: Tensor, metric: Tensor | None) -> Tensor:
    """`sparsedis_kernels.reference.linf_prox`."""
    x = torch.empty_like(v, memory_format=torch.contiguous_format)
    problem = Problem.of(v.shape, (v, metric, x), (strength,)).merged(grouped=True)
    tensors = (v, metric, x, strength)
    launch_on_groups(linf_prox_kernel, problem, *tensors, LEVEL=problem.form(0))
    return x


def linf_prox_backward(
    grad: Tensor, v: Tensor, x: Tensor, strength: Tensor, metric: Tensor | None, needs: list[bool]
) -> tuple[Tensor, ...]:
    """`sparsedis_kernels.reference.linf_prox_backward`."""
    shapes, dtypes = (v.shape, v.shape[:2], v.shape), (v.dtype, strength.dtype, strength.dtype)
    grads = outputs(v, shapes, needs, dtypes)
    if v.numel() == 0:
        return tuple(g.zero_() for g in grads)
    grad_v, grad_strength, grad_metric = wanted(grads, needs)
    arrays = (grad, v, x, metric, grad_v, grad_metric)
    problem = Problem.of(v.shape, arrays, (strength,)).merged(grouped=True)
    tensors = (*arrays, strength, grad_strength)
    launch_on_groups(linf_prox_backward_kernel, problem, *tensors, LEVEL=problem.form(0))
    return grads
