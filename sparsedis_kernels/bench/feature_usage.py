"""Feature usage of (T, M, C) weights, and the gradient of its entropy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sparsedis_kernels.bench.case import COMPILED, SHAPES, Case, function_case
from sparsedis_kernels.bench.limits import memory_bars
from sparsedis_kernels.ops import feature_usage


def cases(op: str, device_type: str, quick: bool) -> Iterator[Case]:
    """All numbers forward; the entropy's gradient backward, which reads and writes one array."""
    forward: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
        "ours": feature_usage,
        "reference": lambda w: feature_usage(w, backend="reference"),
        "torch eager": eager,
    }
    backward = {
        "ours": lambda w: feature_usage(w).entropy,
        "reference": lambda w: feature_usage(w, backend="reference").entropy,
        "torch eager": lambda w: eager(w)[1],
    }
    for shape in SHAPES[: 1 if quick else None]:
        bars = memory_bars(shape, ("torch eager", COMPILED))
        yield function_case(op, "", shape, "forward", forward, arrays=1, bars=bars)
        yield function_case(op, "entropy", shape, "backward", backward, arrays=2)


def eager(w: Tensor) -> tuple[Tensor, ...]:
    """`feature_usage` in plain PyTorch."""
    magnitude = w.abs().sum(dim=(0, 2))
    total = magnitude.sum()
    p = magnitude / total
    entropy = torch.special.entr(p).sum()
    slope = torch.where(p > 0, -(p.log() + entropy) / total, 0)
    used = w.detach().ne(0).any(dim=2)
    tasks = used.sum(dim=0)
    shared = (tasks > 1).sum() / (tasks > 0).sum()
    return p, entropy, tasks, used.sum(dim=1), shared, slope
