"""The value of a penalty."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsedis_kernels import arrays, backends, reference
from sparsedis_kernels.ops import _check
from sparsedis_kernels.ops._define import call, define, raw, raw_backward
from sparsedis_kernels.penalty import Penalty

_TENSORS = "Tensor w, Tensor? l1, Tensor? group, Tensor? shared, Tensor? ridge, float[] scale"


def _backward_fake(grad: Tensor, w: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    T, M, C = w.shape
    shapes = [(T, M, C), (T, M), (T, M), (M,), (T, M)]
    return arrays.outputs(w, shapes, rest[-1])


define(
    f"penalty_value({_TENSORS}, bool nonneg) -> Tensor",
    reference=reference.penalty_value,
    fake=lambda w, *_: w.new_empty(()),
)
define(
    f"penalty_value_backward(Tensor grad, {_TENSORS}, bool[] needs)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.penalty_value_backward,
    fake=_backward_fake,
)


class _PenaltyValue(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        ns: str, w: Tensor, l1: Tensor | None, group: Tensor | None, shared: Tensor | None,
        ridge: Tensor | None, scale: list[float], nonneg: bool,
    ) -> Tensor:  # fmt: skip
        return raw(ns, "penalty_value")(w, l1, group, shared, ridge, scale, nonneg)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.ns, *tensors, ctx.scale, _ = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = list(ctx.needs_input_grad[1:6])
        grads = raw_backward(ctx.ns, "penalty_value", grad, *ctx.saved_tensors, ctx.scale, needs)
        return None, *arrays.wanted(grads, needs), None, None


def penalty_value(weight: Tensor, penalty: Penalty, *, backend: str | None = None) -> Tensor:
    r"""The penalty :math:`\Omega(W)` (see `Penalty`), all tasks together.

    Args:
        weight: (T, M, C), floating; half precision is computed in float32.
        penalty: the regulariser; its tensor strengths may require gradients.
        backend: ``"cpu"``, ``"reference"`` or None (``SPARSEDIS_BACKEND``, else the
            best there is). Default None.

    Returns:
        0-dim, dtype of `weight`; infinite where `penalty.nonneg` is violated. Differentiable in
        `weight` (subgradient 0 at a kink) and every tensor strength.

    Raises:
        ValueError: `weight` is not (T, M, C), or a strength does not fit it.
        TypeError: `weight` is not floating.
        RuntimeError: `backend` cannot serve the tensor's device, or a second derivative is taken.
    """
    _check.weights("penalty_value", "weight", weight)
    wide = arrays.widened(weight)
    n = penalty.strengths("penalty_value", (weight.shape[0], weight.shape[1]), wide)
    ns = backends.namespace("penalty_value", weight.device, backend)
    return call(_PenaltyValue, ns, wide, *n.tensors, n.scale, n.nonneg).to(weight.dtype)
