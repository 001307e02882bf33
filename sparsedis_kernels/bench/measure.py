"""Checks the answers to a case, then times the providers whose answer is right."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsedis_kernels.bench import MODULES
from sparsedis_kernels.bench.case import COMPILED, SHAPES, Call, Case, Job, UnavailableError
from sparsedis_kernels.bench.clock import clock_of, interleaved
from sparsedis_kernels.bench.memory import peak_bytes

COPY = "copy"  # of as many bytes as the job has to move: the limit of what memory bounds


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        seconds: for a case, about.
        samples: of a call, at most.
        shapes: sizes of an op, from the smallest.
        without: providers that are left out.
    """

    seconds: float
    samples: int
    shapes: int
    without: frozenset[str] = frozenset()


FULL = Effort(seconds=3.0, samples=60, shapes=3)
QUICK = Effort(seconds=0.2, samples=10, shapes=1, without=frozenset({COMPILED}))


@dataclass(frozen=True)
class Row:
    """What came of one provider in one case.

    Attributes:
        status: "timed", "skipped" or "wrong"; `note` says why, and then there are no numbers.
        seconds: the median; `low` and `high` are the quantiles at .2 and .8.
        bytes_moved: every input read once and every output written once.
        copy_fraction: the time in which a copy moves as many bytes, over `seconds`.
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
    peak_bytes: int | None = None


def cases(ops: list[str], device_type: str, shapes: int = FULL.shapes) -> Iterator[Case]:
    """The cases of the ops, at the first `shapes` sizes for a type of device.

    Raises:
        ValueError: there is no such op.
    """
    for op in ops:
        if op not in MODULES:
            raise ValueError(f"bench: there is no op {op!r}; there are {', '.join(MODULES)}")
    for op in ops:
        module = importlib.import_module(f"sparsedis_kernels.bench.{MODULES[op]}")
        yield from module.cases(op, SHAPES[device_type][:shapes])


def checked(case: Case, provider: str, job: Job) -> Call:
    """The provider's call, whose answer is right.

    Raises:
        AssertionError: it is not.
        UnavailableError: the provider cannot do this job here.
    """
    try:
        call = case.providers[provider](job.data)
        answer = call()
    except torch.OutOfMemoryError as error:
        raise UnavailableError("out of memory") from error
    _check(answer, job.expected, job.tolerance)
    return call


def _check(answer: Any, expected: Any, tolerance: float) -> None:
    if isinstance(expected, Tensor):
        largest = float(expected.detach().abs().max())  # entries near 0 are as exact as this allows
        torch.testing.assert_close(
            answer, expected, rtol=tolerance, atol=tolerance * largest, check_dtype=False
        )
        return
    assert len(answer) == len(expected), f"{len(answer)} results, not {len(expected)}"
    for part, exact in zip(answer, expected, strict=True):
        _check(part, exact, tolerance)


def measure(case: Case, device: torch.device, effort: Effort) -> list[Row]:
    """A row for every provider of the case and for the copy."""
    job = case.setup(device)
    providers = [name for name in case.providers if name not in effort.without]
    outcomes = {name: _attempt(case, name, job) for name in providers}
    rows = {name: o for name, o in outcomes.items() if isinstance(o, Row)}
    calls = {name: o for name, o in outcomes.items() if not isinstance(o, Row)}
    rows |= _timed(case, job, {**calls, COPY: _copy(job.bytes_moved, device)}, device, effort)
    return [rows[name] for name in (*providers, COPY)]


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


def _copy(bytes_moved: int, device: torch.device) -> Call:
    source, target = torch.zeros(2, bytes_moved // 2, dtype=torch.uint8, device=device)
    return lambda: target.copy_(source)


def _timed(
    case: Case, job: Job, calls: Mapping[str, Call], device: torch.device, effort: Effort
) -> dict[str, Row]:
    peaks = {name: peak_bytes(call, device) for name, call in calls.items()}
    clock = clock_of(device)
    taken = interleaved(calls, clock, seconds=effort.seconds, most=effort.samples)
    quantiles = {name: _quantiles(samples) for name, samples in taken.items()}
    copying = quantiles[COPY][1]
    return {
        name: _row(
            case, name, "timed", samples=len(taken[name]), seconds=median, low=low, high=high,
            bytes_moved=job.bytes_moved, gb_per_s=1e-9 * job.bytes_moved / median,
            copy_fraction=copying / median, peak_bytes=peaks[name],
        )
        for name, (low, median, high) in quantiles.items()
    }  # fmt: skip


def _quantiles(samples: list[float]) -> list[float]:
    at = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    return torch.tensor(samples, dtype=torch.float64).quantile(at).tolist()
