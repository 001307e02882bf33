"""Settings of the micro-benchmarks: one thread, and no time for a wrong answer."""

import pytest
import torch

from sparsedis_kernels.bench.case import UnavailableError
from sparsedis_kernels.bench.measure import checked


@pytest.fixture(autouse=True)
def _one_thread():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def timed(benchmark):
    """Times a provider of a case once its answer is right; on a GPU, until the device is done."""

    def run(case, provider):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            job = case.setup(device)
            call = checked(case, provider, job)
        except UnavailableError as reason:
            pytest.skip(str(reason))

        def finished():
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        benchmark.extra_info.update(tasks=case.shape[0], bytes_moved=job.bytes_moved)
        benchmark(finished)
        if benchmark.enabled:
            median = benchmark.stats.stats.median
            benchmark.extra_info.update(
                us_per_task=1e6 * median / case.shape[0], gb_per_s=1e-9 * job.bytes_moved / median
            )

    return run


def pytest_generate_tests(metafunc):
    """Run a benchmark of `case` and `provider` for all cases of its module."""
    if "provider" in metafunc.fixturenames:
        pairs = [
            pytest.param(case, provider, id=f"{case}-{provider}")
            for case in metafunc.module.CASES
            for provider in case.providers
        ]
        metafunc.parametrize(("case", "provider"), pairs)
