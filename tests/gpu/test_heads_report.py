"""lambda_max and duality_gap by the CUDA library, on a device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sparsedis_kernels as sk
from tests.problems import HEAD_PENALTIES, LAYOUTS, heads_problem

pytestmark = pytest.mark.gpu

PENALTY = sk.Penalty(l1=0.3, group=0.4)


def reports(
    backend: str, penalty: sk.Penalty, z: Tensor, y: Tensor, **options: Any
) -> list[Tensor]:
    """lambda_max, and the gap of some weights; on the CPU."""
    T = len(y) if options.get("offsets") is None else len(options["offsets"]) - 1
    size = torch.Size((T, z.shape[-1], y.shape[-1]))
    weight = (torch.arange(size.numel()).cos().abs() / 10).view(size).to(z)
    calls = [
        sk.lambda_max(z, y, penalty, backend=backend, **options),
        sk.duality_gap(z, y, weight, penalty, backend=backend, **options),
    ]
    return [value.cpu() for value in calls]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["lasso", "sparse_group", "nested"])
def test_equals_the_cpu_kernels(library_device, kind, layout, dtype):
    samples, penalty = LAYOUTS[layout](), HEAD_PENALTIES[kind]
    z, y, options = samples.z.to(dtype), samples.y.to(dtype), samples.keywords()
    there = {k: v.to(library_device) if isinstance(v, Tensor) else v for k, v in options.items()}
    actual = reports("cuda", penalty, z.to(library_device), y.to(library_device), **there)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-11
    for a, b in zip(actual, reports("cpu", penalty, z, y, **options), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_many_tasks_larger_than_shared_memory(library_device):
    samples = heads_problem(3000, 100, 700, 2, dtype=torch.float32)
    actual = reports("cuda", PENALTY, samples.z.to(library_device), samples.y.to(library_device))
    for a, b in zip(actual, reports("cpu", PENALTY, samples.z, samples.y), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_runs_on_the_current_stream(library_device):
    samples = heads_problem(200, 50, 64, 5)
    z, y = samples.z.to(library_device), samples.y.to(library_device)
    expected = reports("cuda", PENALTY, z, y)
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(100_000_000)
        late = torch.zeros_like(z).copy_(z)  # not there before the stream has slept
        actual = reports("cuda", PENALTY, late, y)
    assert all(map(torch.equal, actual, expected))


def test_no_tasks(library_device):
    none = torch.zeros(0, 4, 3, device=library_device)
    assert sk.lambda_max(none, none, PENALTY, backend="cuda").shape == (0,)
    assert sk.lambda_max(none, none, HEAD_PENALTIES["nested"], backend="cuda") == 0


def test_another_device_is_an_error(library_device):
    samples = heads_problem(2, 5, 3, 1)
    with pytest.raises(RuntimeError, match="must be on the device of z"):
        sk.lambda_max(samples.z.to(library_device), samples.y, PENALTY, backend="cuda")
