"""The CUDA library as it is built: what it needs, and that it launches what was planned."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cuda.library import built_with_fake_runtime

ROOT = Path(__file__).parents[2]
STREAM = 0x5EED


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    library = built_with_fake_runtime(tmp_path_factory.mktemp("fake"))
    command = [sys.executable, "-m", "tests.cuda.through_library", str(library)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "kernels"),
    [
        ("dense sparse_group", ["lambda_max", "duality_gap"]),
        ("one_design lasso", ["lambda_max", "duality_gap"]),
        ("large", ["lambda_max", "duality_gap"]),
        ("no features", ["lambda_max", "duality_gap"]),
        (
            "ragged nested",
            ["coupled_pull", "feature_stretch", "coupled_lambda_max", "coupled_pull",
             "feature_stretch", "coupled_loss", "feature_value", "coupled_gap"],
        ),
        ("none group", []),
        ("none nested", []),
    ],
)  # fmt: skip
def test_tensors_reach_the_kernels(report: dict[str, Any], case: str, kernels: list[str]) -> None:
    """Values equal the CPU kernels', on the current stream; without a task nothing is launched."""
    called = report[case]
    assert called["shapes"] == [True, True]
    assert max(called["errors"]) < 1e-11
    assert [name for name, *_ in called["launches"]] == kernels
    assert all(block == 128 and stream == STREAM for _, _, block, _, stream in called["launches"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "kernels"),
    [
        ("ridge", ["fit_ridge", "fit_heads_backward", "add_sums"]),
        ("group", ["fit_proximal", "fit_heads_backward", "add_sums"]),
        (
            "nested",
            ["coupled_start", "coupled_steps", "coupled_write", "adjoint_load", "adjoint_norms",
             "adjoint_start", "adjoint_solve", "adjoint_write", "adjoint_shared", "adjoint_sums"],
        ),
    ],
)  # fmt: skip
def test_fits_and_gradients_reach_the_kernels(
    report: dict[str, Any], case: str, kernels: list[str]
) -> None:
    """Of tasks that share a design; cooperative launches are as large as fits on the device."""
    called = report[f"fit {case}"]
    assert called["gap"] <= 1e-9
    assert len(called["errors"]) == (6 if case == "nested" else 5)
    assert max(called["errors"]) < 1e-9
    assert [name for name, *_ in called["launches"]] == kernels


@pytest.mark.slow
def test_shared_memory_beyond_48_kb_is_asked_for(report: dict[str, Any]) -> None:
    """A launch that did not ask would have failed; blocks are 8 for each of 2 processors."""
    for _, grid, _, shared, _ in report["large"]["launches"]:
        assert grid == 16
        assert 48 * 1024 < shared <= 98 * 1024


@pytest.mark.slow
def test_a_failing_kernel_is_named(report: dict[str, Any]) -> None:
    assert "duality_gap: kernel coupled_loss: broken" in report["failing"]
