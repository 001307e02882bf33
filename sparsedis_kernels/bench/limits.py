"""What bounds a job on a machine, memory or arithmetic, as calls that are measured beside it."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch

from sparsedis_kernels.bench.case import Bar, Call, Job

COPY = "copy"  # of as many bytes as the job has to move
AXPY = "in-place axpy"  # of as many bytes: two parts read, one written
PRODUCT = "matrix product"  # of as many operations, in float32
LIMITS = (COPY, AXPY, PRODUCT)
_LARGEST = 2**30  # bytes that a copy or an axpy moves itself; the time of more follows from it
_SIDE = 512  # of the matrices that are multiplied; large enough for the peak rate
# Beyond this many bytes an array and those that a job has beside it are beyond most caches.
CACHED = 2**24
OF_MEMORY, IN_CACHE = 0.85, 2.0  # of the axpy's rate; times the libraries'


class Limit(NamedTuple):
    """A call, and what share of it is as much work as the job's."""

    call: Call
    share: float


def limits(job: Job, device: torch.device) -> dict[str, Limit]:
    """The limits of a job, by name; the product's only where arithmetic bounds the job."""
    size = min(job.bytes_moved, _LARGEST)
    found = {
        COPY: Limit(_copy(size, device), job.bytes_moved / size),
        AXPY: Limit(_axpy(size, device), job.bytes_moved / size),
    }
    if job.flops is not None:
        found[PRODUCT] = Limit(_product(device), job.flops / (2 * _SIDE**3))
    return found


def memory_bars(shape: tuple[int, ...], libraries: tuple[str, ...]) -> tuple[Bar, ...]:
    """What is asked of a job that moves float32 arrays of this shape and computes little.

    Beyond the caches that is a share of the memory's rate, else a multiple of the libraries'.
    """
    beyond = 4 * prod(shape) > CACHED
    return (Bar(OF_MEMORY, (AXPY,)) if beyond else Bar(IN_CACHE, libraries),)


def _copy(bytes_moved: int, device: torch.device) -> Call:
    source, target = torch.zeros(2, bytes_moved // 2, dtype=torch.uint8, device=device)
    return lambda: target.copy_(source)


def _axpy(bytes_moved: int, device: torch.device) -> Call:
    x, y = torch.zeros(2, max(1, bytes_moved // 12), device=device)
    return lambda: y.add_(x, alpha=0.5)


def _product(device: torch.device) -> Call:
    a, b, out = torch.ones(3, _SIDE, _SIDE, device=device)
    return lambda: torch.mm(a, b, out=out)
