"""Argument checks and dtype rules that every public op shares."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis_kernels import backends
from sparsedis_kernels.arrays import accumulated, widened


def floating(op: str, name: str, value: Tensor) -> None:
    """Raise TypeError unless `value` has a floating dtype."""
    if not value.is_floating_point():
        raise TypeError(f"{op}: {name} has dtype {value.dtype}, expected a floating dtype")


def axes(op: str, name: str, value: Tensor, meaning: str, dim: int) -> None:
    """Raise ValueError unless `value` has `dim` axes."""
    if value.dim() != dim:
        raise ValueError(
            f"{op}: {name} has shape {tuple(value.shape)}, expected {dim} axes {meaning}"
        )


def weights(op: str, name: str, value: Tensor) -> None:
    """Raise ValueError or TypeError unless `value` is (T, M, C) and floating."""
    if value.dim() == 3 and value.is_floating_point():  # kept short: every call passes here
        return
    axes(op, name, value, "(T, M, C)", 3)
    floating(op, name, value)


def same_shape(op: str, name: str, value: Tensor, other: str, expected: tuple[int, ...]) -> None:
    """Raise ValueError unless `value` has the shape `expected`, which is that of `other`."""
    if tuple(value.shape) != expected:
        raise ValueError(
            f"{op}: {name} has shape {tuple(value.shape)}, but {other} needs {expected}"
        )


def tolerance(op: str, tol: float) -> None:
    """Raise ValueError unless tol >= 0."""
    if not tol >= 0:
        raise ValueError(f"{op}: tol must be >= 0, got {tol}")


def prepared(ns: str, op: str, value: Tensor) -> Tensor:
    """`value` as the implementation of `op` in `ns` takes it: widened, unless it does so itself."""
    if accumulated(value.dtype) == value.dtype or backends.takes_half(ns, op, value.device):
        return value
    return widened(value)


def per_group(op: str, name: str, value: float | Tensor, v: Tensor) -> Tensor:
    """`value` expanded to one number per (task, feature) of v (T, M, C), as v is computed in."""
    T, M = v.shape[:2]
    value = torch.as_tensor(value, dtype=accumulated(v.dtype), device=v.device)
    try:
        return value.expand(T, M)
    except RuntimeError:
        raise ValueError(
            f"{op}: {name} has shape {tuple(value.shape)}, which does not expand to "
            f"(T, M) = ({T}, {M})"
        ) from None
