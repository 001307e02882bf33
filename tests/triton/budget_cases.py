"""The launches whose registers and memory traffic are kept in tables: ops on samples of a problem.

A new op needs an entry in OPS and `python -m tests.triton.budget`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from sparsedis_kernels.reference.radial import L0, MCP, SCAD
from sparsedis_kernels.triton import tile
from sparsedis_kernels.triton.feature_usage import feature_usage, feature_usage_backward
from sparsedis_kernels.triton.group_prox import (
    linf_prox,
    linf_prox_backward,
    radial_prox,
    radial_prox_backward,
)
from sparsedis_kernels.triton.prox import prox
from sparsedis_kernels.triton.prox_backward import prox_backward
from sparsedis_kernels.triton.prox_step import prox_adamw_, prox_sgd_

TASKS = 64
FEATURES = {1: 2048, 5: 400, 8: 256, 1000: 4, 4000: 1, 8000: 1, 16000: 1}  # by C
F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
EVERY = ((1, F32), (5, F32), (8, F32), (1000, F32), (5, F64), (1000, F64),
         (5, BF16), (8, BF16), (1000, BF16), (5, F16))  # fmt: skip
SOME = ((1, F32), (5, F32), (1000, F32), (5, F64), (5, BF16), (8, F16))
FEW = ((5, F32), (1000, F32), (5, F64), (8, BF16))
SHORT = ((1, F32), (5, F32), (5, F64), (8, BF16))
LARGE = ((16000, F32), (16000, BF16))

ON_CHIP = 1.02  # bytes moved, over every input and output once, of an op that does all in one pass

NUMBERS = [0.3, 0.5, 0.0, 0.1]  # l1, group, shared, ridge
COUPLED = [0.3, 0.5, 0.2, 0.1]


class Sample:
    """Tensors of a (T, M, C) problem, each made when it is first asked for."""

    def __init__(self, C: int, dtype: torch.dtype):
        self._generator = torch.Generator().manual_seed(0)
        self._shape = (TASKS, FEATURES[C], C)
        self._dtypes = dtype, torch.promote_types(dtype, F32)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=F64, generator=self._generator)

    def _positive(self, *shape: int) -> Tensor:
        return (0.2 + torch.rand(shape, dtype=F64, generator=self._generator)).to(self._dtypes[1])

    @cached_property
    def v(self) -> Tensor:
        """Weights."""
        return self._normal(*self._shape).to(self._dtypes[0])

    @cached_property
    def x(self) -> Tensor:
        """A solution with zeros."""
        return self._normal(*self._shape).relu().to(self._dtypes[0])

    @cached_property
    def grad(self) -> Tensor:
        """Gradient in x."""
        return self._normal(*self._shape).to(self._dtypes[0])

    @cached_property
    def metric(self) -> Tensor:
        """Diagonal."""
        return self._positive(*self._shape)

    @cached_property
    def first(self) -> Tensor:
        """First moment."""
        return self._normal(*self._shape).to(self._dtypes[0])

    @cached_property
    def second(self) -> Tensor:
        """Second moment."""
        return self._positive(*self._shape).to(self._dtypes[0])

    @cached_property
    def step(self) -> Tensor:
        """How many steps were taken."""
        return torch.tensor(3.0)

    @cached_property
    def number(self) -> Tensor:
        """One strength for all groups."""
        return torch.full((1, 1), 0.7, dtype=self._dtypes[1]).expand(self._shape[:2])

    @cached_property
    def large_number(self) -> Tensor:
        """Another, above 2."""
        return torch.full((1, 1), 3.0, dtype=self._dtypes[1]).expand(self._shape[:2])

    @cached_property
    def strength(self) -> Tensor:
        """A strength per group."""
        return self._positive(*self._shape[:2])

    @cached_property
    def level(self) -> Tensor:
        """Another strength per group."""
        return self._positive(*self._shape[:2])

    @cached_property
    def per_feature(self) -> Tensor:
        """A number per feature."""
        return self._positive(self._shape[1])

    @property
    def made(self) -> list[Tensor]:
        """The tensors that were asked for."""
        return [value for value in vars(self).values() if isinstance(value, Tensor)]


@dataclass(frozen=True)
class Op:
    """A call of a launcher; it returns the tensor or tensors that it writes."""

    call: Callable[[Sample], Any]
    problems: tuple[tuple[int, torch.dtype], ...]  # (C, dtype)
    limit: float = ON_CHIP
    reason: str = ""  # why it is higher


def _prox(s: Sample, scale: list[float], metric: Tensor | None = None) -> Tensor:
    return prox(s.v, None, None, None, None, metric, scale, False)


def _prox_backward(s: Sample, scale: list[float], metric: Tensor | None = None) -> Any:
    v = None if metric is None else s.v
    needs = [True, False, False, False, False, metric is not None]
    return prox_backward(s.grad, s.x, v, None, None, None, None, metric, scale, False, needs)


def _strengths(s: Sample) -> tuple[Any, ...]:
    """A penalty of tensors, no metric, and what multiplies them."""
    return s.strength, s.level, None, s.number, None, [1.0, 1.0, 0.0, 1.0]


def _strengths_backward(s: Sample) -> Any:
    needs = [True, True, True, False, True, False]
    return prox_backward(s.grad, s.x, None, *_strengths(s), False, needs)


def _sgd(s: Sample, scale: list[float], momentum: float) -> Any:
    momenta, levels = [s.first] if momentum else [], [[] for _ in range(4)]
    numbers = (scale, False, 0.1, momentum, False, 0.01)
    prox_sgd_([s.v], [s.grad], momenta, [s.step], *levels, *numbers)
    return s.v, *momenta


def _adamw(s: Sample, scale: list[float]) -> Any:
    levels, numbers = [[] for _ in range(4)], (scale, False, 0.1, 0.9, 0.999, 1e-8, 0.01)
    prox_adamw_([s.v], [s.grad], [s.first], [s.second], [s.step], *levels, *numbers)
    return s.v, s.first, s.second


_BY_THREAD = "every thread reads the strengths that groups share"


def _radial(kind: int, problems: Any, limit: float, backward_limit: float) -> dict[str, Op]:
    name = {MCP: "mcp", SCAD: "scad", L0: "l0"}[kind]

    def levels(s: Sample) -> tuple[Tensor, ...]:
        return s.strength, s.number, s.large_number

    def backward(s: Sample) -> tuple[Tensor, ...]:
        return radial_prox_backward(s.grad, s.v, *levels(s), kind)

    return {
        name: Op(lambda s: radial_prox(s.v, *levels(s), kind), problems, limit, _BY_THREAD),
        f"{name} backward": Op(backward, problems, backward_limit, _BY_THREAD),
    }


def _linf_backward(s: Sample, metric: Tensor | None = None) -> Any:
    needs = [True, True, metric is not None]
    return linf_prox_backward(s.grad, s.v, s.x, s.strength, metric, needs)


def _in_passes(call: Callable[..., Any], *args: Any) -> Any:
    """The shared level as where a feature's tasks do not fit in one program."""
    with mock.patch.object(tile, "REGISTERS", 0):
        return call(*args)


