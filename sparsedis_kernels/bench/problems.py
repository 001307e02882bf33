"""Problems that the benchmarks and the tests share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Samples in one layout, as keyword arguments of the head ops."""

    z: Tensor
    y: Tensor
    offsets: Tensor | None = None
    sample_weight: Tensor | None = None

    def keywords(self) -> dict[str, Tensor | None]:
        """What describes the layout, and the weights."""
        return {"offsets": self.offsets, "sample_weight": self.sample_weight}


def heads_problem(
    T: int, n: int, M: int, C: int, *, dtype: torch.dtype = torch.float64, correlation: float = 0.0
) -> Samples:
    """Dense samples whose targets depend on about a third of the features, with an offset."""
    z = torch.randn(T, n, M, dtype=dtype)
    if correlation:
        common = torch.randn(T, n, 1, dtype=dtype)
        z = correlation**0.5 * common + (1 - correlation) ** 0.5 * z
    weight = torch.randn(T, M, C, dtype=dtype) * (torch.rand(T, M, 1) < 0.3)
    return Samples(z, z @ weight + 0.3 * torch.randn(T, n, C, dtype=dtype) + 1.0)
