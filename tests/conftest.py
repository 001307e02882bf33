"""Settings of the whole test run."""

import os
import zlib
from collections import defaultdict

import pytest
import torch
from hypothesis import settings

from sparsedis_kernels.ops import _check
from tests.triton.implementations import ALL, NATIVE, TRITON, ready

settings.register_profile("project", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("project")


# pytest-xdist has a worker per core, and so must a test's child processes not ask for more.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def _same_start():
    """One seed and one thread, whatever the test before asked for."""
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def never_done(monkeypatch):
    """Lets a tolerance be negative, which no gap meets: solvers run all their iterations.

    Differences need weights exact to rounding, which even a gap of 0 in float64 does not make them,
    since it is quadratic in their error where there is ridge.
    """
    monkeypatch.setattr(_check, "tolerance", lambda op, tol: None)


# ---- implementations of an op

# Cases of a test on Triton: from FEW on each runs on one capability, and no more than MOST run.
FEW, MOST = 4, 12


@pytest.fixture(params=["cpu", "reference"])
def backend(request):
    """Every backend of an op that has no Triton kernel."""
    return request.param


@pytest.fixture(params=ALL)
def any_backend(request):
    """Every backend of an op that has a Triton kernel."""
    with ready(request.param) as name:
        yield name


@pytest.fixture(params=NATIVE)
def native(request):
    """The backends that are compared with the reference."""
    with ready(request.param) as name:
        yield name


def pytest_addoption(parser):
    parser.addoption(
        "--whole-matrix", action="store_true", help="run every case on Triton, on all capabilities"
    )


def pytest_collection_modifyitems(config, items):
    """Thin the large matrices on Triton, by checksums of names.

    A kernel takes a second to compile, for each capability and combination of levels, forms, dtype
    and C, so that the whole would take longer than all other tests together.
    """
    if config.option.whole_matrix:
        return
    tests = defaultdict(lambda: defaultdict(list))
    for item in items:
        if implementation := _triton(item):
            test, _, case = item.nodeid.replace(implementation, "").partition("[")
            tests[test][case].append(item)
    dropped = set()
    for test, cases in tests.items():
        # Ordered by test, so that two tests of one matrix have other cases; the capability is a
        # case's own, so that its kernels are compiled once for all tests.
        for rank, case in enumerate(sorted(cases, key=lambda case: _checksum(test + case))):
            chosen = TRITON[_checksum(case) % len(TRITON)]
            dropped.update(
                item
                for item in cases[case]
                if rank >= MOST or (len(cases) >= FEW and _triton(item) != chosen)
            )
    config.hook.pytest_deselected(items=list(dropped))
    items[:] = [item for item in items if item not in dropped]


def _checksum(text):
    return zlib.crc32(text.encode())


def _triton(item):
    """The Triton implementation that an item runs, or None."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    implementation = parameters.get("any_backend", parameters.get("native"))
    return implementation if implementation in TRITON else None
