"""The Triton kernels of the public ops, executed from PTX on CPU tensors."""

import pytest
import torch

import sparsedis_kernels as sk
from sparsedis_kernels import backends
from tests.problems import LEVEL_SETS, assert_as_accurate, random_penalty

pytest.importorskip("triton")

from tests.ptx import driver

F64 = torch.float64


@pytest.fixture(params=[80, 90], ids="sm_{}".format)
def launches(request, monkeypatch):
    monkeypatch.setattr(backends, "TRITON_DEVICES", {"cuda", "cpu"})
    with driver.executing(request.param) as launches:
        yield launches


def both(function, v):
    """Value and gradient in v by Triton and by the reference."""
    results = []
    for backend in ("triton", "reference"):
        leaf = v.clone().requires_grad_()
        x = function(leaf, backend)
        torch.manual_seed(1)
        (grad,) = torch.autograd.grad(x, leaf, torch.randn_like(x))
        results.append((x.detach(), grad))
    return results


@pytest.mark.parametrize("levels", LEVEL_SETS, ids="+".join)
@pytest.mark.parametrize("with_metric", [False, True])
def test_prox_equals_the_reference(launches, levels, with_metric):
    v = 2 * torch.randn(5, 37, 5, dtype=F64)
    metric = torch.randn_like(v).exp() if with_metric else None
    penalty = random_penalty(levels, 5, 37)
    ours, theirs = both(lambda v, b: sk.prox(v, penalty, 0.8, metric=metric, backend=b), v)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert launches


@pytest.mark.parametrize("C", [1, 4, 5, 65, 700])
def test_prox_float32_is_as_accurate_as_the_reference(launches, C):
    v = 2 * torch.randn(4, 21, C, dtype=F64)
    penalty = sk.Penalty(l1=0.3, group=0.9, ridge=0.1)
    exact = sk.prox(v, penalty, backend="reference")
    ours, theirs = (sk.prox(v.float(), penalty, backend=b) for b in ("triton", "reference"))
    assert_as_accurate(ours, theirs, exact)


OPS = {
    "mcp": lambda v, b: sk.prox_mcp(v, 0.6, 0.9, backend=b),
    "scad": lambda v, b: sk.prox_scad(v, 0.6, 0.9, backend=b),
    "l0": lambda v, b: sk.prox_l0(v, 0.6, 0.9, backend=b),
    "linf": lambda v, b: sk.prox_linf(v, 1.0, backend=b),
    "entropy": lambda v, b: sk.feature_usage(v, backend=b).entropy,
}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("C", [1, 4, 5])
def test_other_ops_equal_the_reference(launches, op, C):
    ours, theirs = both(OPS[op], torch.randn(6, 20, C, dtype=F64))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert launches


def test_dense_arrays_are_read_and_written_once_sixteen_bytes_at_a_time(launches):
    v = torch.randn(64, 100, 5)
    sk.prox(v, sk.Penalty(l1=0.1, group=0.5), backend="triton")
    (launch,) = launches
    assert launch.stats.global_loads == {16: v.nbytes // 16}
    assert launch.stats.global_stores == {16: v.nbytes // 16}
