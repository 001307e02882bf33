from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsedis_kernels import reference

from .helpers import (
    ALL_SCALES,
    Case,
    assert_gradient,
    directional,
    directional_by_feature,
    prox_case,
    scale_id,
)

scales = pytest.mark.parametrize("scale", ALL_SCALES, ids=scale_id)
metrics = pytest.mark.parametrize("metric", [False, True], ids=["identity", "metric"])
signs = pytest.mark.parametrize("nonneg", [False, True], ids=["signed", "nonneg"])


def run(case: Case) -> Tensor:
    return reference.prox(case.v, *case.args())


def cone_solution(case: Case) -> Tensor:
    """The same problem from its definition, by an interior-point solver."""
    T, M, C = case.v.shape
    d = torch.ones_like(case.v) if case.metric is None else case.metric
    tensors = [
        scale * (torch.ones(M if k == 2 else (T, M)) if s is None else s).numpy()
        for k, (s, scale) in enumerate(zip(case.strengths, case.scale, strict=True))
    ]
    l1, group, shared, ridge = tensors
    x = [cp.Variable((M, C), nonneg=case.nonneg) for _ in range(T)]
    objective = 0
    for t in range(T):
        objective += (
            cp.sum_squares(cp.multiply(np.sqrt(d[t].numpy()), x[t] - case.v[t].numpy())) / 2
        )
        objective += cp.sum(cp.multiply(l1[t][:, None], cp.abs(x[t])))
        objective += group[t] @ cp.norm(x[t], 2, axis=1)
        objective += cp.sum(cp.multiply(ridge[t][:, None], cp.square(x[t]))) / 2
    for m in range(M):
        objective += shared[m] * cp.norm(cp.hstack([x[t][m] for t in range(T)]))
    cp.Problem(cp.Minimize(objective)).solve(
        solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12
    )
    return torch.stack([torch.as_tensor(block.value) for block in x])


def objective(case: Case, x: Tensor) -> float:
    d = 1 if case.metric is None else case.metric
    penalty = reference.penalty_value(x, *case.strengths, case.scale, False)
    return float((d * (x - case.v).square()).sum() / 2 + penalty)


def stationarity(case: Case, x: Tensor) -> float:
    """Distance of x from the prox in the identity metric of x minus the smooth gradient.

    It is 0 iff x is optimal; the identity metric composes in closed form, written here anew.
    """
    l1, group, shared, ridge = (
        scale * (torch.ones((), dtype=x.dtype) if s is None else s)
        for s, scale in zip(case.strengths, case.scale, strict=True)
    )
    d = 1 if case.metric is None else case.metric
    u = x + d * (case.v - x) - (ridge[..., None] * x)
    u = u.relu() if case.nonneg else u
    u = u.sign() * (u.abs() - l1[..., None]).relu()
    size = u.norm(dim=2, keepdim=True)
    u = u * ((size - group[..., None]) / size).nan_to_num(0).relu()
    size = u.norm(dim=(0, 2), keepdim=True)
    u = u * ((size - shared[..., None]) / size).nan_to_num(0).relu()
    return float((u - x).abs().max())


@scales
@metrics
@signs
def test_result_is_stationary(scale: list[float], metric: bool, nonneg: bool) -> None:
    for seed in range(5):
        for tensors in (False, True):
            case = prox_case(scale, metric, nonneg, (4, 6, 3), tensors, seed)
            assert stationarity(case, run(case)) < 1e-14


@pytest.mark.parametrize("scale", [[1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 1, 0]], ids=scale_id)
@metrics
@signs
def test_agrees_with_a_cone_solver(scale: list[float], metric: bool, nonneg: bool) -> None:
    case = prox_case(scale, metric, nonneg, (2, 4, 3), seed=3)
    x, cone = run(case), cone_solution(case)
    assert 0 < int((x == 0).sum()) < x.numel()
    excess = objective(case, cone) - objective(case, x)
    assert -1e-13 < excess < 1e-7
    # Strong convexity turns the interior point's own excess into a bound on the distance.
    smallest = 1.0 if case.metric is None else float(case.metric.min())
    assert float((x - cone).square().sum()) <= 2 * (excess + 1e-13) / smallest


