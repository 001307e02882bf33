from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedis_kernels import reference

LEVELS = ("l1", "group", "shared", "ridge")
# Every combination of present levels that a penalty can have, as scales.
ALL_SCALES = [[float(bits >> k & 1) for k in range(4)] for bits in range(16)]


def scale_id(scale: Sequence[float]) -> str:
    return "+".join(name for name, s in zip(LEVELS, scale, strict=True) if s) or "none"


@dataclass
class Case:
    v: Tensor
    strengths: list[Tensor | None]
    metric: Tensor | None
    scale: list[float]
    nonneg: bool

    def args(self) -> tuple:
        return (*self.strengths, self.metric, self.scale, self.nonneg)


def prox_case(
    scale: Sequence[float],
    metric: bool = False,
    nonneg: bool = False,
    shape: tuple[int, int, int] = (3, 4, 3),
    tensors: bool = True,
    seed: int = 0,
) -> Case:
    """A problem whose solution has zero entries, zero groups and zero features, and live ones."""
    g = torch.Generator().manual_seed(seed)
    T, M, C = shape

    def rand(*size: int) -> Tensor:
        return torch.rand(*size, generator=g, dtype=torch.float64)

    v = torch.randn(T, M, C, generator=g, dtype=torch.float64) + 0.3
    v = v * 2 * (torch.arange(M, dtype=torch.float64)[:, None] + 0.2) / (M - 0.8)
    strengths: list[Tensor | None] = [None] * 4
    if tensors:
        shapes = [(T, M), (T, M), (M,), (T, M)]
        strengths = [0.1 + 0.4 * rand(*s) for s in shapes]
    factor = [0.9, 1.1, 1.2, 0.8] if tensors else [0.3, 0.35, 0.4, 0.3]
    return Case(
        v=v,
        strengths=strengths,
        metric=0.2 + 2 * rand(T, M, C) if metric else None,
        scale=[a * b for a, b in zip(scale, factor, strict=True)],
        nonneg=nonneg,
    )


def directional(f: Callable[[Tensor], Tensor], x: Tensor, cotangent: Tensor, h: float) -> Tensor:
    """Central differences of <cotangent, f(x)>, entry by entry."""
    result = torch.zeros_like(x)
    for i in range(x.numel()):
        step = torch.zeros_like(x)
        step.view(-1)[i] = h
        result.view(-1)[i] = (cotangent * (f(x + step) - f(x - step))).sum() / (2 * h)
    return result


def directional_by_feature(
    f: Callable[..., Tensor], inputs: Sequence[Tensor | None], k: int, cotangent: Tensor, h: float
) -> Tensor:
    """The same for input k of a function that treats features apart, in one call per sign.

    Every entry is moved in its own copy of all features.
    """
    count = inputs[k].numel()

    def moved(sign: int) -> Tensor:
        steps = sign * h * torch.eye(count, dtype=cotangent.dtype).view(count, *inputs[k].shape)
        copies = [
            None
            if x is None
            else torch.cat(
                [x + steps[j] if i == k else x for j in range(count)], min(x.dim() - 1, 1)
            )
            for i, x in enumerate(inputs)
        ]
        T, M, C = cotangent.shape
        return f(*copies).view(T, count, M, C)

    change = cotangent[:, None] * (moved(1) - moved(-1)) / (2 * h)
    return change.sum((0, 2, 3)).view_as(inputs[k])


def assert_gradient(actual: Tensor, expected: Tensor, rtol: float = 1e-6) -> None:
    """Compare against finite differences, relative to the largest entry."""
    assert actual.shape == expected.shape
    size = max(float(expected.abs().max()), 1e-3)
    error = float((actual - expected).abs().max())
    assert error <= rtol * size, f"error {error:.2e}, size {size:.2e}"


@dataclass
class Heads:
    """A batch of head problems, in the argument order of the raw functions."""

    z: Tensor
    y: Tensor
    strengths: list[Tensor | None]
    scale: list[float]
    offsets: Tensor | None = None
    sample_weight: Tensor | None = None
    nonneg: bool = False
    fit_intercept: bool = True
    loss: int = 0

    def problem(self) -> tuple:
        return (
            *(self.z, self.y, self.offsets, self.sample_weight, self.loss, *self.strengths),
            *(self.scale, self.nonneg, self.fit_intercept),
        )

    def fit(
        self, tol: float = 1e-12, max_iter: int = 100_000, init: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return reference.fit_heads(*self.problem(), init, tol, max_iter)

    def lambda_max(self) -> Tensor:
        l1, group, shared = self.strengths[:3]
        shared = shared if self.scale[2] else None
        data = (self.z, self.y, self.offsets, self.sample_weight, self.loss, l1, group, shared)
        return reference.lambda_max(*data, self.scale, self.fit_intercept, self.nonneg)

    def gap(self, weight: Tensor) -> Tensor:
        return reference.duality_gap(weight, *self.problem())

    def objective(self, weight: Tensor, bias: Tensor) -> Tensor:
        """The objective from its definition, dense layout, summed over tasks."""
        p = torch.ones_like(self.z[..., 0]) if self.sample_weight is None else self.sample_weight
        p = p / p.sum(1, keepdim=True)
        residual = self.z @ weight + bias[:, None] - self.y
        loss = (p[..., None] * residual.square()).sum() / 2
        penalty = reference.penalty_value(weight, *self.strengths, self.scale, self.nonneg)
        return loss + penalty


def heads_case(
    scale: Sequence[float],
    shape: tuple[int, int, int, int] = (3, 30, 20, 2),
    ratio: float = 0.1,
    tensors: bool = False,
    weighted: bool = False,
    nonneg: bool = False,
    fit_intercept: bool = True,
    seed: int = 0,
) -> Heads:
    """Sparse teachers with noise and offsets; strengths are `ratio` times the largest useful."""
    g = torch.Generator().manual_seed(seed)
    T, n, M, C = shape

    def randn(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    z = randn(T, n, M) + 0.5 * randn(T, n, 1) + randn(T, 1, M)
    w = randn(T, M, C) * (torch.rand(T, M, 1, generator=g) < 0.4)
    y = z @ w + 0.3 * randn(T, n, C) + 2 * randn(T, 1, C)
    strengths: list[Tensor | None] = [None] * 4
    if tensors:
        strengths = [0.6 + 0.8 * randn(*s).sigmoid() for s in [(T, M), (T, M), (M,), (T, M)]]
    case = Heads(z, y, strengths, list(scale), None, None, nonneg, fit_intercept)
    if weighted:
        case.sample_weight = 0.1 + randn(T, n).square()
    largest = float(case.lambda_max().min()) if any(scale[:3]) else 1.0
    case.scale = [ratio * largest * s for s in scale]
    return case
