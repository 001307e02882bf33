import pytest
import torch

import sparsedis_kernels as sk
from tests.problems import HEAD_PENALTIES, LAYOUTS, fit, heads_problem, scaled_penalty

F64 = torch.float64
sparse = pytest.mark.parametrize("kind", [k for k in HEAD_PENALTIES if k != "ridge"])
layouts = pytest.mark.parametrize("layout", LAYOUTS)


@sparse
@layouts
def test_lambda_max_is_the_edge_of_zero(backend, kind, layout):
    samples, penalty = LAYOUTS[layout](), HEAD_PENALTIES[kind]
    for intercept in (True, False):
        options = {"fit_intercept": intercept, "backend": backend}
        largest = sk.lambda_max(samples.z, samples.y, penalty, **samples.keywords(), **options)
        above = fit(samples, penalty.scaled(1.001 * largest), tol=1e-8, fit_intercept=intercept)
        assert (above.weight == 0).all()
        below = fit(samples, penalty.scaled(0.99 * largest), tol=1e-10, fit_intercept=intercept)
        live = (below.weight != 0).flatten(1).any(dim=1)
        assert live.any() if largest.dim() == 0 else (live == (largest > 0)).all()


def test_lambda_max_of_one_row_solves_its_equation():
    """||ST(g, nu l1)|| = nu group at the dual norm nu, for a single feature."""
    z = torch.randn(5, 9, 1, dtype=F64)
    y = torch.randn(5, 9, 4, dtype=F64)
    nu = sk.lambda_max(z, y, sk.Penalty(l1=0.7, group=0.4), fit_intercept=False)
    g = (z * y).mean(dim=1)
    left = (g.abs() - 0.7 * nu[:, None]).clamp(min=0).norm(dim=1)
    torch.testing.assert_close(left, 0.4 * nu)


def test_lambda_max_is_infinite_where_a_feature_is_free(backend):
    samples = heads_problem(2, 9, 3, 1)
    l1 = torch.tensor([1.0, 0.0, 1.0], dtype=F64)
    largest = sk.lambda_max(samples.z, samples.y, sk.Penalty(l1=l1), backend=backend)
    assert torch.isinf(largest).all()


def test_trap_lambda_max_takes_the_residual_of_the_intercept():
    """max |Z'Y| / n is not it: the targets' mean, which the intercept takes, must not count."""
    samples = heads_problem(3, 12, 5, 1)
    shifted = samples.y + 100.0
    a, b = (sk.lambda_max(samples.z, y, sk.Penalty(l1=1.0)) for y in (samples.y, shifted))
    torch.testing.assert_close(a, b)
    naive = (samples.z.mT @ shifted / 12).abs().amax(dim=(1, 2))
    assert (naive > 1.5 * b).any()


@pytest.mark.parametrize("kind", HEAD_PENALTIES)
@layouts
def test_gap_of_any_weights_bounds_their_suboptimality(backend, kind, layout):
    samples = LAYOUTS[layout]()
    penalty = scaled_penalty(samples, HEAD_PENALTIES[kind])
    solved = fit(samples, penalty, tol=1e-11, max_iter=10**5)
    for noise in (0.0, 1e-3, 0.3):
        weight = solved.weight + noise * torch.randn_like(solved.weight)
        if penalty.nonneg:
            weight = weight.clamp(min=0)
        gap = sk.duality_gap(
            samples.z, samples.y, weight, penalty, **samples.keywords(), backend=backend
        )
        assert (gap >= 0).all()
        assert (gap < 1e-10).all() if noise == 0 else (gap > 0).any()
        exact = sk.duality_gap(
            samples.z, samples.y, weight, penalty, **samples.keywords(), backend="reference"
        )
        torch.testing.assert_close(gap, exact, rtol=1e-6, atol=1e-9)


def test_gap_at_zero_weights_is_one_for_a_vanishing_penalty():
    samples = heads_problem(3, 20, 4, 1)
    zero = torch.zeros(3, 4, 1, dtype=F64)
    gap = sk.duality_gap(samples.z, samples.y, zero, sk.Penalty(l1=1e-9))
    torch.testing.assert_close(gap, torch.ones(3, dtype=F64), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("levels", [{"l1": 0.05}, {"ridge": 0.1}, {"shared": 0.1}])
def test_weights_that_break_the_bound_have_no_gap(levels, loss, backend):
    samples = heads_problem(3, 9, 4, 2)
    weight = torch.zeros(3, 4, 2, dtype=F64)
    weight[1, 2, 0] = -1e-6
    y = samples.y if loss == "squared" else (samples.y > 0).double()
    penalty = sk.Penalty(**levels, nonneg=True)
    gap = sk.duality_gap(samples.z, y, weight, penalty, loss=loss, backend=backend)
    assert gap.isinf().tolist() == [bool("shared" in levels), True, bool("shared" in levels)]


def test_bad_tasks_get_nan(backend):
    samples = heads_problem(3, 9, 4, 2)
    z = samples.z.clone()
    z[1, 2, 3] = float("inf")
    weight = torch.zeros(3, 4, 2, dtype=F64)
    gap = sk.duality_gap(z, samples.y, weight, sk.Penalty(l1=0.1), backend=backend)
    largest = sk.lambda_max(z, samples.y, sk.Penalty(l1=0.1), backend=backend)
    for value in (gap, largest):
        assert value.isnan().tolist() == [False, True, False]


def test_shared_lambda_max_is_one_number_and_scales_the_penalty():
    samples = heads_problem(4, 12, 5, 1)
    penalty = sk.Penalty(shared=1.0, l1=0.2)
    largest = sk.lambda_max(samples.z, samples.y, penalty)
    assert largest.shape == ()
    assert float(penalty.scaled(largest).shared) == float(largest)
