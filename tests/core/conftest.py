from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.core.build import build
from tests.core.exercise import load


@pytest.fixture(scope="session")
def build_core(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    cache = pytestconfig.cache.mkdir("sparsedis_core")
    return lambda kind: build(kind, cache)


@pytest.fixture(scope="session")
def core(build_core: Callable[[str], Path]) -> ModuleType:
    return load(str(build_core("plain")))
