"""What a benchmark is: a job, and the providers that do it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor

from sparsedis_kernels import backends

Call = Callable[[], Any]
Check = Callable[[Any], None]
Provider = Callable[[Any], Call]
Shape = tuple[int, int, int]

# (T, M, C), small first. The last is beyond the caches of most CPUs and GPUs.
SHAPES: list[Shape] = [(100, 128, 5), (1000, 512, 10), (10_000, 512, 10)]
COMPILED = "torch.compile"


def shapes_of(device_type: str, quick: bool) -> list[Shape]:
    """Sizes of weights for all providers: on a CPU not the last, which takes them minutes."""
    return SHAPES[: 1 if quick else {"cpu": 2, "cuda": 3}[device_type]]


class UnavailableError(Exception):
    """A job cannot be set up here, or a provider cannot do it; the message says why."""


@dataclass(frozen=True)
class Job:
    """A job that is set up on a device.

    Attributes:
        data: what the providers are given.
        check: raises AssertionError, with the reason, where an answer is wrong.
        bytes_moved: every input read once and every output written once.
        flops: what the best formulation computes, where arithmetic bounds the job; else None.
    """

    data: Any
    check: Check
    bytes_moved: int
    flops: int | None = None


@dataclass(frozen=True)
class Bar:
    """Ours is to be at least `factor` times as fast as the fastest of `than`.

    These are names of providers and of limits.
    """

    factor: float
    than: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """A job that waits to be set up, and who can do it.

    Attributes:
        op: its name in `sparsedis_kernels.bench.MODULES`.
        kind: which variant of the op; may be empty.
        shape: (T, M, C).
        direction: "forward", "backward" or "step".
        setup: makes the job on a device, or raises `UnavailableError`.
        providers: by name, what makes of `Job.data` a call that returns the answer. Making it may
            raise `UnavailableError`.
        peers: the same of other libraries, which are measured on request.
        bars: what "ours" has to reach.
    """

    op: str
    kind: str
    shape: Shape
    direction: str
    setup: Callable[[torch.device], Job]
    providers: Mapping[str, Provider]
    peers: Mapping[str, Provider] = field(default_factory=dict)
    bars: tuple[Bar, ...] = ()

    def __str__(self) -> str:
        return case_name(self.op, self.kind, self.shape, self.direction)


def case_name(op: str, kind: str, shape: Shape, direction: str) -> str:
    """What a case is called, and its rows with it."""
    words = (op, kind, "x".join(map(str, shape)), direction)
    return " ".join(word for word in words if word)


def require_native(op: str, device: torch.device) -> None:
    """Raise `UnavailableError`, with the reason, unless a native kernel serves `op` on `device`.

    The reference would serve in its place, and has a row of its own.
    """
    native = backends.available(op, device.type)
    del native["reference"]
    if None not in native.values():
        raise UnavailableError("; ".join(f"{name}: {reason}" for name, reason in native.items()))


def randn(shape: Iterable[int], device: torch.device, seed: int = 0) -> Tensor:
    """Normal float32 numbers, the same in every run on a device."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, device=device)


def close_to(expected: Any, tolerance: float = 1e-4) -> Check:
    """A check against the answer, computed in float64: a tensor or a sequence of them.

    Args:
        expected: the answer.
        tolerance: largest error of an entry, relative to it plus the answer's largest entry.
    """

    def check(answer: Any) -> None:
        if isinstance(expected, Tensor):
            largest = float(expected.detach().abs().max())  # entries near 0 are as exact as this
            options: Any = {"rtol": tolerance, "atol": tolerance * largest, "check_dtype": False}
            torch.testing.assert_close(answer, expected, **options)
            return
        assert len(answer) == len(expected), f"{len(answer)} results, not {len(expected)}"
        for part, exact in zip(answer, expected, strict=True):
            close_to(exact, tolerance)(part)

    return check


def bytes_of(*tensors: Tensor) -> int:
    """Bytes of the tensors' elements."""
    return sum(t.numel() * t.element_size() for t in tensors)


def function_case(
    op: str,
    kind: str,
    shape: Shape,
    direction: str,
    functions: Mapping[str, Callable[..., Any]],
    *,
    arrays: int,
    metric: bool = False,
    bars: tuple[Bar, ...] = (),
) -> Case:
    """A case whose providers are functions of weights.

    Args:
        op, kind, shape, direction: as in `Case`; "backward" is the gradient in the weights alone.
        functions: by provider, a function of weights (T, M, C) and, with `metric`, of one more
            such tensor, positive. "ours" needs a native kernel, "reference" gives the answer, and
            "torch eager" is compiled, too.
        arrays: how many arrays of the weights' size have to be moved.
        metric: whether there is a metric. Default False.
        bars: as in `Case`.
    """
    make = {"forward": _forward, "backward": _backward}[direction]

    def setup(device: torch.device) -> Job:
        uneven = torch.linspace(0.5, 1.5, shape[-2], device=device)[:, None]  # use of features
        data = [randn(shape, device) * uneven]
        if metric:
            data.append(randn(shape, device, seed=1).exp())
        expected = make(functions["reference"], [d.double() for d in data])()
        return Job(data, close_to(expected), arrays * bytes_of(data[0]))

    def ours(data: list[Tensor]) -> Call:
        require_native(op, data[0].device)
        return make(functions["ours"], data)

    providers: dict[str, Provider] = {
        name: partial(make, function) for name, function in functions.items()
    }
    providers["ours"] = ours
    if "torch eager" in functions:
        providers[COMPILED] = partial(compiled, make, functions["torch eager"])
    return Case(op, kind, shape, direction, setup, providers, bars=bars)


def _forward(function: Callable[..., Any], data: list[Tensor]) -> Call:
    return lambda: function(*data)


def _backward(function: Callable[..., Any], data: list[Tensor]) -> Call:
    """The gradient in the weights, seeded alike for every provider."""
    leaf = data[0].detach().requires_grad_()
    x = function(leaf, *data[1:])
    seed = randn(x.shape, x.device, seed=2).to(x.dtype)
    return lambda: torch.autograd.grad(x, leaf, seed, retain_graph=True)[0]


def compiled(make: Callable[..., Call], function: Callable[..., Any], data: Any) -> Call:
    """The call that `make` makes of the compiled function; `UnavailableError` if it does not."""
    torch._dynamo.reset()  # else the variants of one function count as its recompilations
    # A backward that is timed alone keeps its graph, which donated buffers would forbid.
    with torch._functorch.config.patch(donated_buffer=False):
        try:
            call = make(torch.compile(function, fullgraph=True, dynamic=False), data)
            call()
        except Exception as error:  # of many kinds, the compilers' own among them
            raise UnavailableError(f"{COMPILED}: {str(error).strip().splitlines()[0]}") from error
    return call
