"""Every kernel over odd sizes under the sanitizers, which must first catch planted faults."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.build import compiler
from tests.core.exercise import odd_cases, parallel_cases

SCRIPT = Path(__file__).with_name("exercise.py")
RUNTIMES = {"memory": "libasan.so", "threads": "libtsan.so"}
THREADS = {"memory": "1", "threads": "2"}

pytestmark = pytest.mark.slow


def under_sanitizer(kind: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(
        [compiler(), f"-print-file-name={RUNTIMES[kind]}"], capture_output=True, text=True
    )
    environment = {
        **os.environ,
        "LD_PRELOAD": found.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter itself leaks
        "TSAN_OPTIONS": "halt_on_error=1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True
    )


@pytest.fixture(params=RUNTIMES)
def kind(request: pytest.FixtureRequest) -> str:
    probe = under_sanitizer(request.param, ["-c", "import numpy"])
    if probe.returncode != 0:
        pytest.skip(f"Python does not run under {RUNTIMES[request.param]}: {probe.stderr[-300:]}")
    return request.param


def test_every_kernel_is_clean(kind: str, build_core: Callable[[str], Path]) -> None:
    result = under_sanitizer(kind, [str(SCRIPT), str(build_core(kind)), THREADS[kind]])
    assert result.returncode == 0, result.stderr[-4000:]
    expected = {"memory": odd_cases, "threads": parallel_cases}[kind]()
    assert result.stdout == f"{len(list(expected))} cases\n"


@pytest.mark.parametrize(
    ("kind", "fault", "finding"),
    [
        ("memory", "overrun", "heap-buffer-overflow"),
        ("memory", "overflow", "signed integer overflow"),
        ("threads", "race", "data race"),
    ],
    indirect=["kind"],
)
def test_a_planted_fault_is_caught(
    kind: str, fault: str, finding: str, build_core: Callable[[str], Path]
) -> None:
    result = under_sanitizer(kind, [str(SCRIPT), str(build_core(kind)), THREADS[kind], fault])
    assert result.returncode != 0
    assert finding in result.stderr
