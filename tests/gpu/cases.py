"""Every op with a Triton kernel, its inputs in float64, and how to run it on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

import sparsedis_kernels as sk
from tests.problems import LEVEL_SETS, random_penalty

Outputs = tuple[Tensor, ...]
Bound = Callable[[Tensor, str | None], Outputs]


@dataclass(frozen=True)
class Case:
    """An op of weights v (T, M, C) and of further inputs."""

    further: Callable[[int, int, int], list[Tensor]]
    bind: Callable[..., Bound]  # further inputs -> a function of v and the backend

    def inputs(self, shape: tuple[int, int, int]) -> list[Tensor]:
        """v and the further inputs, the same numbers on every machine."""
        torch.manual_seed(0)
        return [2 * torch.randn(shape, dtype=torch.float64), *self.further(*shape)]

    def call(self, backend: str | None, v: Tensor, *further: Tensor) -> Outputs:
        return self.bind(*further)(v, backend)


def moved(inputs: list[Tensor], device: torch.device | str, dtype: torch.dtype) -> list[Tensor]:
    return [i.to(device, dtype) for i in inputs]


def bound(case: Case, shape: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Bound]:
    """float32 weights on the device, and the op with all else in place: its kernels' work alone."""
    v, *further = moved(case.inputs(shape), device, torch.float32)
    return v, case.bind(*(f.requires_grad_() for f in further))


def with_gradients(function: Callable[..., Outputs], inputs: list[Tensor]) -> Outputs:
    """Outputs of the function, then its vector-Jacobian products with fixed seeds."""
    leaves = [i.detach().requires_grad_() for i in inputs]
    outputs = function(*leaves)
    smooth = [o for o in outputs if o.requires_grad]
    grads = torch.autograd.grad(smooth, leaves, [seed_of(o) for o in smooth])
    return *(o.detach() for o in outputs), *grads


def seed_of(output: Tensor) -> Tensor:
    """Deterministic and different everywhere, on any device and in any dtype."""
    k = torch.arange(output.numel(), device=output.device, dtype=torch.float64)
    return torch.cos(k).reshape(output.shape).to(output.dtype)


@contextmanager
def no_waiting() -> Iterator[None]:
    """What is inside must not make the host wait for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def prox(*levels: str, metric: bool = False, nonneg: bool = False, form: str = "group") -> Case:
    """The prox with tensor strengths, differentiable in all that it takes."""

    def further(T: int, M: int, C: int) -> list[Tensor]:
        penalty = random_penalty(levels, T, M, like=form)
        strengths = [getattr(penalty, level) for level in levels]
        d = [torch.randn(T, M, C, dtype=torch.float64).exp()] if metric else []
        return [torch.tensor(0.8, dtype=torch.float64), *strengths, *d]

    def bind(step: Tensor, *rest: Tensor) -> Bound:
        penalty = sk.Penalty(**dict(zip(levels, rest, strict=False)), nonneg=nonneg)
        d = rest[-1] if metric else None
        return lambda v, backend: (sk.prox(v, penalty, step, metric=d, backend=backend),)

    return Case(further, bind)


def per_group(function: Callable[..., Tensor], *, shape: float | None = None) -> Case:
    """A standalone prox with one strength, step and (with `shape`) concavity for each group."""

    def further(T: int, M: int, C: int) -> list[Tensor]:
        level = 0.3 + 0.3 * torch.rand(T, M, dtype=torch.float64)
        return [level, 1.1 * level] + ([] if shape is None else [shape + level])

    def bind(*further: Tensor) -> Bound:
        return lambda v, backend: (function(v, *further, backend=backend),)

    return Case(further, bind)


def plain(function: Callable[[Tensor, str | None], Outputs]) -> Case:
    """An op of the weights alone."""
    return Case(lambda T, M, C: [], lambda: function)


NUMBERS = sk.Penalty(l1=0.25, group=0.75, shared=0.5, ridge=0.125)
CASES = {
    **{f"prox {'+'.join(levels)}": prox(*levels) for levels in LEVEL_SETS},
    **{f"prox {'+'.join(s)}, metric": prox(*s, metric=True) for s in LEVEL_SETS},
    "prox per task": prox("l1", "group", form="task"),
    "prox per feature": prox("group", "ridge", form="feature"),
    "prox nonneg": prox("l1", "group", "shared", nonneg=True),
    "prox of numbers": plain(lambda v, b: (sk.prox(v, NUMBERS, 0.5, backend=b),)),
    "mcp": per_group(lambda v, s, e, g, **o: sk.prox_mcp(v, s, e, gamma=g, **o), shape=2.0),
    "scad": per_group(lambda v, s, e, a, **o: sk.prox_scad(v, s, e, a=a, **o), shape=3.0),
    "l0": per_group(sk.prox_l0),
    "linf": per_group(sk.prox_linf),
    "feature_usage": plain(lambda v, b: tuple(sk.feature_usage(v.relu(), backend=b))),
}
# One of each kernel, where the levels make no difference.
KERNELS = {
    name: CASES[name]
    for name in ("prox l1+group+shared+ridge, metric", "prox l1+group", "mcp", "linf")
} | {"feature_usage": CASES["feature_usage"]}
