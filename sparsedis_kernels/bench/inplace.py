"""The prox of weights in place, in the layouts that memory bounds, within caches and beyond."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from sparsedis_kernels.bench.case import (
    COMPILED,
    SHAPES,
    Bar,
    Call,
    Case,
    Job,
    Provider,
    Shape,
    bytes_of,
    close_to,
    compiled,
    randn,
    require_native,
)
from sparsedis_kernels.bench.limits import memory_bars
from sparsedis_kernels.ops import prox_
from sparsedis_kernels.penalty import Penalty

# A call takes about this share of a weight: little, since thousands of calls follow one another on
# the same weights, and a prox of zeros is no benchmark. The tolerance has to see that share.
SHRINK, TOLERANCE = 1e-5, 2e-7
# Each row is a group.
ROWS: list[Shape] = [(1, 64, 100), (1, 512, 1000), (1, 4096, 10_000), (1, 512, 100_000)]
TINY: Shape = (1, 100, 100)
ONE_OP = "one in-place op"
EAGER = "torch eager in place"

InPlace = Callable[[Tensor], Tensor]  # changes its argument, and returns it


class Level(NamedTuple):
    """A level of groups by its name in `Penalty`, and the dimensions that a group spans."""

    name: str
    dims: tuple[int, ...]


GROUP, SHARED = Level("group", (2,)), Level("shared", (0, 2))


def cases(op: str, device_type: str, quick: bool) -> Iterator[Case]:
    """Rows, stacks whose groups lie together or far apart, and a call that is all overhead."""
    few = slice(0, 1 if quick else None)
    for shape in ROWS[few]:
        yield layout_case("rows", shape, GROUP, 0.0)
        yield layout_case("rows and l1", shape, GROUP, SHRINK)
    for shape in SHAPES[few]:
        yield layout_case("group", shape, GROUP, 0.0)
        yield layout_case("shared", shape, SHARED, 0.0)
    yield tiny_case()


def layout_case(kind: str, shape: Shape, level: Level, l1: float) -> Case:
    """Normal weights against PyTorch, which reads or writes them once a step of the formula."""
    strength = SHRINK * prod(shape[d] for d in level.dims) ** 0.5
    eager = partial(in_place, level=level, strength=strength, l1=l1)
    penalty = Penalty(**{level.name: strength, "l1": l1})
    providers: dict[str, Provider] = {
        "ours": partial(ours, penalty),
        EAGER: partial(repeated, eager),
        COMPILED: partial(repeated_compiled, eager),
    }
    bars = memory_bars(shape, (EAGER, COMPILED))
    setup = partial(_setup, penalty, lambda device: randn(shape, device))
    return Case("prox_", kind, shape, "forward", setup, providers, bars=bars)


def tiny_case() -> Case:
    """Groups of one norm, of which a multiplication is the prox, too."""
    penalty = Penalty(group=SHRINK * TINY[2] ** 0.5)
    providers: dict[str, Provider] = {
        "ours": partial(ours, penalty),
        ONE_OP: partial(repeated, lambda w: w.mul_(1 - SHRINK)),
    }
    setup = partial(_setup, penalty, lambda device: randn(TINY, device).sign())
    bars = (Bar(0.5, (ONE_OP,)),)
    return Case("prox_", "overhead", TINY, "forward", setup, providers, bars=bars)


def _setup(penalty: Penalty, draw: Callable[[torch.device], Tensor], device: torch.device) -> Job:
    start = draw(device)
    exact = prox_(start.double(), penalty, backend="reference")
    return Job(start, close_to(exact, TOLERANCE), 2 * bytes_of(start))


def ours(penalty: Penalty, start: Tensor) -> Call:
    """This package's `prox_`, if a native kernel serves it."""
    require_native("prox_", start.device)
    return repeated(lambda w: prox_(w, penalty), start)


def repeated(function: InPlace, start: Tensor) -> Call:
    """Calls that go on from one another's weights, the first from a copy of `start`."""
    w = start.clone()
    return lambda: function(w)


def repeated_compiled(function: InPlace, start: Tensor) -> Call:
    """The same of the compiled function."""
    w = start.clone()
    call = compiled(lambda function, w: lambda: function(w), function, w)
    w.copy_(start)  # the compilation has called it
    return call


def in_place(w: Tensor, level: Level, strength: float, l1: float) -> Tensor:
    """The prox in the fewest passes of plain PyTorch."""
    if l1:
        w.sub_(w.clamp(-l1, l1))
    norm = w.norm(dim=level.dims, keepdim=True)
    return w.mul_((1 - strength / norm).clamp_(min=0))
