"""Optimiser steps that end in the exact prox: what `sparsedis_kernels.optim` calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sparsedis_kernels import backends, reference
from sparsedis_kernels.arrays import narrow, widened
from sparsedis_kernels.ops import _check
from sparsedis_kernels.ops._define import define, raw
from sparsedis_kernels.penalty import Penalty

_PENALTY = (
    "Tensor[] l1, Tensor[] group, Tensor[] shared, Tensor[] ridge, float[] scale, bool nonneg"
)


def _fake(*_: Any) -> None:
    return None


define(
    "prox_sgd_(Tensor(a!)[] weights, Tensor[] grads, Tensor(b!)[] momentum_buffers, "
    f"Tensor(c!)[] steps, {_PENALTY}, float lr, float momentum, bool nesterov, "
    "float weight_decay) -> ()",
    reference=reference.prox_sgd_,
    fake=_fake,
    autocast=False,
)
define(
    "prox_adamw_(Tensor(a!)[] weights, Tensor[] grads, Tensor(b!)[] exp_avgs, "
    f"Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] steps, {_PENALTY}, float lr, float beta1, "
    "float beta2, float eps, float weight_decay) -> ()",
    reference=reference.prox_adamw_,
    fake=_fake,
    autocast=False,
)


def prox_sgd_(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    steps: Sequence[Tensor],
    penalty: Penalty,
    *,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    backend: str | None = None,
) -> None:
    r"""One step of `optim.ProxSGD` on many weights, in place. Not differentiable.

    .. math:: g \gets g + decay\; w, \quad b \gets \mu b + g, \quad
              w \gets \mathrm{prox}_{lr\, s_k \Omega}(w - lr\, b), \quad
              s_k = 1 + \mu + \dots + \mu^{k-1}

    (Nesterov: g + mu b for b, s_{k+1} for s_k.) Nothing is read back from the device, so the step
    can be captured in a CUDA graph; `lr` and the other numbers are then part of the graph, steps
    and tensor strengths are not.

    Args:
        weights: tensors (T, M, C), each with its own sizes, floating, of one dtype and device.
        grads: their gradients, of the same shapes.
        momentum_buffers: b of every weight, of the same shapes; empty if `momentum` is 0.
        steps: the number of steps taken so far, one 0-dim floating tensor a weight; 1 is added.
        penalty: the regulariser.
        lr: step size >= 0.
        momentum: factor of b, in [0, 1). Default 0.
        nesterov: whether to use Nesterov's momentum. Default False.
        weight_decay: strength of the l2 term added to the gradient. Default 0.
        backend: ``"cpu"``, ``"triton"``, ``"reference"`` or None (``SPARSEDIS_BACKEND``, else the
            best there is). Default None.

    Raises:
        ValueError: lists or shapes differ, or a strength does not fit a weight.
        TypeError: a weight is not floating.
        RuntimeError: `backend` cannot serve the tensors' device.
    """
    if not weights:
        return
    buffers = {"momentum_buffers": momentum_buffers} if momentum else {}
    _check_lists("prox_sgd_", weights, {"grads": grads, **buffers}, steps)
    arrays = [weights, grads, momentum_buffers if momentum else []]
    numbers = (lr, momentum, nesterov, weight_decay)
    _step("prox_sgd_", arrays, steps, penalty, numbers, backend)


def prox_adamw_(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    penalty: Penalty,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    backend: str | None = None,
) -> None:
    r"""One step of `optim.ProxAdamW` on many weights, in place. Not differentiable.

    .. math:: m \gets \beta_1 m + (1 - \beta_1) g, \quad s \gets \beta_2 s + (1 - \beta_2) g^2,
              \quad d = \sqrt{s / (1 - \beta_2^k)} + \epsilon
    .. math:: v = (1 - lr\; decay)\, w - lr\, \frac{m / (1 - \beta_1^k)}{d}, \quad
              w \gets \arg\min_x \tfrac12 \sum_i d_i (x_i - v_i)^2 + lr\; \Omega(x)

    Nothing is read back from the device, so the step can be captured in a CUDA graph; `lr` and the
    other numbers are then part of the graph, steps and tensor strengths are not.

    Args:
        weights: tensors (T, M, C), each with its own sizes, floating, of one dtype and device.
        grads: their gradients, of the same shapes.
        exp_avgs: m of every weight, of the same shapes.
        exp_avg_sqs: s of every weight, of the same shapes.
        steps: the number of steps taken so far, one 0-dim floating tensor a weight; 1 is added.
        penalty: the regulariser.
        lr: step size >= 0.
        betas: decay rates of the two moments, in [0, 1). Default (0.9, 0.999).
        eps: added to the root of the second moment, > 0. Default 1e-8.
        weight_decay: strength of the decoupled decay. Default 1e-2.
        backend: ``"cpu"``, ``"triton"``, ``"reference"`` or None (``SPARSEDIS_BACKEND``, else the
            best there is). Default None.

    Raises:
        ValueError: lists or shapes differ, or a strength does not fit a weight.
        TypeError: a weight is not floating.
        RuntimeError: `backend` cannot serve the tensors' device.
    """
    if not weights:
        return
    others = {"grads": grads, "exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs}
    _check_lists("prox_adamw_", weights, others, steps)
    arrays = [weights, *others.values()]
    _step("prox_adamw_", arrays, steps, penalty, (lr, *betas, eps, weight_decay), backend)


def _check_lists(
    op: str,
    weights: Sequence[Tensor],
    others: dict[str, Sequence[Tensor]],
    steps: Sequence[Tensor],
) -> None:
    for name, tensors in (*others.items(), ("steps", steps)):
        if len(tensors) != len(weights):
            raise ValueError(f"{op}: {len(tensors)} {name} for {len(weights)} weights")
    for i, w in enumerate(weights):
        alike = all(tensors[i].shape == w.shape for tensors in others.values())
        if w.dim() != 3 or not w.is_floating_point() or not alike:
            _refuse(op, i, w, others)  # names cost more than the checks


def _refuse(op: str, i: int, w: Tensor, others: dict[str, Sequence[Tensor]]) -> None:
    _check.weights(op, f"weights[{i}]", w)
    for name, tensors in others.items():
        _check.same_shape(op, f"{name}[{i}]", tensors[i], f"weights[{i}]", tuple(w.shape))


def _step(
    op: str, arrays: Sequence[Sequence[Tensor]], steps: Sequence[Tensor], penalty: Penalty,
    numbers: tuple[float, ...], backend: str | None,
) -> None:  # fmt: skip
    """Call the raw op on weights, gradients and moments; `numbers` begin with the step size."""
    weights = arrays[0]
    ns = backends.namespace(op, weights[0].device, backend)
    half = backends.takes_half(ns, op, weights[0].device)
    wide = [list(tensors) if half else [widened(t) for t in tensors] for tensors in arrays]
    raw(ns, op)(*wide, list(steps), *_levels(op, weights, penalty, numbers[0]), *numbers)
    for k in (0, *range(2, len(arrays))):  # all but the gradients
        narrow(arrays[k], wide[k])


def _levels(op: str, weights: Sequence[Tensor], penalty: Penalty, lr: float) -> tuple[Any, ...]:
    """Strengths of every weight as four lists, scale and nonneg, scaled by lr."""
    all_strengths = [penalty.strengths(op, w.shape, w, lr) for w in weights]
    lists = ([s[k] for s in all_strengths if s[k] is not None] for k in range(4))
    return *lists, all_strengths[0].scale, penalty.nonneg