@given(
    T=st.integers(1, 5),
    M=st.integers(1, 4),
    C=st.integers(1, 5),
    decades=st.floats(0, 8),
    size=st.floats(0.01, 3),
    nonneg=st.booleans(),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=150, deadline=None)
def test_uneven_metrics(
    T: int, M: int, C: int, decades: float, size: float, nonneg: bool, seed: int
) -> None:
    case = prox_case([size] * 4, True, nonneg, (T, M, C), seed=seed)
    g = torch.Generator().manual_seed(seed)
    case.metric = 10 ** (decades * (torch.rand(T, M, C, generator=g, dtype=torch.float64) - 1))
    assert stationarity(case, run(case)) < 1e-13


@scales
@metrics
@signs
def test_backward(scale: list[float], metric: bool, nonneg: bool) -> None:
    case = prox_case(scale, metric, nonneg)
    x = run(case)
    cotangent = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    needs = [True] * 5 + [metric]
    grads = reference.prox_backward(cotangent, x, case.v, *case.args(), needs)
    inputs = [case.v, *case.strengths, case.metric]
    for k, (value, grad) in enumerate(zip(inputs, grads, strict=True)):
        if value is None or (0 < k < 5 and case.scale[k - 1] == 0):
            continue
        expected = directional_by_feature(
            lambda *args: reference.prox(*args, case.scale, nonneg), inputs, k, cotangent, 1e-6
        )
        assert_gradient(grad, expected)


def test_backward_returns_only_what_is_needed() -> None:
    case = prox_case([1, 1, 1, 1], metric=True)
    x = run(case)
    full = reference.prox_backward(x, x, case.v, *case.args(), [True] * 6)
    for k in range(6):
        needs = [i == k for i in range(6)]
        v = case.v if k == 5 else None
        grads = reference.prox_backward(x, x, v, *case.args(), needs)
        assert torch.equal(grads[k], full[k])
        assert [g.numel() == 0 for g in grads] == [not n for n in needs]


def test_missing_tensor_means_ones() -> None:
    case = prox_case([1, 1, 1, 1], metric=True, tensors=False)
    T, M, _ = case.v.shape
    ones = [torch.ones(T, M), torch.ones(T, M), torch.ones(M), torch.ones(T, M)]
    ones = [s.double() for s in ones]
    with_ones = Case(case.v, list(ones), case.metric, case.scale, False)
    x = run(case)
    assert torch.equal(x, run(with_ones))
    needs = [True] * 6
    grads = reference.prox_backward(x, x, case.v, *case.args(), needs)
    expected = reference.prox_backward(x, x, case.v, *with_ones.args(), needs)
    for grad, other in zip(grads, expected, strict=True):
        assert torch.equal(grad, other)


def test_the_order_of_the_levels_matters() -> None:
    v = torch.tensor([[[3.0, 1.0]]], dtype=torch.float64)
    x = reference.prox(v, None, None, None, None, None, [1.0, 1.0, 0.0, 0.0], False)
    # Leaves first: (3, 1) -> (2, 0) -> (1, 0); the other order gives (1.05, 0).
    assert torch.equal(x, torch.tensor([[[1.0, 0.0]]], dtype=torch.float64))


@metrics
@pytest.mark.parametrize("level", [1, 2], ids=["group", "shared"])
def test_threshold_is_sharp(metric: bool, level: int) -> None:
    case = prox_case([0, 0, 0, 0], metric, shape=(3, 1, 4), tensors=False)
    d = 1.0 if case.metric is None else case.metric
    size = (d * case.v).norm() if level == 2 else (d * case.v).norm(dim=2).max()
    for factor, zero in ((1 + 1e-12, True), (1 - 1e-9, False)):
        case.scale[level] = float(size) * factor
        assert bool((run(case) == 0).all()) is zero


