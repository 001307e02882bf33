"""Standalone proximal operators of a group: MCP, SCAD, L0 and L-infinity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsedis_kernels import arrays, backends, reference
from sparsedis_kernels.ops import _check
from sparsedis_kernels.ops._define import call, define, fold_into_features, raw, raw_backward

_MCP, _SCAD, _L0 = 0, 1, 2
_RADIAL = "Tensor v, Tensor strength, Tensor step, Tensor shape, int kind"


def _like(v: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(v, memory_format=torch.contiguous_format)


def _radial_backward_fake(grad: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, ...]:
    strength = v.new_empty(v.shape[:2], dtype=arrays.accumulated(v.dtype))
    return _like(v), strength, torch.empty_like(strength), torch.empty_like(strength)


def _linf_backward_fake(grad: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    shapes = (v.shape, v.shape[:2], v.shape)
    dtypes = [v.dtype] + 2 * [arrays.accumulated(v.dtype)]
    return arrays.outputs(v, shapes, rest[-1], dtypes)


define(
    f"radial_prox({_RADIAL}) -> Tensor",
    reference=reference.radial_prox,
    fake=_like,
    vmap=fold_into_features,
)
define(
    f"radial_prox_backward(Tensor grad, {_RADIAL}) -> (Tensor, Tensor, Tensor, Tensor)",
    reference=reference.radial_prox_backward,
    fake=_radial_backward_fake,
    vmap=fold_into_features,
)
define(
    "linf_prox(Tensor v, Tensor strength, Tensor? metric) -> Tensor",
    reference=reference.linf_prox,
    fake=_like,
    vmap=fold_into_features,
)
define(
    "linf_prox_backward(Tensor grad, Tensor v, Tensor x, Tensor strength, Tensor? metric, "
    "bool[] needs) -> (Tensor, Tensor, Tensor)",
    reference=reference.linf_prox_backward,
    fake=_linf_backward_fake,
    vmap=fold_into_features,
)


class _RadialProx(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        ns: str, v: Tensor, strength: Tensor, step: Tensor, shape: Tensor, kind: int
    ) -> Tensor:
        return raw(ns, "radial_prox")(v, strength, step, shape, kind)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.ns, *tensors, ctx.kind = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = raw_backward(ctx.ns, "radial_prox", grad, *ctx.saved_tensors, ctx.kind)
        return None, *arrays.wanted(grads, list(ctx.needs_input_grad[1:5])), None


class _LinfProx(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(ns: str, v: Tensor, strength: Tensor, metric: Tensor | None) -> Tensor:
        return raw(ns, "linf_prox")(v, strength, metric)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.ns, v, strength, metric = inputs
        ctx.save_for_backward(v, output, strength, metric)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = list(ctx.needs_input_grad[1:4])
        grads = raw_backward(ctx.ns, "linf_prox", grad, *ctx.saved_tensors, needs)
        return None, *arrays.wanted(grads, needs)


def prox_mcp(
    v: Tensor,
    strength: float | Tensor,
    step: float | Tensor = 1.0,
    *,
    gamma: float | Tensor = 3.0,
    backend: str | None = None,
) -> Tensor:
    r"""Proximal operator of `step` times the group minimax concave penalty (Zhang 2010).

    With r the norm of a group over C: 0 for r <= step * strength; v (1 - step * strength / r) /
    (1 - step / gamma) up to r = gamma * strength; v above.

    Args:
        v: weights (T, M, C), floating; half precision is computed in float32.
        strength: lambda >= 0, a float or a tensor that expands to (T, M).
        step: step size, same forms. Default 1.
        gamma: concavity, above `step`, same forms. Default 3.
        backend: ``"cpu"``, ``"triton"``, ``"reference"`` or None (``SPARSEDIS_BACKEND``, else the
            best there is). Default None.

    Returns:
        (T, M, C), dtype of `v`; differentiable in `v`, `strength`, `step` and `gamma`.

    Raises:
        ValueError: a shape does not fit, or floats with gamma <= step.
        TypeError: `v` is not floating.
        RuntimeError: `backend` cannot serve the tensor's device, or a second derivative is taken.
    """
    _check_above("prox_mcp", "gamma", gamma, "step", step, 0.0)
    return _radial("prox_mcp", v, strength, step, ("gamma", gamma), _MCP, backend)


def prox_scad(
    v: Tensor,
    strength: float | Tensor,
    step: float | Tensor = 1.0,
    *,
    a: float | Tensor = 3.7,
    backend: str | None = None,
) -> Tensor:
    r"""Proximal operator of `step` times the group SCAD penalty (Fan and Li 2001).

    With r the norm of a group over C: block soft-thresholding for r <= strength (1 + step);
    (v / r) ((a - 1) r - step a strength) / (a - 1 - step) up to r = a strength; v above.

    Args:
        v, strength, step, backend: as in `prox_mcp`.
        a: concavity, above 1 + step, a float or a tensor that expands to (T, M). Default 3.7.

    Returns:
        (T, M, C), dtype of `v`; differentiable in `v`, `strength`, `step` and `a`.

    Raises:
        ValueError: a shape does not fit, or floats with a <= 1 + step.
        TypeError, RuntimeError: as `prox_mcp`.
    """
    _check_above("prox_scad", "a", a, "1 + step", step, 1.0)
    return _radial("prox_scad", v, strength, step, ("a", a), _SCAD, backend)


def prox_l0(
    v: Tensor,
    strength: float | Tensor,
    step: float | Tensor = 1.0,
    *,
    backend: str | None = None,
) -> Tensor:
    r"""Proximal operator of `step` times `strength` times the number of non-zero groups.

    A group over C is kept iff its squared norm exceeds 2 * step * strength, else it is 0.

    Args:
        v, strength, step, backend: as in `prox_mcp`.

    Returns:
        (T, M, C), dtype of `v`; differentiable in `v` (the gradient passes where a group is kept,
        and is 0 in `strength` and `step`).

    Raises:
        ValueError, TypeError, RuntimeError: as `prox_mcp`.
    """
    return _radial("prox_l0", v, strength, step, ("shape", 1.0), _L0, backend)


def prox_linf(
    v: Tensor,
    strength: float | Tensor,
    step: float | Tensor = 1.0,
    *,
    metric: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Proximal operator of `step` times `strength` times the L-infinity norm of each group.

    sign(v) min(|v|, tau) with :math:`\sum_c d_c (|v_c| - \tau)_+ = step\; strength`, and 0 where
    :math:`\sum_c d_c |v_c|` does not exceed that; d = `metric` or 1.

    Args:
        v, strength, step, backend: as in `prox_mcp`.
        metric: positive diagonal (T, M, C). Default None.

    Returns:
        (T, M, C), dtype of `v`; differentiable in `v`, `strength`, `step` and `metric`.

    Raises:
        ValueError, TypeError, RuntimeError: as `prox_mcp`.
    """
    _check.weights("prox_linf", "v", v)
    if metric is not None:
        _check.same_shape("prox_linf", "metric", metric, "v", tuple(v.shape))
        metric = metric.to(arrays.accumulated(v.dtype))
    level = _check.per_group("prox_linf", "strength", strength, v)
    level = level * _check.per_group("prox_linf", "step", step, v)
    ns = backends.namespace("prox_linf", v.device, backend)
    return call(_LinfProx, ns, _check.prepared(ns, "prox_linf", v), level, metric).to(v.dtype)


def _check_above(
    op: str, name: str, value: float | Tensor, other: str, step: float | Tensor, offset: float
) -> None:
    numbers = not (isinstance(value, Tensor) or isinstance(step, Tensor))
    if numbers and value <= offset + step:
        raise ValueError(f"{op}: {name} = {value} must exceed {other} = {offset + step}")


def _radial(
    op: str, v: Tensor, strength: float | Tensor, step: float | Tensor,
    shape: tuple[str, float | Tensor], kind: int, backend: str | None,
) -> Tensor:  # fmt: skip
    _check.weights(op, "v", v)
    values = (("strength", strength), ("step", step), shape)
    expanded = [_check.per_group(op, name, value, v) for name, value in values]
    ns = backends.namespace(op, v.device, backend)
    return call(_RadialProx, ns, _check.prepared(ns, op, v), *expanded, kind).to(v.dtype)
