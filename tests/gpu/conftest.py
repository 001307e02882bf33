"""What only a CUDA device can show: `pytest -m gpu`. Collected everywhere, skipped without one."""

import pytest
import torch

from sparsedis_kernels import backends


@pytest.fixture
def device():
    """The current CUDA device."""
    pytest.importorskip("triton", reason="Triton is not installed, so no kernel serves CUDA")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: torch.cuda.is_available() is False")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def library_device():
    """The current CUDA device, where the CUDA library is there to serve it."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: torch.cuda.is_available() is False")
    if backends.CUDA_LIBRARY.error:
        pytest.skip(f"no CUDA library: {backends.CUDA_LIBRARY.error}")
    return torch.device("cuda", torch.cuda.current_device())
