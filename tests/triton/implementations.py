"""What can serve an op on CPU tensors: the package's backends, and Triton's as a GPU would run it.

"triton-sm_80" is `backend="triton"` with its kernels compiled to PTX for sm_80, which is executed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import pytest

from sparsedis_kernels import backends

CAPABILITIES = (80, 90)
TRITON = tuple(f"triton-sm_{capability}" for capability in CAPABILITIES)
NATIVE = ("cpu", *TRITON)
ALL = (*NATIVE, "reference")


@contextmanager
def ready(implementation: str) -> Iterator[str]:
    """Make an implementation serve; yields what the ops' argument `backend` takes for it."""
    backend, _, capability = implementation.partition("-sm_")
    with executing(int(capability)) if capability else nullcontext():
        yield backend


@contextmanager
def executing(capability: int, **options: Any) -> Iterator[list[Any]]:
    """Let `backend="triton"` serve CPU tensors; yields the list to which launches are appended.

    options go to the executor's launch (seed, blocks, ...).
    """
    pytest.importorskip("triton")
    from tests.ptx import driver  # imports Triton, which only these tests should pay for

    devices = mock.patch.object(backends, "TRITON_DEVICES", {"cuda", "cpu"})
    with devices, driver.executing(capability, **options) as launches:
        yield launches
