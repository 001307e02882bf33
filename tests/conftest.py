"""Settings of the whole test run."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("project", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def _same_start():
    """One seed, and one thread: pytest-xdist has a worker per core. Threading tests ask for two."""
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(params=["cpu", "reference"])
def backend(request):
    return request.param
