from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from sparsedis_kernels import reference

from .helpers import assert_gradient, directional

METRICS = pytest.mark.parametrize("metric", [False, True], ids=["identity", "metric"])


def case(
    metric: bool, T: int = 3, M: int = 4, C: int = 5, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor | None]:
    g = torch.Generator().manual_seed(seed)
    v = torch.randn(T, M, C, generator=g, dtype=torch.float64)
    v = v * torch.linspace(0.2, 2, M, dtype=torch.float64)[:, None]
    strength = 0.5 + torch.rand(T, M, generator=g, dtype=torch.float64)
    d = 0.3 + torch.rand(T, M, C, generator=g, dtype=torch.float64)
    return v, strength, d if metric else None


@METRICS
@pytest.mark.parametrize("C", [1, 2, 7])
def test_level_balances_the_strength(metric: bool, C: int) -> None:
    v, strength, d = case(metric, 20, 6, C)
    x = reference.linf_prox(v, strength, d)
    weight = torch.ones_like(v) if d is None else d
    tau = x.abs().amax(2, keepdim=True)
    dead = (weight * v.abs()).sum(2) <= strength
    assert 0 < int(dead.sum()) < dead.numel()
    assert torch.equal((x == 0).all(2), dead)
    excess = (weight * (v.abs() - tau).relu()).sum(2)
    assert torch.allclose(excess[~dead], strength[~dead], rtol=1e-13)
    assert torch.allclose(x, v.sign() * torch.minimum(v.abs(), tau), rtol=0, atol=0)


@METRICS
def test_agrees_with_a_cone_solver(metric: bool) -> None:
    v, strength, d = case(metric, 1, 4, 5, seed=2)
    weight = np.ones(v.shape[1:]) if d is None else d[0].numpy()
    x = cp.Variable(v.shape[1:])
    fit = cp.sum(cp.multiply(weight, cp.square(x - v[0].numpy()))) / 2
    cp.Problem(cp.Minimize(fit + strength[0].numpy() @ cp.max(cp.abs(x), axis=1))).solve(
        solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12
    )
    # An interior point stops at an objective error near 1e-10, that is 1e-5 in x.
    error = reference.linf_prox(v, strength, d)[0] - torch.as_tensor(x.value)
    assert float(error.abs().max()) < 1e-5


@METRICS
def test_backward(metric: bool) -> None:
    inputs = case(metric)
    x = reference.linf_prox(*inputs)
    cotangent = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(3))
    v, strength, d = inputs
    grads = reference.linf_prox_backward(cotangent, v, x, strength, d, [True, True, metric])
    for i, value in enumerate(inputs):
        if value is None:
            continue

        def moved(value: Tensor, i: int = i) -> Tensor:
            return reference.linf_prox(*inputs[:i], value, *inputs[i + 1 :])

        assert_gradient(grads[i], directional(moved, value, cotangent, 1e-6))


@METRICS
def test_zero_strength_is_the_identity(metric: bool) -> None:
    v, strength, d = case(metric)
    v[0, 0] = 0
    strength = torch.zeros_like(strength)
    x = reference.linf_prox(v, strength, d)
    assert torch.equal(x, v)
    cotangent = torch.randn_like(v)
    grads = reference.linf_prox_backward(cotangent, v, x, strength, d, [True, True, metric])
    assert torch.equal(grads[0], cotangent)
    assert all(bool(g.isfinite().all()) for g in grads)


@METRICS
def test_zero_rows_and_ties(metric: bool) -> None:
    v, strength, _ = case(metric)
    d = torch.ones_like(v) if metric else None
    v[0, 3] = 0
    v[1, 3] = torch.tensor([2.0, -2.0, 2.0, 0.5, -2.0])
    strength[1, 3] = 4.0
    x = reference.linf_prox(v, strength, d)
    assert torch.equal(x[0, 3], torch.zeros(5, dtype=v.dtype))
    assert torch.equal(x[1, 3], torch.tensor([1, -1, 1, 0.5, -1], dtype=v.dtype))
    grads = reference.linf_prox_backward(x + 1, v, x, strength, d, [True, True, metric])
    assert all(bool(g.isfinite().all()) for g in grads)
    assert torch.equal(grads[0][0, 3], torch.zeros(5, dtype=v.dtype))


@METRICS
@pytest.mark.parametrize("size", [1e20, 1e30, 1e-25])
def test_float32_extremes_scale(metric: bool, size: float) -> None:
    v, strength, d = case(metric)
    expected = reference.linf_prox(v, strength, d)
    small = None if d is None else d.float()
    x = reference.linf_prox((v * size).float(), (strength * size).float(), small)
    assert float((x.double() / size - expected).abs().max()) < 1e-6 * float(v.abs().max())


def test_backward_returns_only_what_is_needed() -> None:
    v, strength, d = case(True)
    x = reference.linf_prox(v, strength, d)
    full = reference.linf_prox_backward(x, v, x, strength, d, [True] * 3)
    for k in range(3):
        needs = [i == k for i in range(3)]
        grads = reference.linf_prox_backward(x, v, x, strength, d, needs)
        assert torch.equal(grads[k], full[k])
        assert [g.numel() == 0 for g in grads] == [not n for n in needs]


@METRICS
def test_no_tasks(metric: bool) -> None:
    v, strength, d = case(metric, T=0)
    x = reference.linf_prox(v, strength, d)
    assert x.shape == v.shape
    grads = reference.linf_prox_backward(v, v, x, strength, d, [True] * 3)
    assert grads[1].shape == (0, 4)
