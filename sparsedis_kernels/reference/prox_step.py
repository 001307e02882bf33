"""Optimiser steps that end in the exact prox, one parameter after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsedis_kernels.reference.prox import prox

Levels = Sequence[Tensor | None]  # l1, group, shared, ridge of one parameter


def prox_(v: Tensor, *args: Any) -> None:
    """`prox`, written into v."""
    v.copy_(prox(v, *args))


def prox_sgd_(
    weights: list[Tensor], grads: list[Tensor], momentum_buffers: list[Tensor],
    steps: list[Tensor], l1: list[Tensor], group: list[Tensor], shared: list[Tensor],
    ridge: list[Tensor], scale: list[float], nonneg: bool, lr: float, momentum: float,
    nesterov: bool, weight_decay: float,
) -> None:  # fmt: skip
    """b <- momentum b + grad + decay w, w <- prox of w - lr b; levels are scaled by lr already."""
    torch._foreach_add_(steps, 1)
    for i, (w, grad) in enumerate(zip(weights, grads, strict=True)):
        direction = grad + weight_decay * w
        levels = levels_of(i, l1, group, shared, ridge)
        for buffer in momentum_buffers[i : i + 1]:
            buffer.mul_(momentum).add_(direction)
            direction = direction + momentum * buffer if nesterov else buffer
            summed = gradients_summed(steps[i], momentum, nesterov)
            levels = times(levels, scale, summed, w)
        prox_(w.sub_(lr * direction), *levels, None, scale, nonneg)


def prox_adamw_(
    weights: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor],
    steps: list[Tensor], l1: list[Tensor], group: list[Tensor], shared: list[Tensor],
    ridge: list[Tensor], scale: list[float], nonneg: bool, lr: float, beta1: float, beta2: float,
    eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """AdamW's step, then the prox in its metric; the levels are scaled by lr already."""
    torch._foreach_add_(steps, 1)
    for i, arrays in enumerate(zip(weights, grads, exp_avgs, exp_avg_sqs, strict=True)):
        w, grad, first, second = arrays
        step = steps[i].double()
        first.lerp_(grad, 1 - beta1)
        second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        metric = second.sqrt().div_((1 - beta2**step).sqrt()).add_(eps)
        w.mul_(1 - lr * weight_decay).sub_(first / metric * (lr / (1 - beta1**step)))
        prox_(w, *levels_of(i, l1, group, shared, ridge), metric, scale, nonneg)


def levels_of(i: int, *levels: list[Tensor]) -> Levels:
    """The strengths of parameter i; an empty list is a level without tensors."""
    return tuple(level[i] if level else None for level in levels)


def gradients_summed(step: Tensor, momentum: float, nesterov: bool) -> Tensor:
    """How many gradients the step of SGD number `step` adds up: 1 + momentum + ..., float64."""
    return (1 - momentum ** (step.double() + nesterov)) / (1 - momentum)


def times(levels: Levels, scale: list[float], factor: Tensor, w: Tensor) -> Levels:
    """The levels of a penalty times a 0-dim tensor, which never leaves its device; scale stays."""
    shapes = (w.shape[:2], w.shape[:2], w.shape[1:2], w.shape[:2])
    factor = factor.to(w.dtype)
    return tuple(
        (factor.expand(shape) if level is None else level * factor) if number else None
        for level, number, shape in zip(levels, scale, shapes, strict=True)
    )
