"""Clocks: how long a call takes on the host or on a CUDA device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from time import perf_counter
from typing import Protocol

import torch

from sparsedis_kernels.bench.case import Call

SAMPLE = 1e-2  # seconds of a sample at least: caches as another provider left them count little
FLUSH = 256 * 2**20  # bytes that a CUDA sample zeroes first: beyond every L2 cache


class Clock(Protocol):
    """Takes samples of named calls; their seconds are read at the end."""

    def warm(self, name: str, call: Call) -> float:
        """Run the call until it is warm; the seconds that a sample of it will cost."""

    def take(self, name: str, call: Call) -> None:
        """Take one sample."""

    def read(self) -> Mapping[str, list[float]]:
        """Seconds of a call, in every sample, by name."""


class HostClock:
    """Wall time; a sample repeats a short call until it lasts `SAMPLE`."""

    def __init__(self) -> None:
        self._repeats: dict[str, int] = {}
        self._seconds: dict[str, list[float]] = defaultdict(list)

    def warm(self, name: str, call: Call) -> float:
        """See `Clock.warm`."""
        self._repeats[name] = 1
        while (seconds := self._sample(name, call) * self._repeats[name]) < SAMPLE:
            self._repeats[name] *= 2
        return seconds

    def take(self, name: str, call: Call) -> None:
        """See `Clock.take`."""
        self._seconds[name].append(self._sample(name, call))

    def read(self) -> Mapping[str, list[float]]:
        """See `Clock.read`."""
        return self._seconds

    def _sample(self, name: str, call: Call) -> float:
        repeats, start = self._repeats[name], perf_counter()
        for _ in range(repeats):
            call()
        return (perf_counter() - start) / repeats


class CudaClock:
    """Events around a call that finds its data in memory, not in the L2 cache.

    Nothing waits before `read`: the host runs ahead while the device flushes its cache, so that
    launches are not what is timed unless they outlast the flush.
    """

    WARM = 5  # calls

    def __init__(self, device: torch.device) -> None:
        self._flush = torch.empty(FLUSH, dtype=torch.int8, device=device)
        self._events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = defaultdict(list)

    def warm(self, name: str, call: Call) -> float:
        """See `Clock.warm`."""
        for _ in range(self.WARM):
            call()
        torch.cuda.synchronize(self._flush.device)
        start = perf_counter()
        for _ in range(self.WARM):
            self._sample(call)
        torch.cuda.synchronize(self._flush.device)
        return (perf_counter() - start) / self.WARM

    def take(self, name: str, call: Call) -> None:
        """See `Clock.take`."""
        self._events[name].append(self._sample(call))

    def read(self) -> Mapping[str, list[float]]:
        """See `Clock.read`."""
        torch.cuda.synchronize(self._flush.device)
        return {
            name: [1e-3 * start.elapsed_time(end) for start, end in pairs]
            for name, pairs in self._events.items()
        }

    def _sample(self, call: Call) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        start.record()
        call()
        end.record()
        return start, end


def clock_of(device: torch.device) -> Clock:
    """The clock of a device."""
    return CudaClock(device) if device.type == "cuda" else HostClock()


def interleaved(
    calls: Mapping[str, Call], clock: Clock, *, seconds: float, most: int
) -> Mapping[str, list[float]]:
    """Samples of every call, taken in turn so that all see the same state of the machine.

    Args:
        calls: what is timed, by name.
        clock: takes the samples.
        seconds: about how long to go on.
        most: samples of a call at most; at least five are taken.

    Returns:
        The seconds of a call, in every sample, by name.
    """
    round_of_samples = sum(clock.warm(name, call) for name, call in calls.items())
    for _ in range(min(most, max(5, int(seconds / round_of_samples)))):
        for name, call in calls.items():
            clock.take(name, call)
    return clock.read()
