"""Checks the answers to a case, then times the providers whose answer is right."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from sparsedis_kernels.bench import MODULES
from sparsedis_kernels.bench.case import COMPILED, Call, Case, Job, UnavailableError
from sparsedis_kernels.bench.clock import clock_of, interleaved
from sparsedis_kernels.bench.limits import COPY, LIMITS, PRODUCT, limits
from sparsedis_kernels.bench.memory import peak_bytes


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        seconds: for a case, about.
        samples: of a call, at most.
        quick: only the smallest size of an op.
        peers: with other libraries.
        without: providers that are left out.
    """

    seconds: float
    samples: int
    quick: bool = False
    peers: bool = False
    without: frozenset[str] = frozenset()


FULL = Effort(seconds=3.0, samples=60)
QUICK = Effort(seconds=0.2, samples=10, quick=True, without=frozenset({COMPILED}))


@dataclass(frozen=True)
class Row:
    """What came of one provider in one case.

    Attributes:
        status: "timed", "skipped" or "wrong"; `note` says why, and then there are no numbers.
        seconds: the median; `low` and `high` are the quantiles at .2 and .8.
        bytes_moved: every input read once and every output written once.
        copy_fraction: the time in which a copy moves as many bytes, over `seconds`.
        flops: what the best formulation computes, where arithmetic bounds the job.
        product_fraction: the time in which a matrix product computes as much, over `seconds`.
        peak_bytes: memory held at the peak above what was held before, where it is known.
    """

    op: str
    kind: str
    shape: tuple[int, int, int]
    dtype: str
    direction: str
    provider: str
    status: str
    note: str = ""
    samples: int = 0
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    bytes_moved: int | None = None
    gb_per_s: float | None = None
    copy_fraction: float | None = None
    flops: int | None = None
    product_fraction: float | None = None
    peak_bytes: int | None = None


def seconds_of(rows: Iterable[Row]) -> dict[str, float]:
    """The time of every provider that got one."""
    return {row.provider: row.seconds for row in rows if row.seconds is not None}


def cases(ops: list[str], device_type: str, *, quick: bool = False) -> Iterator[Case]:
    """The cases of the ops on a type of device; the smallest alone if `quick`.

    Raises:
        ValueError: there is no such op.
    """
    for op in ops:
        if op not in MODULES:
            raise ValueError(f"bench: there is no op {op!r}; there are {', '.join(MODULES)}")
    for op in ops:
        module = importlib.import_module(f"sparsedis_kernels.bench.{MODULES[op]}")
        yield from module.cases(op, device_type, quick)


def checked(case: Case, provider: str, job: Job) -> Call:
    """The provider's call, whose answer is right.

    Raises:
        AssertionError: it is not.
        UnavailableError: the provider cannot do this job here.
    """
    make = {**case.providers, **case.peers}[provider]
    try:
        call = make(job.data)
        answer = call()
    except torch.OutOfMemoryError as error:
        raise UnavailableError("out of memory") from error
    job.check(answer)
    return call


def measure(case: Case, device: torch.device, effort: Effort) -> list[Row]:
    """A row for every provider of the case and for every limit."""
    every = [*case.providers, *(case.peers if effort.peers else ())]
    providers = [name for name in every if name not in effort.without]
    try:
        job = case.setup(device)
    except UnavailableError as error:
        return [_row(case, name, "skipped", note=str(error)) for name in providers]
    outcomes = {name: _attempt(case, name, job) for name in providers}
    rows = {name: o for name, o in outcomes.items() if isinstance(o, Row)}
    calls = {name: o for name, o in outcomes.items() if not isinstance(o, Row)}
    rows |= _timed(case, job, calls, device, effort)
    return [rows[name] for name in (*providers, *LIMITS) if name in rows]


def _attempt(case: Case, provider: str, job: Job) -> Call | Row:
    """The provider's call, or the row that says why there is no time for it."""
    try:
        return checked(case, provider, job)
    except UnavailableError as error:
        return _row(case, provider, "skipped", note=str(error))
    except AssertionError as error:
        return _row(case, provider, "wrong", note=" ".join(str(error).split()))


def _row(case: Case, provider: str, status: str, **numbers: object) -> Row:
    where = (case.op, case.kind, case.shape, "float32", case.direction)
    return Row(*where, provider, status, **numbers)  # type: ignore[arg-type]


def _timed(
    case: Case, job: Job, calls: Mapping[str, Call], device: torch.device, effort: Effort
) -> dict[str, Row]:
    bounds = limits(job, device)
    calls = {**calls, **{name: bound.call for name, bound in bounds.items()}}
    peaks = {name: peak_bytes(call, device) for name, call in calls.items()}
    clock = clock_of(device)
    taken = interleaved(calls, clock, seconds=effort.seconds, most=effort.samples)
    share = {name: bound.share for name, bound in bounds.items()}
    quantiles = {
        name: [share.get(name, 1.0) * q for q in _quantiles(samples)]
        for name, samples in taken.items()
    }
    computing = quantiles[PRODUCT][1] if PRODUCT in quantiles else None
    return {
        name: _row(
            case, name, "timed", samples=len(taken[name]), seconds=median, low=low, high=high,
            bytes_moved=job.bytes_moved, gb_per_s=1e-9 * job.bytes_moved / median,
            copy_fraction=quantiles[COPY][1] / median, flops=job.flops,
            product_fraction=computing and computing / median, peak_bytes=peaks[name],
        )
        for name, (low, median, high) in quantiles.items()
    }  # fmt: skip


def _quantiles(samples: list[float]) -> list[float]:
    at = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    return torch.tensor(samples, dtype=torch.float64).quantile(at).tolist()
