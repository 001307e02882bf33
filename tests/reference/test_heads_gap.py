from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from sparsedis_kernels.reference.heads_batch import layout_of
from sparsedis_kernels.reference.heads_gap import conjugate, dual_scale
from sparsedis_kernels.reference.heads_problem import HeadsProblem, make_problem

from .helpers import ALL_SCALES, Heads, heads_case, scale_id

SPARSE = [s for s in ALL_SCALES if any(s[:3])]
scales = pytest.mark.parametrize("scale", SPARSE, ids=scale_id)
signs = pytest.mark.parametrize("nonneg", [False, True], ids=["signed", "nonneg"])
intercepts = pytest.mark.parametrize("fit_intercept", [True, False], ids=["bias", "no-bias"])


def problem_of(case: Heads) -> HeadsProblem:
    return make_problem(
        layout_of(case.z, case.y, case.offsets),
        *(case.z, case.y, case.sample_weight, case.loss, tuple(case.strengths)),
        *(case.scale, case.nonneg, case.fit_intercept),
    )[0]


def with_mixed_ridge(case: Heads) -> Heads:
    """Ridge on some (task, feature) pairs only: within features, and on whole features."""
    ridge = torch.rand(case.y.shape[0], case.z.shape[-1], dtype=torch.float64)
    ridge[0, ::2] = 0
    ridge[:, ::3] = 0
    case.strengths[3] = ridge
    case.scale[3] = 0.5
    return case


def cone_conjugate(problem: HeadsProblem, g: Tensor) -> float:
    """sup <g, w> - Omega(w), by an interior-point solver."""
    T, M, C = g.shape
    levels = [np.zeros((T, M)) if x is None else x[..., 0].numpy() for x in problem.levels]
    l1, group, shared, ridge = levels
    w = [cp.Variable((M, C), nonneg=problem.nonneg) for _ in range(T)]
    value = 0
    for t in range(T):
        value += cp.sum(cp.multiply(g[t].numpy(), w[t]))
        value -= cp.sum(cp.multiply(l1[t][:, None], cp.abs(w[t])))
        value -= group[t] @ cp.norm(w[t], 2, axis=1)
        value -= cp.sum(cp.multiply(ridge[t][:, None], cp.square(w[t]))) / 2
    for m in range(M):
        value -= shared[0, m] * cp.norm(cp.hstack([w[t][m] for t in range(T)]))
    problem_ = cp.Problem(cp.Maximize(value))
    return float(problem_.solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11))


@scales
@signs
def test_conjugate_is_the_supremum(scale: list[float], nonneg: bool) -> None:
    torch.manual_seed(0)
    case = heads_case(scale, (3, 12, 6, 2), 0.3, tensors=True, nonneg=nonneg)
    problem = problem_of(with_mixed_ridge(case))
    g = problem.design.mT @ problem.target
    # Short of the boundary where there is no ridge, as a solver drifts off on it.
    g = torch.where(problem.ridge > 0, 3 * g, 0.9 * dual_scale(problem, g) * g)
    value = float(conjugate(problem, g).sum())
    assert value > 0
    assert abs(value - cone_conjugate(problem, g)) < 1e-6 * value


@scales
@signs
@pytest.mark.parametrize("mixed", [False, True], ids=["even", "mixed-ridge"])
def test_gap_bounds_the_suboptimality(scale: list[float], nonneg: bool, mixed: bool) -> None:
    torch.manual_seed(0)
    case = heads_case(scale, (2, 15, 6, 2), 0.1, True, True, nonneg)
    case = with_mixed_ridge(case) if mixed else case
    best, best_bias, _, _, status = case.fit(tol=1e-10)
    assert status.tolist() == [0, 0]
    optimum = case.objective(best, best_bias)
    p = case.sample_weight / case.sample_weight.sum(1, keepdim=True)
    y_mean = (p[..., None] * case.y).sum(1)
    zero = torch.zeros_like(best)
    start = case.objective(zero, y_mean)
    coupled = scale[2] != 0
    for size in (0.0, 1e-5, 1e-2, 1.0):
        w = best + size * torch.randn_like(best)
        w = w.relu() if nonneg else w
        b = y_mean - torch.einsum("tn,tnm,tmc->tc", p, case.z, w)
        excess = case.objective(w, b) - optimum
        gap = case.gap(w)
        assert bool((gap >= 0).all())
        if coupled:
            assert bool((gap == gap[0]).all())
        # Per task the starting objectives weigh the gaps.
        total = gap[0] * start if coupled else (gap * task_starts(case)).sum()
        assert float(total) >= float(excess) - 1e-14 * float(start)


