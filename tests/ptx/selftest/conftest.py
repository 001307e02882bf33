"""Fixtures of the self-test."""

import numpy as np
import pytest

from tests.ptx.cuda_compile import NvccNotFoundError, find_nvcc
from tests.ptx.execute import PtxCompileError, find_compiler


@pytest.fixture(scope="session", autouse=True)
def cxx() -> str:
    try:
        return find_compiler()
    except PtxCompileError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def nvcc() -> str:
    try:
        return find_nvcc()
    except NvccNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
