"""What all implementations of an op agree on: the dtypes they compute in, and their outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def accumulated(dtype: torch.dtype) -> torch.dtype:
    """The dtype that is computed in: sums accumulate in float32 at least."""
    return dtype if dtype == torch.float32 else torch.promote_types(dtype, torch.float32)


def widened(value: Tensor) -> Tensor:
    """`value`, in float32 if it is half precision."""
    dtype = accumulated(value.dtype)
    return value if value.dtype == dtype else value.to(dtype)  # a call costs even where it is idle


def narrow(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Round what was computed of `widened` tensors back into them."""
    for target, source in zip(targets, sources, strict=True):
        if target is not source:
            target.copy_(source)


def readable(value: object) -> bool:
    """Whether the value can be looked at here without breaking a trace."""
    if not isinstance(value, Tensor):
        return True
    return not (
        torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(value)
    )


def plain(value: Tensor) -> bool:
    """Whether the tensor is one with values here, no stand-in that a trace or a transform made."""
    return type(value) is Tensor and readable(value)


def outputs(
    like: Tensor,
    shapes: Sequence[Sequence[int]],
    needs: Sequence[bool],
    dtypes: Sequence[torch.dtype] | None = None,
) -> tuple[Tensor, ...]:
    """Fresh memory for the outputs that are wanted, and (0,) for the others.

    Args:
        like: its device, and its dtype unless `dtypes` are given.
        shapes: of every output.
        needs: whether it is wanted.
        dtypes: of every output. Default None.
    """
    kinds = dtypes or [like.dtype] * len(shapes)
    return tuple(
        like.new_empty(tuple(shape) if need else (0,), dtype=dtype)
        for shape, need, dtype in zip(shapes, needs, kinds, strict=True)
    )


def wanted(outputs: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """The outputs, None for those that are not wanted."""
    return tuple(o if need else None for o, need in zip(outputs, needs, strict=True))
