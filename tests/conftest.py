"""Settings of the whole test run."""

import os

import pytest
import torch
from hypothesis import settings

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


@pytest.fixture(params=["cpu", "reference"])
def backend(request):
    return request.param
