"""More threads and more tasks: who is compared, on what, and when it cannot be."""

import os

import pytest
import torch

from sparsedis_kernels.bench import scaling
from sparsedis_kernels.bench.measure import QUICK, measure

CPU = torch.device("cpu")


def test_threads_are_compared_where_there_are_several():
    assert not any("threads" in case.kind for case in scaling.cases("scaling", "cpu", True))
    torch.set_num_threads(2)
    threaded = [case for case in scaling.cases("scaling", "cpu", True) if "threads" in case.kind]
    assert [case.bars[0].factor for case in threaded] == [1.8, 1.8, 1.8]


def test_one_thread_is_one_within_the_call_alone():
    torch.set_num_threads(2)
    call = scaling.one_thread(lambda fit: torch.get_num_threads, None)
    assert (call(), torch.get_num_threads()) == (1, 2)


@pytest.mark.parametrize("kind", scaling.TASKS)
def test_blocks_give_what_all_tasks_give(kind):
    """Of 250 tasks, whose last block is not full."""
    case = scaling.tasks_case(kind, 250)
    job = case.setup(CPU)
    for provider in case.providers.values():
        job.check(provider(job.data)())
    wrong = case.providers["ours"](job.data)().clone()
    wrong[249, 63, 4] += 1e-6
    with pytest.raises(AssertionError, match="depends on"):
        job.check(wrong)


def test_too_little_memory_is_a_reason_to_skip(monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096}.get(name, 1000))
    rows = measure(scaling.tasks_case("ridge", 10_000), CPU, QUICK)
    assert {row.status for row in rows} == {"skipped"}
    assert rows[0].note.endswith("0.0 GB are free")
