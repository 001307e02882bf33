"""Instruction counts are the same again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.counts import per_task
from tests.core.build import shipped


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_a_count_repeats(build_core: Callable[[str], Path]) -> None:
    first, again = (per_task(build_core("plain"), ["prox group"]) for _ in range(2))
    assert first["prox group"] > 0
    assert again == pytest.approx(first, rel=1e-3)


def test_the_flags_are_those_of_the_package() -> None:
    assert {"-O3", "-mavx2", "-mfma", "-DSPARSEDIS_ISA=avx2"} <= set(shipped("avx2"))