_LEVELS = "every group of a feature reads the feature's level"
_ONE_NUMBER = "every thread of a long group reads the group's strength"
_TWO_PASSES = "reads v for the norms of features, then again; sums of chunks"
_NEWTON = "reads v and the metric once for each Newton step that a feature still takes"
_SUMS_FIRST = "reads x and grad for sums over tasks, then again"
_STEP_THEN_PROX = (
    "the step's kernel, then the prox in passes; half precision between them is float32"
)
_COUNTER = "every thread reads the number of the step"
_CHUNKS = "sums of chunks of tasks"

OPS: dict[str, Op] = {
    "prox": Op(lambda s: _prox(s, NUMBERS), EVERY + LARGE + ((8000, F64),)),
    "prox backward": Op(lambda s: _prox_backward(s, NUMBERS), EVERY + LARGE + ((8000, F64),)),
    "prox l1": Op(lambda s: _prox(s, [0.3, 0.0, 0.0, 0.1]), ((5, F32), (5, BF16))),
    "prox metric": Op(lambda s: _prox(s, NUMBERS, s.metric), EVERY + LARGE + ((4000, F64),)),
    "prox metric backward": Op(
        lambda s: _prox_backward(s, NUMBERS, s.metric), EVERY + LARGE + ((4000, F64),)
    ),
    "prox strengths": Op(lambda s: prox(s.v, *_strengths(s), True), FEW, 1.2, _BY_THREAD),
    "prox strengths backward": Op(_strengths_backward, FEW, 1.13, _BY_THREAD),
    "shared": Op(lambda s: _prox(s, COUPLED), SHORT, 1.25, _LEVELS),
    "shared backward": Op(lambda s: _prox_backward(s, COUPLED), SHORT, 1.17, _LEVELS),
    "shared metric": Op(lambda s: _prox(s, COUPLED, s.metric), SHORT, 1.34, _LEVELS),
    "shared metric backward": Op(
        lambda s: _prox_backward(s, COUPLED, s.metric), SHORT, 1.09, _LEVELS
    ),
    "shared in passes": Op(lambda s: _in_passes(_prox, s, COUPLED), FEW, 1.68, _TWO_PASSES),
    "shared in passes backward": Op(
        lambda s: _in_passes(_prox_backward, s, COUPLED), FEW, 1.75, _SUMS_FIRST
    ),
    "shared in passes metric": Op(
        lambda s: _in_passes(_prox, s, COUPLED, s.metric), FEW, 4.31, _NEWTON
    ),
    "shared in passes metric backward": Op(
        lambda s: _in_passes(_prox_backward, s, COUPLED, s.metric), FEW, 1.69, _SUMS_FIRST
    ),
    **_radial(MCP, SOME + LARGE, 1.23, 1.14),
    **_radial(SCAD, FEW, 1.23, 1.14),
    **_radial(L0, FEW, 1.13, 1.09),
    "linf": Op(lambda s: linf_prox(s.v, s.strength, None), SOME + LARGE, 1.07, _ONE_NUMBER),
    "linf backward": Op(_linf_backward, SOME + LARGE, 1.04, _ONE_NUMBER),
    "linf metric": Op(lambda s: linf_prox(s.v, s.strength, s.metric), FEW, 1.05, _ONE_NUMBER),
    "linf metric backward": Op(lambda s: _linf_backward(s, s.metric), FEW, 1.03, _ONE_NUMBER),
    "sgd": Op(lambda s: _sgd(s, NUMBERS, 0.0), SOME),
    "sgd momentum": Op(lambda s: _sgd(s, NUMBERS, 0.9), SOME, 1.06, _COUNTER),
    "sgd momentum shared": Op(lambda s: _sgd(s, COUPLED, 0.9), SHORT, 1.13, _LEVELS),
    "sgd momentum shared in passes": Op(
        lambda s: _in_passes(_sgd, s, COUPLED, 0.9), FEW, 2.66, _STEP_THEN_PROX
    ),
    "adamw": Op(lambda s: _adamw(s, NUMBERS), EVERY, 1.04, _COUNTER),
    "adamw l1": Op(
        lambda s: _adamw(s, [0.3, 0.0, 0.0, 0.1]), ((5, F32), (5, BF16)), 1.04, _COUNTER
    ),
    "adamw shared": Op(lambda s: _adamw(s, COUPLED), SHORT, 1.12, _LEVELS),
    "usage": Op(lambda s: feature_usage(s.v), SOME, 1.14, _CHUNKS),
    "usage backward": Op(
        lambda s: feature_usage_backward(s.per_feature, s.v), SOME, 1.03, "a number per feature"
    ),
}


@dataclass(frozen=True)
class Case:
    """An op on one problem: a row of the tables."""

    op: str
    C: int
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """What the tables call it."""
        return f"{self.op} C={self.C}"

    @property
    def dtype_name(self) -> str:
        """The dtype as the tables write it."""
        return str(self.dtype).removeprefix("torch.")


CASES = {
    (case.name, case.dtype_name): case
    for op, entry in OPS.items()
    for case in (Case(op, C, dtype) for C, dtype in entry.problems)
}