def task_starts(case: Heads) -> Tensor:
    problem = problem_of(case)
    return problem.target.square().sum((1, 2)) / 2


def test_gap_of_a_solved_lasso_closes_quadratically_with_the_error() -> None:
    """The dual point is optimal at the solution: the gap is not of the order of W's error."""
    case = heads_case([1, 0, 0, 1], tensors=True)
    best = case.fit(tol=1e-15)[0]
    assert float(case.gap(best).max()) < 1e-14
    noise = torch.randn_like(best) * (best != 0)
    gaps = [float(case.gap(best + h * noise).max()) for h in (1e-3, 1e-4)]
    assert 50 < gaps[0] / gaps[1] < 200


def test_gap_is_infinite_outside_the_sign_constraint() -> None:
    case = heads_case([1, 0, 0, 0], nonneg=True)
    w = torch.zeros(3, 20, 2, dtype=torch.float64)
    w[1, 0, 0] = -1e-3
    assert case.gap(w).isinf().tolist() == [False, True, False]


def test_gap_of_a_bad_task() -> None:
    case = heads_case([1, 1, 0, 0])
    weight = case.fit(tol=1e-6)[0]
    expected = case.gap(weight)
    weight[1, 2, 0] = torch.nan
    gap = case.gap(weight)
    assert bool(gap[1].isnan())
    assert torch.equal(gap[[0, 2]], expected[[0, 2]])


def test_gap_of_a_constant_target_is_0() -> None:
    case = heads_case([1, 1, 0, 0])
    case.y[1] = 0.1
    gap = case.gap(torch.zeros(3, 20, 2, dtype=torch.float64))
    assert gap[1] == 0
    assert bool((gap[[0, 2]] > 0).all())


@scales
@signs
@intercepts
def test_lambda_max_from_both_sides(scale: list[float], nonneg: bool, fit_intercept: bool) -> None:
    case = heads_case(scale, (3, 15, 8, 2), 0.1, True, True, nonneg, fit_intercept)
    base = list(case.scale)
    largest = case.lambda_max()
    assert largest.shape == ((1,) if scale[2] else (3,))
    for t, value in enumerate(largest.tolist()):
        case.scale = [value * 1.001 * s for s in base[:3]] + base[3:]
        weight = case.fit(tol=1e-6)[0]
        zero = weight if scale[2] else weight[t]
        assert torch.equal(zero, torch.zeros_like(zero))
        case.scale = [value * 0.99 * s for s in base[:3]] + base[3:]
        weight = case.fit(tol=1e-6)[0]
        assert bool(((weight if scale[2] else weight[t]) != 0).any())


def test_lambda_max_closed_forms() -> None:
    case = heads_case([1, 0, 0, 0], fit_intercept=False)
    g = case.z.mT @ case.y / 30
    size = float(g.abs().max()) * 2.0
    for scale, expected in (
        ([size, 0, 0, 0], g.abs().amax((1, 2))),
        ([0, size, 0, 0], g.norm(dim=2).amax(1)),
        ([0, 0, size, 0], g.norm(dim=(0, 2)).amax(0, keepdim=True)),
    ):
        case.scale = scale
        assert torch.allclose(case.lambda_max(), expected / size, rtol=1e-14)


def test_lambda_max_special_tasks() -> None:
    case = heads_case([1, 0, 0, 0], (4, 30, 20, 1), tensors=True, weighted=True)
    expected = case.lambda_max()
    case.sample_weight[1] = 0
    case.y[2, 3] = torch.nan
    case.strengths[0][3, 5] = 0
    actual = case.lambda_max()
    assert actual[0] == expected[0]
    assert actual[1] == 0
    assert bool(actual[2].isnan())
    assert actual[3] == torch.inf
    case.scale[2] = 1.0
    case.strengths[2][:] = 0
    assert case.lambda_max().tolist() == [torch.inf]
    case.strengths[2][5] = 1.0
    assert bool(case.lambda_max().isfinite())


def test_lambda_max_without_tasks() -> None:
    case = heads_case([0, 0, 0, 0], (0, 30, 20, 1))
    for scale, expected in (([1.0, 0, 0, 0], []), ([1.0, 0, 1.0, 0], [0.0])):
        case.scale = scale
        assert case.lambda_max().tolist() == expected
