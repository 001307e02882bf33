"""What clocks promise, on calls that set the time themselves."""

import torch

from sparsedis_kernels.bench import clock
from sparsedis_kernels.bench.clock import SAMPLE, CudaClock, HostClock, interleaved


class Time:
    """A clock's time, which only calls move."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(clock, "perf_counter", lambda: self.now)

    def call(self, name, seconds):
        def run():
            self.calls.append(name)
            self.now += seconds

        return run


def test_seconds_are_those_of_one_call(monkeypatch):
    """Whether a sample holds one call or many."""
    time = Time(monkeypatch)
    calls = {"long": time.call("long", 4 * SAMPLE), "short": time.call("short", SAMPLE / 1000)}
    taken = interleaved(calls, HostClock(), seconds=1.0, most=7)
    assert taken.keys() == calls.keys()
    for name, seconds in (("long", 4 * SAMPLE), ("short", SAMPLE / 1000)):
        assert len(taken[name]) == 7
        assert all(abs(t / seconds - 1) < 1e-6 for t in taken[name])


def test_providers_take_turns(monkeypatch):
    time = Time(monkeypatch)
    calls = {name: time.call(name, 2 * SAMPLE) for name in "abc"}
    host = HostClock()
    interleaved(calls, host, seconds=1.0, most=5)
    assert "".join(time.calls).endswith(5 * "abc")


def test_the_time_asked_for_bounds_the_samples(monkeypatch):
    time = Time(monkeypatch)
    calls = {"a": time.call("a", 0.01), "b": time.call("b", 0.03)}
    taken = interleaved(calls, HostClock(), seconds=0.4, most=50)
    assert len(taken["a"]) == len(taken["b"]) == 10
    taken = interleaved(calls, HostClock(), seconds=0.01, most=50)
    assert len(taken["a"]) == 5  # as few as quantiles can be told from


def test_the_cuda_clock_flushes_before_each_call_and_waits_only_at_the_end(monkeypatch):
    """Its events and its cache are stand-ins here; what it makes of them is not."""
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("record")

        def elapsed_time(self, other):
            return 2.5  # milliseconds

    class Cache:
        device = torch.device("cuda", 0)

        def zero_(self):
            log.append("flush")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("wait"))
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: Cache())
    cuda = CudaClock(Cache.device)
    for name in "ab":
        cuda.take(name, lambda: log.append("call"))
    assert log == 2 * ["flush", "record", "call", "record"]
    assert cuda.read() == {"a": [2.5e-3], "b": [2.5e-3]}
    assert log[8:] == ["wait"]
