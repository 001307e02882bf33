"""Head fits by more threads and of more tasks: what another of either is worth."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsedis_kernels.bench.case import (
    Bar,
    Call,
    Case,
    Check,
    Job,
    Provider,
    UnavailableError,
    close_to,
)
from sparsedis_kernels.bench.fit_heads import RIDGE, by_ours, gradient
from sparsedis_kernels.bench.heads import Fit, at_share, certified, moved_bytes, ours, problem
from sparsedis_kernels.penalty import LEVELS, Penalty

SHARE = 0.1  # of lambda_max
PENALTIES = {
    "ridge": RIDGE,
    "group": Penalty(group=1.0),
    "sparse group": Penalty(l1=0.5, group=0.5),
}
# Threads: samples of so many tasks, and how many times as fast as one thread, over their number.
THREADED, EFFICIENCY = (200, 50, 64, 5), 0.9
ONE_THREAD = "ours, 1 thread"
# Tasks: all at once at least 1 / CONSTANT times as fast as BLOCK at a time.
BLOCK, SIZES, CONSTANT = 100, (25, 64, 5), 1.3
TASKS = {
    "ridge": (10, 100, 1000, 10_000, 100_000, 1_000_000),
    "sparse group": (10, 100, 1000, 10_000, 100_000),
}
BLOCKS = f"ours, {BLOCK} at a time"
MEMORY = 1.5  # that has to be there, over the samples' and the weights'


def cases(op: str, device_type: str, quick: bool) -> Iterator[Case]:
    """Threads, where there are several, and tasks: 10 and 100 if `quick`."""
    if (threads := torch.get_num_threads()) > 1:
        yield from threads_cases(threads)
    for kind, tasks in TASKS.items():
        for T in tasks[: 2 if quick else None]:
            yield tasks_case(kind, T)


def prepared(device: torch.device, kind: str, T: int, *sizes: int) -> Fit:
    """Samples with a penalty; what is not ridge at a share of every task's lambda_max."""
    fit = replace(problem(device, T, *sizes), penalty=PENALTIES[kind])
    return fit if kind == "ridge" else at_share(fit, SHARE)


# ---- threads


def threads_cases(threads: int) -> Iterator[Case]:
    """Fits that arithmetic bounds, by so many threads and by one."""
    both = partial(gradient, by_ours)
    for kind, direction, make in (
        ("ridge", "forward", ours),
        ("ridge", "both", both),
        ("group", "forward", ours),
    ):
        T, n, M, C = THREADED
        providers: dict[str, Provider] = {"ours": make, ONE_THREAD: partial(one_thread, make)}
        bars = (Bar(EFFICIENCY * threads, (ONE_THREAD,)),)
        where = ("scaling", f"{threads} threads, {kind} n={n}", (T, M, C), direction)
        yield Case(*where, partial(_threads_setup, kind, make), providers, bars=bars)


def _threads_setup(kind: str, make: Provider, device: torch.device) -> Job:
    fit = prepared(device, kind, *THREADED)
    check = certified(fit) if kind == "group" else close_to(make(fit.double())(), 1e-3)
    return Job(fit, check, moved_bytes(fit))


def one_thread(make: Provider, fit: Fit) -> Call:
    """The call by one thread."""
    call = make(fit)

    def run() -> Any:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return call()
        finally:
            torch.set_num_threads(threads)

    return run


# ---- tasks


def tasks_case(kind: str, T: int) -> Case:
    """T tasks at once and in blocks."""
    n, M, C = SIZES
    bars = (Bar(1 / CONSTANT, (BLOCKS,)),) if T > BLOCK else ()
    providers: dict[str, Provider] = {"ours": ours, BLOCKS: by_blocks}
    where = ("scaling", f"tasks, {kind} n={n}", (T, M, C), "forward")
    return Case(*where, partial(_tasks_setup, kind, T), providers, bars=bars)


def _tasks_setup(kind: str, T: int, device: torch.device) -> Job:
    block = prepared(device, kind, BLOCK, *SIZES)
    _require_memory(MEMORY * moved_bytes(block) * T / BLOCK)
    fit = chosen(block, torch.arange(T, device=device) % BLOCK)
    return Job(fit, repeats(ours(block)()), moved_bytes(fit))


def chosen(fit: Fit, tasks: Tensor | slice) -> Fit:
    """The fit of some of its tasks, of which a slice shares memory."""
    levels = {level: getattr(fit.penalty, level) for level in LEVELS}
    some: Any = {k: v[tasks] if isinstance(v, Tensor) else v for k, v in levels.items()}
    return replace(fit, z=fit.z[tasks], y=fit.y[tasks], penalty=replace(fit.penalty, **some))


def by_blocks(fit: Fit) -> Call:
    """The fit of `BLOCK` tasks after `BLOCK` others."""
    T, _, M, C = fit.sizes
    weight = fit.z.new_empty(T, M, C)
    slices = [slice(first, first + BLOCK) for first in range(0, T, BLOCK)]
    calls = [(weight[some], ours(chosen(fit, some))) for some in slices]

    def run() -> Tensor:
        for part, call in calls:
            part.copy_(call())
        return weight

    return run


def repeats(block: Tensor) -> Check:
    """A check that weights are those of a block again and again, bit for bit."""

    def check(weight: Tensor) -> None:
        for part in weight.split(len(block)):
            assert torch.equal(part, block[: len(part)]), "depends on the other tasks of the batch"

    return check


def _require_memory(size: float) -> None:
    """Raise `UnavailableError` where the system says that so many bytes are not free."""
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if free < size:
        raise UnavailableError(f"needs {1e-9 * size:.1f} GB, {1e-9 * free:.1f} GB are free")
