"""Steps of the proximal optimisers, against PyTorch's own followed by a prox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from sparsedis_kernels.bench.case import (
    Call,
    Case,
    Job,
    Shape,
    bytes_of,
    close_to,
    randn,
    require_native,
    shapes_of,
)
from sparsedis_kernels.bench.limits import memory_bars
from sparsedis_kernels.ops import prox_
from sparsedis_kernels.optim import ProxAdamW, ProxSGD
from sparsedis_kernels.penalty import Penalty

LR, MOMENTUM = 1e-2, 0.9
PENALTIES = {
    "l1": Penalty(l1=5.0),
    "sparse group": Penalty(l1=5.0, group=5.0),
    "shared": Penalty(l1=5.0, shared=50.0),
}
ROWS: Shape = (1, 4096, 10_000)
MANY, SMALL = 64, (16, 64, 5)  # tensors of a model with many small heads
STEPS = 3  # the answer is that of the third: the first says nothing about a moment's decay

Params = list[Tensor]


def cases(op: str, device_type: str, quick: bool) -> Iterator[Case]:
    """One tensor at every shape, one of long rows, and many small ones."""
    for kind, penalty in PENALTIES.items():
        for shape in shapes_of(device_type, quick):
            yield _case(op, kind, shape, 1, penalty)
    if not quick:
        yield _case(op, "sparse group", ROWS, 1, PENALTIES["sparse group"])
    kind = f"sparse group, {MANY} tensors"
    yield _case(op, kind, SMALL, MANY, PENALTIES["sparse group"])


def _case(op: str, kind: str, shape: Shape, count: int, penalty: Penalty) -> Case:
    arrays, make, peer = KINDS[op]

    def ours(params: Params) -> Call:
        require_native(f"{op}_", params[0].device)
        return make(params, penalty).step

    by_reference = partial(peer, penalty, "reference", foreach=True)
    steps: dict[str, Callable[[Params], Call]] = {
        "ours": ours,
        "fused, then our prox": partial(peer, penalty, None, fused=True),
        "foreach, then reference": by_reference,
    }

    def setup(device: torch.device) -> Job:
        start = [randn(shape, device, seed=k) for k in range(2 * count)]
        expected = _stepping(by_reference, [s.double() for s in start])()
        return Job(start, close_to(expected), arrays * count * bytes_of(start[0]))

    providers = {name: partial(_stepping, step_of) for name, step_of in steps.items()}
    bars = memory_bars((count, *shape), ("foreach, then reference",))
    return Case(op, kind, shape, "step", setup, providers, bars=bars)


def _stepping(step_of: Callable[[Params], Call], start: list[Tensor]) -> Call:
    """A call that makes one step from where `STEPS - 1` have led; `start`: weights, gradients."""
    count = len(start) // 2
    params = [p.clone().requires_grad_() for p in start[:count]]
    for p, grad in zip(params, start[count:], strict=True):
        p.grad = grad
    step = step_of(params)
    for _ in range(STEPS - 1):
        step()

    def call() -> Params:
        step()
        return params

    return call


def _sgd_then_prox(penalty: Penalty, backend: str | None, params: Params, **options: Any) -> Call:
    optimizer, gradients = SGD(params, LR, MOMENTUM, **options), 0.0

    @torch.no_grad()
    def step() -> None:
        nonlocal gradients
        optimizer.step()
        gradients = 1 + MOMENTUM * gradients  # how many the momentum buffer holds
        for p in params:
            prox_(p, penalty, LR * gradients, backend=backend)

    return step


def _adamw_then_prox(penalty: Penalty, backend: str | None, params: Params, **options: Any) -> Call:
    optimizer, k = AdamW(params, LR, **options), 0
    (group,) = optimizer.param_groups

    @torch.no_grad()
    def step() -> None:
        nonlocal k
        optimizer.step()
        k += 1  # the optimiser's own counter may lie on the device
        for p in params:
            second = optimizer.state[p]["exp_avg_sq"] / (1 - group["betas"][1] ** k)
            metric = second.sqrt_().add_(group["eps"])
            prox_(p, penalty, LR, metric=metric, backend=backend)

    return step


def _prox_sgd(params: Params, penalty: Penalty) -> Optimizer:
    return ProxSGD(params, LR, MOMENTUM, penalty=penalty)


def _prox_adamw(params: Params, penalty: Penalty) -> Optimizer:
    return ProxAdamW(params, LR, penalty=penalty)


# Of each op: arrays read (weights, gradient, moments) plus written, ours, and its peers.
KINDS: dict[str, tuple[int, Callable[..., Optimizer], Callable[..., Call]]] = {
    "prox_sgd": (5, _prox_sgd, _sgd_then_prox),
    "prox_adamw": (7, _prox_adamw, _adamw_then_prox),
}
