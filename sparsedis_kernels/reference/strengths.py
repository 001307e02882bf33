"""Strengths of the nested penalty: tensors times their scales, and the support they leave."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# l1 (T, M), group (T, M), shared (M,), ridge (T, M); None stands for ones.
StrengthTensors = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class Strengths(NamedTuple):
    """Effective strengths of the four levels; ``None`` means that the level is absent."""

    l1: Tensor | None  # (T, M, 1) or (1, 1, 1)
    group: Tensor | None  # (T, M, 1) or (1, 1, 1)
    shared: Tensor | None  # (1, M, 1) or (1, 1, 1)
    ridge: Tensor | None  # (T, M, 1) or (1, 1, 1)


def effective_strengths(like: Tensor, tensors: StrengthTensors, scale: list[float]) -> Strengths:
    """Multiply every strength tensor by its scale and shape it to broadcast against (T, M, C)."""

    def effective(tensor: Tensor | None, factor: float) -> Tensor | None:
        if factor == 0:
            return None
        if tensor is None:
            return like.new_full((1, 1, 1), factor)
        wide = tensor.to(like.dtype)
        return factor * (wide[:, :, None] if tensor.dim() == 2 else wide[None, :, None])

    return Strengths(*(effective(t, f) for t, f in zip(tensors, scale, strict=True)))


def is_zero(strength: Tensor | None) -> Tensor | bool:
    """Say where a level does not act; an absent level acts nowhere."""
    return True if strength is None else strength == 0


def live_entries(x: Tensor, strengths: Strengths, nonneg: bool) -> Tensor:
    """Mark the entries of a solution that move with its inputs: (T, M, C), bool.

    Non-zero entries are live. An entry that is exactly 0 by coincidence, not held there by a
    kink, is live too: no l1 or sign constraint acts on it, and its group and its feature are
    either non-zero or not penalised.
    """
    nonzero = x != 0
    feature = nonzero.any(2, keepdim=True).any(0, keepdim=True) | is_zero(strengths.shared)
    row = nonzero.any(2, keepdim=True) | (feature & is_zero(strengths.group))
    if nonneg:
        return nonzero
    return nonzero | (row & is_zero(strengths.l1))


def as_output(gradient: Tensor, needed: bool) -> Tensor:
    """Return a gradient, or the empty tensor that stands for one nobody asked for."""
    return gradient if needed else gradient.new_empty(0)


def safe_reciprocal(x: Tensor) -> Tensor:
    """Return 1/x, and 0 where x is 0."""
    return torch.where(x == 0, 0, 1 / x)
