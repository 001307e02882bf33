"""The batch kernels over odd sizes: the same bits on any number of threads, nothing unwritten."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.core.exercise import LAYOUTS, NOT_FINITE, Case, exercise, odd_cases, parallel_cases

CONVERGED = 0


class Watched:
    """The module, and which of its kernels started threads."""

    def __init__(self, core: ModuleType) -> None:
        self.core = core
        self.threaded: dict[str, bool] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            before = self.core.threads_started()
            result = getattr(self.core, name)(*args, **keywords)
            started = self.core.threads_started() > before
            self.threaded[name] = self.threaded.get(name, False) or started
            return result

        return call


def test_threads_change_no_bit(core: ModuleType) -> None:
    """And every kernel uses them where the work is large enough."""
    watched = Watched(core)
    for case in parallel_cases():
        core.set_threads(1)
        expected = exercise(core, case)
        core.set_threads(3)
        for name, value in exercise(watched, case).items():
            assert value.tobytes() == expected[name].tobytes(), f"{case.name}: {name}"
    core.set_threads(1)
    assert len(watched.threaded) == 16
    assert all(watched.threaded.values()), watched.threaded


@pytest.fixture(params=[*LAYOUTS, "large"], scope="module")
def group(request: pytest.FixtureRequest) -> list[Case]:
    """The odd cases of one layout; the two large ones apart."""
    every = list(odd_cases())
    if request.param == "large":
        return every[-2:]
    return [case for case in every[:-2] if case.name.startswith(request.param)]


@pytest.fixture(scope="module")
def serial(core: ModuleType, group: list[Case]) -> list[dict[str, np.ndarray]]:
    core.set_threads(1)
    return [exercise(core, case) for case in group]


def test_every_output_is_written(group: list[Case], serial: list[dict[str, np.ndarray]]) -> None:
    """Outputs start as NaN, or the least integer; only a broken task may keep NaN."""
    for case, outputs in zip(group, serial, strict=True):
        for name, value in outputs.items():
            if np.issubdtype(value.dtype, np.integer):
                assert np.all(value >= 0), f"{case.name}: {name}"
            elif not case.broken:
                assert not np.isnan(value).any(), f"{case.name}: {name}"


def test_certificates(group: list[Case], serial: list[dict[str, np.ndarray]]) -> None:
    """A task converged iff its gap met the tolerance, and the gap kernel finds the same gap."""
    for case, out in zip(group, serial, strict=True):
        for prefix in ("", f"loss {case.loss}: "):
            check_certificate(case, {name: out[prefix + name] for name in CERTIFICATE})


CERTIFICATE = ("cold: gap", "cold: status", "cold: n_iter", "duality_gap")


def check_certificate(case: Case, out: dict[str, np.ndarray]) -> None:
    gap, status = out["cold: gap"], out["cold: status"]
    broken = np.zeros(len(gap), dtype=bool)
    broken[-1:] = case.broken
    np.testing.assert_array_equal(status == NOT_FINITE, broken, case.name)
    np.testing.assert_array_equal(status == CONVERGED, gap <= 1e-4, case.name)
    # Coupled tasks share one gap, but a task without samples reports that it is solved.
    started = out["cold: n_iter"] > 0
    # The gap kernel reads weights that were rounded to float32, hence 1e-6.
    recomputed = out["duality_gap"][started]
    np.testing.assert_allclose(recomputed, gap[started], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("layout", ["dense", "one_design"])
def test_a_broken_task_spoils_no_other(core: ModuleType, layout: str) -> None:
    broken = [c for c in odd_cases() if c.broken and c.name.startswith(layout)]
    assert broken
    for case in broken:
        out = exercise(core, case)
        for name in ("cold: weight", "cold: bias", "fit_heads: y"):
            assert np.isfinite(out[name][:-1]).all(), f"{case.name}: {name}"
            assert np.isnan(out[name][-1]).all(), f"{case.name}: {name}"
