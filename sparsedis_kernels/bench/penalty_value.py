"""The penalty of (T, M, C) weights and its gradient in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sparsedis_kernels.bench.case import COMPILED, Bar, Case, function_case, shapes_of
from sparsedis_kernels.bench.limits import IN_CACHE
from sparsedis_kernels.bench.prox import PENALTIES
from sparsedis_kernels.ops import penalty_value
from sparsedis_kernels.penalty import Penalty


def cases(op: str, device_type: str, quick: bool) -> Iterator[Case]:
    """The penalties of the prox; the value reads one array, its gradient writes another."""
    bars = (Bar(IN_CACHE, ("torch eager", COMPILED)),)
    for shape in shapes_of(device_type, quick):
        for kind, penalty in PENALTIES.items():
            functions = _functions(penalty)
            yield function_case(op, kind, shape, "forward", functions, arrays=1, bars=bars)
            yield function_case(op, kind, shape, "backward", functions, arrays=2, bars=bars)


def eager(w: Tensor, penalty: Penalty) -> Tensor:
    """`penalty_value` in plain PyTorch, the levels that there are."""
    value = w.new_zeros(())
    if penalty.l1:
        value = value + penalty.l1 * w.abs().sum()
    if penalty.group:
        value = value + penalty.group * torch.linalg.vector_norm(w, dim=2).sum()
    if penalty.shared:
        value = value + penalty.shared * torch.linalg.vector_norm(w, dim=(0, 2)).sum()
    return value


def _functions(penalty: Penalty) -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "ours": lambda w: penalty_value(w, penalty),
        "reference": lambda w: penalty_value(w, penalty, backend="reference"),
        "torch eager": lambda w: eager(w, penalty),
    }
