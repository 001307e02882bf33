"""The prox of (T, M, C) weights, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sparsedis_kernels.bench.case import COMPILED, Case, function_case, shapes_of
from sparsedis_kernels.bench.limits import memory_bars
from sparsedis_kernels.ops import prox
from sparsedis_kernels.penalty import Penalty

PENALTIES = {
    "group": Penalty(group=0.5),
    "sparse group": Penalty(l1=0.25, group=0.5),
    "shared": Penalty(l1=0.25, shared=8.0),
}


def cases(op: str, device_type: str, quick: bool) -> Iterator[Case]:
    """Every penalty, and the prox in a metric, whose group level has no closed form."""
    for shape in shapes_of(device_type, quick):
        for kind, penalty in PENALTIES.items():
            functions = _functions(penalty)
            bars = memory_bars(shape, ("torch eager", COMPILED))
            yield function_case(op, kind, shape, "forward", functions, arrays=2, bars=bars)
            yield function_case(op, kind, shape, "backward", functions, arrays=3)
        functions = _functions(PENALTIES["sparse group"])
        functions.pop("torch eager")
        kind = "sparse group, metric"
        yield function_case(op, kind, shape, "forward", functions, arrays=3, metric=True)


def eager(v: Tensor, penalty: Penalty) -> Tensor:
    """The levels one after another in plain PyTorch, each in its best library formulation."""
    x = torch.nn.functional.softshrink(v, float(penalty.l1)) if penalty.l1 else v
    if penalty.group:
        x = x * (1 - penalty.group / x.norm(dim=2, keepdim=True).clamp(min=1e-30)).clamp(min=0)
    if penalty.shared:
        norm = x.norm(dim=(0, 2), keepdim=True).clamp(min=1e-30)
        x = x * (1 - penalty.shared / norm).clamp(min=0)
    return x


def _functions(penalty: Penalty) -> dict[str, Callable[..., Tensor]]:
    return {
        "ours": lambda v, d=None: prox(v, penalty, metric=d),
        "reference": lambda v, d=None: prox(v, penalty, metric=d, backend="reference"),
        "torch eager": lambda v: eager(v, penalty),
    }
