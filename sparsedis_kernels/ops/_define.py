"""Defines a raw op: one schema, and with it the fake kernel, the reference, vmap and autocast."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sparsedis_kernels import backends

_libraries = {
    ns: torch.library.Library(ns, "FRAGMENT")
    for ns in (backends.AUTOMATIC, backends.REFERENCE, backends.TRITON)
}


def define(
    signature: str,
    *,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    vmap: Callable[..., Any] | None = None,
    autocast: bool = True,
    native: bool = True,
) -> None:
    """Define a raw op in its namespaces.

    A raw op has no gradient: the public function of the same name pairs it with its backward.

    Args:
        signature: the schema, such as ``"prox(Tensor v, ...) -> Tensor"``.
        reference: the implementation in plain PyTorch, which serves where no native kernel does.
        fake: the function of shapes and dtypes that `torch.compile` runs.
        vmap: the batching rule; by default one call per batch entry.
        autocast: under autocast, run in float32. Off for ops that write in place.
        native: whether a native kernel is meant to exist, so that its absence is worth a report.
    """
    name = signature.split("(", 1)[0]
    on_triton = name in backends.TRITON_MODULES
    for ns, library in _libraries.items():
        if ns == backends.TRITON and not on_triton:
            continue
        library.define(signature, tags=(torch.Tag.pt2_compliant_tag,))
        report = native and ns == backends.AUTOMATIC
        serve = _triton(name) if ns == backends.TRITON else _fallback(name, report, reference)
        library.impl(name, serve, "CompositeExplicitAutograd")
        if ns == backends.AUTOMATIC and on_triton and backends.TRITON_ERROR is None:
            library.impl(name, _triton(name), "CUDA")
        torch.library.register_fake(f"{ns}::{name}", fake, lib=library)
        rule = vmap or _one_call_per_entry
        torch.library.register_vmap(f"{ns}::{name}", _bind(rule, ns, name), lib=library)
        if autocast:
            for device in ("cpu", "cuda"):
                torch.library.register_autocast(f"{ns}::{name}", device, torch.float32, lib=library)


def raw(ns: str, name: str) -> Callable[..., Any]:
    """The raw op `name` in namespace `ns`."""
    return getattr(getattr(torch.ops, ns), name)


def call(function: type[torch.autograd.Function], *args: Any) -> Any:
    """``function.apply(*args)`` where something may be recorded, else the forward alone.

    `apply` binds its arguments by the forward's signature at every call, which takes 20 us or more.
    """
    if torch.compiler.is_compiling():
        return function.apply(*args)
    if (
        torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or (
            torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args)
        )
    ):
        forward: Any = function.forward
        if not hasattr(forward, "__signature__"):  # derived anew at every call, too
            forward.__signature__ = inspect.signature(forward)
        return function.apply(*args)
    return function.forward(*args)


class _Backward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(ns: str, name: str, *args: Any) -> Any:
        return raw(ns, f"{name}_backward")(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.name = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"{ctx.name} has no second derivative")


def raw_backward(ns: str, name: str, *args: Any) -> Any:
    """The result of the raw op ``<name>_backward``, which refuses to be differentiated.

    Without that a second derivative would be 0, with no more than a warning. `torch.compile`, which
    cannot trace a backward that raises, refuses second derivatives itself.
    """
    if torch.compiler.is_compiling():
        return raw(ns, f"{name}_backward")(*args)
    return call(_Backward, ns, name, *args)


def _fallback(name: str, report: bool, reference: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        if report:
            device = next(a.device.type for a in tree_leaves(args) if isinstance(a, Tensor))
            backends.report_fallback(name, device)
        return _contiguous(reference(*args))

    return call


def _triton(name: str) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        return backends.triton_kernel(name)(*args)

    return call


def _contiguous(result: Any) -> Any:
    """The strides that native kernels return, and that fake kernels promise."""
    if isinstance(result, Tensor):
        return result.contiguous()
    return None if result is None else tuple(part.contiguous() for part in result)


def _bind(rule: Callable[..., Any], ns: str, name: str) -> Callable[..., Any]:
    def batched(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return rule(raw(ns, name), info.batch_size, in_dims, args)

    return batched


def _one_call_per_entry(
    op: Callable[..., Any], batch: int, in_dims: tuple[int | None, ...], args: tuple[Any, ...]
) -> tuple[Any, Any]:
    results = [
        op(*(_entry(a, d, b) for a, d in zip(args, in_dims, strict=True))) for b in range(batch)
    ]
    if results[0] is None:  # an op that writes in place returns nothing
        return None, None
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0,) * len(results[0])


def _entry(a: Any, dim: Any, b: int) -> Any:
    """Entry b of an argument, or of every item of a list; what has no batch axis stays whole."""
    if isinstance(a, (list, tuple)):
        return [_entry(item, d, b) for item, d in zip(a, dim, strict=True)]
    return a if dim is None else a.select(dim, b)


def fold_into_features(
    op: Callable[..., Any], batch: int, in_dims: tuple[int | None, ...], args: tuple[Any, ...]
) -> tuple[Any, Any]:
    """Batching rule of ops whose features do not interact: the batch becomes more features.

    Tensors are (T, M, ...) or, with one axis, (M,); a batch of B becomes (T, B * M, ...).
    """
    folded = [_fold(a, d, batch) for a, d in zip(args, in_dims, strict=True)]
    result = op(*folded)
    if isinstance(result, Tensor):
        return _unfold(result, batch)
    parts = [_unfold(r, batch) for r in result]
    return tuple(p[0] for p in parts), tuple(p[1] for p in parts)


def _fold(a: Any, dim: int | None, batch: int) -> Any:
    if not isinstance(a, Tensor):
        return a
    axis = 0 if a.dim() - (dim is not None) == 1 else 1
    a = a.unsqueeze(axis) if dim is None else a.movedim(dim, axis)
    sizes = list(a.shape)
    sizes[axis] = batch
    return a.expand(sizes).flatten(axis, axis + 1)


def _unfold(result: Tensor, batch: int) -> tuple[Tensor, int | None]:
    if result.dim() == 1 and result.numel() == 0:  # an output that was not asked for
        return result, None
    axis = 0 if result.dim() == 1 else 1
    return result.unflatten(axis, (batch, -1)), axis
