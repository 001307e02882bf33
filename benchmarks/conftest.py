"""Settings of the micro-benchmarks: one thread, and no time for a wrong answer."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def timed(benchmark):
    """Times `call` after checking its answer; reports the time per task and the bytes moved."""

    def run(call, expected, *, tasks: int, bytes_moved: int, tolerance: float = 1e-4):
        answer = call()
        torch.testing.assert_close(answer, expected, rtol=tolerance, atol=tolerance)
        benchmark.extra_info.update(tasks=tasks, bytes_moved=bytes_moved)
        benchmark(call)
        median = benchmark.stats.stats.median
        benchmark.extra_info.update(
            us_per_task=1e6 * median / tasks, gb_per_s=1e-9 * bytes_moved / median
        )

    return run