@pytest.mark.parametrize("size", [1e20, 1e30, 1e-25])
@pytest.mark.parametrize("shape", [(3, 4, 3), (3, 4, 1), (1, 1, 5)], ids=str)
@metrics
def test_float32_extremes_scale(size: float, shape: tuple[int, int, int], metric: bool) -> None:
    case = prox_case([1, 1, 1, 1], metric, shape=shape)
    expected = run(case)
    strengths = [s * size for s in case.strengths[:3]] + [case.strengths[3]]
    big = Case(case.v * size, strengths, case.metric, case.scale, False)
    big = Case(
        big.v.float(),
        [s.float() for s in big.strengths],
        None if big.metric is None else big.metric.float(),
        big.scale,
        False,
    )
    x = run(big)
    assert torch.equal(x == 0, expected == 0)
    assert float((x.double() / size - expected).abs().max()) < 1e-6 * float(case.v.abs().max())
    needs = [True] * 5 + [metric]
    grads = reference.prox_backward(torch.ones_like(x), x, big.v, *big.args(), needs)
    exact = reference.prox_backward(
        torch.ones_like(expected), expected, case.v, *case.args(), needs
    )
    for k, (grad, other) in enumerate(zip(grads, exact, strict=True)):
        homogeneity = size if k in (4, 5) else 1
        if other.numel():
            # The entries are sums of terms of order 1, which may cancel.
            error = float((grad.double() / homogeneity - other).abs().max())
            assert error < 2e-6 * max(float(other.abs().max()), 1.0)


@metrics
@signs
def test_zero_rows_stay_zero(metric: bool, nonneg: bool) -> None:
    case = prox_case([1, 1, 1, 1], metric, nonneg)
    case.v[1, 2] = 0
    case.v[:, 3] = 0
    x = run(case)
    assert torch.equal(x[1, 2], torch.zeros_like(x[1, 2]))
    assert torch.equal(x[:, 3], torch.zeros_like(x[:, 3]))
    grads = reference.prox_backward(x + 1, x, case.v, *case.args(), [True] * 5 + [metric])
    assert all(bool(g.isfinite().all()) for g in grads)
    assert torch.equal(grads[0][:, 3], torch.zeros_like(x[:, 3]))


@metrics
def test_entries_that_are_zero_by_coincidence_pass_gradients(metric: bool) -> None:
    case = prox_case([0, 1, 1, 1], metric)
    case.v[1, 3, 0] = 0
    case.strengths[1][2, 3] = 0
    case.v[2, 3] = 0
    case.strengths[1][:, 1] = case.strengths[2][1] = 0
    case.v[:, 1] = 0
    x = run(case)
    cotangent = torch.ones_like(x)
    grad = reference.prox_backward(cotangent, x, case.v, *case.args(), [True] + [False] * 5)[0]
    expected = directional(lambda v: reference.prox(v, *case.args()), case.v, cotangent, 1e-6)
    assert float(grad[1, 3, 0]) != 0
    assert_gradient(grad, expected)


def test_nan_stays_in_its_feature() -> None:
    case = prox_case([1, 1, 1, 1], metric=True)
    clean = run(case)
    case.v[1, 3, 0] = torch.nan
    x = run(case)
    assert bool(x[:, 3].isnan().all())
    assert torch.equal(x[:, :3], clean[:, :3])


def test_non_expansive() -> None:
    a, b = prox_case([1, 1, 1, 1], True, seed=1), prox_case([1, 1, 1, 1], True, seed=2)
    b.strengths, b.metric = a.strengths, a.metric
    gap = (a.metric * (run(a) - run(b)).square()).sum()
    assert float(gap) <= float((a.metric * (a.v - b.v).square()).sum())


@scales
@metrics
def test_no_tasks(scale: list[float], metric: bool) -> None:
    case = prox_case(scale, metric, shape=(0, 4, 3))
    x = run(case)
    assert x.shape == (0, 4, 3)
    grads = reference.prox_backward(x, x, case.v, *case.args(), [True] * 5 + [metric])
    assert grads[0].shape == (0, 4, 3)
    assert torch.equal(grads[3], torch.zeros(4, dtype=torch.float64))


def test_stride_0_strengths() -> None:
    case = prox_case([1, 1, 1, 1], metric=True)
    T, M, _ = case.v.shape
    value = torch.tensor(0.2, dtype=torch.float64)
    expanded = [value.expand(T, M), value.expand(T, M), value.expand(M), value.expand(T, M)]
    dense = [s.clone() for s in expanded]
    a = reference.prox(case.v, *expanded, case.metric, case.scale, False)
    assert torch.equal(a, reference.prox(case.v, *dense, case.metric, case.scale, False))
