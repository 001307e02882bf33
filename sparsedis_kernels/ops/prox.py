"""The proximal operator of the nested group-sparse penalty."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsedis_kernels import arrays, backends, reference
from sparsedis_kernels.ops import _check
from sparsedis_kernels.ops._define import call, define, fold_into_features, raw, raw_backward
from sparsedis_kernels.penalty import Penalty

_PENALTY = "Tensor? l1, Tensor? group, Tensor? shared, Tensor? ridge, Tensor? metric"
_NUMBERS = "float[] scale, bool nonneg"


def _prox_fake(v: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(v, memory_format=torch.contiguous_format)


def _backward_fake(
    grad: Tensor, x: Tensor, v: Tensor | None, l1: Any, group: Any, shared: Any, ridge: Any,
    metric: Any, scale: list[float], nonneg: bool, needs: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    T, M, C = x.shape
    shapes = [(T, M, C), (T, M), (T, M), (M,), (T, M), (T, M, C)]
    dtypes = [x.dtype] + 5 * [arrays.accumulated(x.dtype)]
    return arrays.outputs(x, shapes, needs, dtypes)


define(
    f"prox(Tensor v, {_PENALTY}, {_NUMBERS}) -> Tensor",
    reference=reference.prox,
    fake=_prox_fake,
    vmap=fold_into_features,
)
define(
    f"prox_(Tensor(a!) v, {_PENALTY}, {_NUMBERS}) -> ()",
    reference=reference.prox_,
    fake=lambda *_: None,
    autocast=False,
)
define(
    f"prox_backward(Tensor grad, Tensor x, Tensor? v, {_PENALTY}, {_NUMBERS}, bool[] needs)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.prox_backward,
    fake=_backward_fake,
    vmap=fold_into_features,
)


class _Prox(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        ns: str, v: Tensor, l1: Tensor | None, group: Tensor | None, shared: Tensor | None,
        ridge: Tensor | None, metric: Tensor | None, scale: list[float], nonneg: bool,
    ) -> Tensor:  # fmt: skip
        return raw(ns, "prox")(v, l1, group, shared, ridge, metric, scale, nonneg)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ns, v, *penalty, ctx.scale, ctx.nonneg = inputs
        ctx.ns = ns
        ctx.save_for_backward(output, v if penalty[-1] is not None else None, *penalty)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = list(ctx.needs_input_grad[1:7])
        x, v, *penalty = ctx.saved_tensors
        grads = raw_backward(ctx.ns, "prox", grad, x, v, *penalty, ctx.scale, ctx.nonneg, needs)
        return None, *arrays.wanted(grads, needs), None, None


def prox(
    v: Tensor,
    penalty: Penalty,
    step: float | Tensor = 1.0,
    *,
    metric: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Proximal operator of the nested penalty, exact, in one pass.

    .. math:: \arg\min_X \tfrac12 \sum_i d_i (X_i - V_i)^2 + step\; \Omega(X)

    with d = `metric` or 1. Without a metric it is the composition of soft-thresholding, block
    soft-thresholding of each (task, feature) group, then of each feature, then the ridge shrink
    (Jenatton et al., JMLR 2011). Where the quadratic is not uniform inside a group, its norm is
    the root of a secular equation, found by a reciprocal Newton iteration (More and Sorensen 1983).

    Args:
        v: weights (T, M, C), floating; half precision is computed in float32.
        penalty: the regulariser; its tensor strengths may require gradients.
        step: step size >= 0, a float or 0-dim tensor. Default 1.
        metric: positive diagonal (T, M, C), for example Adam's denominator. Default None.
        backend: ``"cpu"``, ``"triton"``, ``"reference"`` or None (``SPARSEDIS_BACKEND``, else the
            best there is). Default None.

    Returns:
        The proximal point, (T, M, C), dtype of `v`; entries inside a threshold are exactly 0.
        Differentiable in `v`, `step`, `metric` and every tensor strength.

    Raises:
        ValueError: `v` is not (T, M, C), `metric` or a strength does not fit it, or `step`, if it
            is a number, is not >= 0.
        TypeError: `v` is not floating.
        RuntimeError: `backend` cannot serve the tensor's device, or a second derivative is taken.
    """
    ns, *args = _arguments("prox", v, penalty, step, metric, backend)
    return call(_Prox, ns, *args).to(v.dtype)


def prox_(
    v: Tensor,
    penalty: Penalty,
    step: float | Tensor = 1.0,
    *,
    metric: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """`prox`, written into `v`, which is returned. Not differentiable.

    Raises:
        RuntimeError: `v` requires a gradient and grad mode is on.
        ValueError, TypeError: as `prox`.
    """
    if v.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("prox_: v requires a gradient; use prox, or torch.no_grad()")
    ns, wide, *rest = _arguments("prox_", v, penalty, step, metric, backend)
    raw(ns, "prox_")(wide, *rest)
    return v if wide is v else v.copy_(wide)


def _arguments(
    op: str, v: Tensor, penalty: Penalty, step: float | Tensor, metric: Tensor | None,
    backend: str | None,
) -> tuple[Any, ...]:  # fmt: skip
    _check.weights(op, "v", v)
    if not isinstance(step, Tensor) and not step >= 0:
        raise ValueError(f"{op}: step must be >= 0, got {step}")
    if metric is not None:
        _check.same_shape(op, "metric", metric, "v", tuple(v.shape))
    ns = backends.namespace(op, v.device, backend)
    wide = _check.prepared(ns, op, v)
    l1, group, shared, ridge, scale, nonneg = penalty.strengths(op, v.shape, v, step)
    metric = None if metric is None else metric.to(arrays.accumulated(v.dtype))
    return ns, wide, l1, group, shared, ridge, metric, scale, nonneg
