from __future__ import annotations

import celer
import cvxpy as cp
import numpy as np
import pytest
import torch
from sklearn.linear_model import ElasticNet, Lasso, MultiTaskLasso, Ridge
from torch import Tensor

from sparsedis_kernels import reference

from .helpers import ALL_SCALES, Heads, heads_case, scale_id

scales = pytest.mark.parametrize("scale", ALL_SCALES, ids=scale_id)
intercepts = pytest.mark.parametrize("fit_intercept", [True, False], ids=["bias", "no-bias"])
weights = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
signs = pytest.mark.parametrize("nonneg", [False, True], ids=["signed", "nonneg"])
TIGHT = {"tol": 1e-13, "max_iter": 100_000}


def assert_close(actual: Tensor, expected: object, atol: float) -> None:
    error = (actual - torch.as_tensor(np.asarray(expected))).abs().max()
    assert float(error) < atol, f"error {float(error):.2e}"


@intercepts
@weights
@signs
def test_lasso_is_that_of_scikit_learn(fit_intercept: bool, weighted: bool, nonneg: bool) -> None:
    case = heads_case([1, 0, 0, 0], (2, 40, 20, 1), 0.05, False, weighted, nonneg, fit_intercept)
    weight, bias, gap, _, status = case.fit()
    assert status.tolist() == [0, 0]
    assert float(gap.max()) <= 1e-12
    for t in range(2):
        model = Lasso(case.scale[0], positive=nonneg, fit_intercept=fit_intercept, **TIGHT)
        s = None if case.sample_weight is None else case.sample_weight[t].numpy()
        model.fit(case.z[t].numpy(), case.y[t, :, 0].numpy(), sample_weight=s)
        assert_close(weight[t, :, 0], model.coef_, 1e-6)
        assert_close(bias[t], model.intercept_, 1e-6)
        assert torch.equal(weight[t, :, 0] == 0, torch.as_tensor(model.coef_ == 0))


@intercepts
def test_elastic_net_is_that_of_scikit_learn(fit_intercept: bool) -> None:
    case = heads_case([1, 0, 0, 2], (2, 15, 30, 1), 0.05, fit_intercept=fit_intercept)
    weight, bias, _, _, _ = case.fit(tol=1e-15)
    alpha, ridge = case.scale[0], case.scale[3]
    for t in range(2):
        model = ElasticNet(
            alpha + ridge, l1_ratio=alpha / (alpha + ridge), fit_intercept=fit_intercept, **TIGHT
        )
        model.fit(case.z[t].numpy(), case.y[t, :, 0].numpy())
        assert_close(weight[t, :, 0], model.coef_, 1e-6)
        assert_close(bias[t], model.intercept_, 1e-6)


@intercepts
def test_group_is_the_multi_task_lasso_of_scikit_learn(fit_intercept: bool) -> None:
    case = heads_case([0, 1, 0, 0], (2, 30, 40, 3), 0.1, fit_intercept=fit_intercept)
    weight, bias, _, _, _ = case.fit()
    for t in range(2):
        model = MultiTaskLasso(case.scale[1], fit_intercept=fit_intercept, **TIGHT)
        model.fit(case.z[t].numpy(), case.y[t].numpy())
        assert_close(weight[t], model.coef_.T, 1e-6)
        assert_close(bias[t], model.intercept_, 1e-6)


@intercepts
@weights
@pytest.mark.parametrize("n", [40, 20, 8])
def test_ridge_is_that_of_scikit_learn(fit_intercept: bool, weighted: bool, n: int) -> None:
    case = heads_case(
        [0, 0, 0, 0.1], (2, n, 20, 3), 1.0, weighted=weighted, fit_intercept=fit_intercept
    )
    weight, bias, gap, n_iter, status = case.fit()
    assert status.tolist() == n_iter.tolist() == [0, 0]
    assert float(gap.max()) < 1e-15
    for t in range(2):
        s = None if case.sample_weight is None else case.sample_weight[t].numpy()
        total = n if s is None else s.sum()
        model = Ridge(case.scale[3] * total, fit_intercept=fit_intercept, solver="cholesky")
        model.fit(case.z[t].numpy(), case.y[t].numpy(), sample_weight=s)
        assert_close(weight[t], model.coef_.T, 1e-10)
        assert_close(bias[t], model.intercept_, 1e-10)


def test_lasso_is_that_of_celer() -> None:
    case = heads_case([1, 0, 0, 0], (1, 30, 100, 1), 0.1)
    weight, bias, _, _, _ = case.fit()
    model = celer.Lasso(case.scale[0], tol=1e-14, max_iter=1000)
    model.fit(case.z[0].numpy(), case.y[0, :, 0].numpy())
    assert_close(weight[0, :, 0], model.coef_, 1e-6)
    assert_close(bias[0], model.intercept_, 1e-6)


# skglm compiles for ten seconds before it solves.
@pytest.mark.parametrize("peer", ["celer", pytest.param("skglm", marks=pytest.mark.slow)])
def test_weighted_groups_are_those_of_group_lasso_solvers(peer: str) -> None:
    """With the outputs stacked into one target, a row of the weights is one of its groups."""
    T, n, M, C = 1, 30, 40, 3
    case = heads_case([0, 1, 0, 0], (T, n, M, C), 0.1, tensors=True, fit_intercept=False)
    weight = case.fit()[0]
    x = np.kron(case.z[0].numpy(), np.eye(C))  # (n C, M C)
    options = {"groups": C, "alpha": case.scale[1] / C, "weights": case.strengths[1][0].numpy()}
    if peer == "celer":
        model = celer.GroupLasso(fit_intercept=False, tol=1e-13, max_iter=1000, **options)
    else:
        from skglm import GroupLasso

        model = GroupLasso(fit_intercept=False, tol=1e-12, max_iter=1000, **options)
    model.fit(x, case.y[0].numpy().reshape(-1))
    assert_close(weight[0].flatten(), model.coef_, 1e-6)


def cone_objective(case: Heads) -> float:
    """Optimal value by an interior-point solver, all levels, from the definition."""
    T, n, M = case.z.shape
    C = case.y.shape[2]
    p = torch.ones(T, n, dtype=torch.float64) if case.sample_weight is None else case.sample_weight
    p = (p / p.sum(1, keepdim=True)).numpy()
    l1, group, shared, ridge = (
        scale * (np.ones(M if k == 2 else (T, M)) if s is None else s.numpy())
        for k, (s, scale) in enumerate(zip(case.strengths, case.scale, strict=True))
    )
    w = [cp.Variable((M, C), nonneg=case.nonneg) for _ in range(T)]
    objective = 0
    for t in range(T):
        fitted = case.z[t].numpy() @ w[t]
        if case.fit_intercept:
            fitted = fitted + np.ones((n, 1)) @ cp.Variable((1, C))
        residual = cp.multiply(np.sqrt(p[t])[:, None], fitted - case.y[t].numpy())
        objective += cp.sum_squares(residual) / 2
        objective += cp.sum(cp.multiply(l1[t][:, None], cp.abs(w[t])))
        objective += group[t] @ cp.norm(w[t], 2, axis=1)
        objective += cp.sum(cp.multiply(ridge[t][:, None], cp.square(w[t]))) / 2
    for m in range(M):
        objective += shared[m] * cp.norm(cp.hstack([w[t][m] for t in range(T)]))
    problem = cp.Problem(cp.Minimize(objective))
    return float(problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11))


@pytest.mark.parametrize(
    "scale",
    [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]],
    ids=scale_id,
)
@pytest.mark.parametrize(
    ("weighted", "nonneg", "fit_intercept"),
    [(False, False, True), (True, True, True), (True, False, False)],
)
def test_objective_is_that_of_a_cone_solver(
    scale: list[float], weighted: bool, nonneg: bool, fit_intercept: bool
) -> None:
    case = heads_case(scale, (3, 12, 8, 2), 0.2, True, weighted, nonneg, fit_intercept, seed=5)
    weight, bias, gap, _, status = case.fit()
    assert status.tolist() == [0, 0, 0]
    assert 0 < int((weight == 0).sum()) < weight.numel()
    ours, cone = float(case.objective(weight, bias)), cone_objective(case)
    # The interior point may be worse than its own tolerance says, never better than the optimum.
    assert -1e-9 * cone < cone - ours < 1e-6 * cone
    assert float(gap.max()) <= 1e-12


@scales
@signs
def test_converges_for_every_combination(scale: list[float], nonneg: bool) -> None:
    case = heads_case(scale, nonneg=nonneg, tensors=True)
    weight, bias, gap, n_iter, status = case.fit(tol=1e-10)
    assert status.tolist() == [0] * 3
    assert float(gap.max()) <= 1e-10
    assert torch.equal(gap, case.gap(weight))
    assert bool((weight >= 0).all()) or not nonneg
    assert (int(n_iter.max()) > 0) == (nonneg or any(scale[:3]))
    assert n_iter.dtype == status.dtype == torch.int32
    # The intercept leaves no weighted mean residual.
    mean = (case.z @ weight + bias[:, None] - case.y).mean(1)
    assert float(mean.abs().max()) < 1e-13


def test_no_intercept_has_no_bias() -> None:
    case = heads_case([1, 1, 0, 0], fit_intercept=False)
    bias = case.fit(tol=1e-6)[1]
    assert torch.equal(bias, torch.zeros(3, 2, dtype=torch.float64))


def as_ragged(case: Heads, counts: list[int]) -> Heads:
    """The first rows of every task, packed."""

    def pack(x: Tensor) -> Tensor:
        return torch.cat([x[t, :n] for t, n in enumerate(counts)])

    offsets = torch.tensor([0, *counts]).cumsum(0)
    s = None if case.sample_weight is None else pack(case.sample_weight)
    rest = (case.strengths, case.scale, offsets, s, case.nonneg, case.fit_intercept)
    return Heads(pack(case.z), pack(case.y), *rest)


def only(case: Heads, t: int, n: int) -> Heads:
    """Task t with its first n rows."""
    strengths = [s if s is None or k == 2 else s[t : t + 1] for k, s in enumerate(case.strengths)]
    s = None if case.sample_weight is None else case.sample_weight[t : t + 1, :n]
    data = (case.z[t : t + 1, :n], case.y[t : t + 1, :n], strengths, case.scale)
    return Heads(*data, None, s, case.nonneg, case.fit_intercept)


@weights
@intercepts
@pytest.mark.parametrize("scale", [[1, 1, 0, 1], [0, 0, 0, 1]], ids=scale_id)
def test_ragged_tasks_are_dense_tasks(
    weighted: bool, fit_intercept: bool, scale: list[float]
) -> None:
    case = heads_case(scale, tensors=True, weighted=weighted, fit_intercept=fit_intercept)
    counts = [30, 0, 17]
    weight, bias, gap, _, status = as_ragged(case, counts).fit()
    assert status.tolist() == [0, 0, 0]
    assert torch.equal(weight[1], torch.zeros_like(weight[1]))
    assert torch.equal(bias[1], torch.zeros_like(bias[1]))
    assert gap[1] == 0
    for t in (0, 2):
        single = only(case, t, counts[t]).fit()
        assert_close(weight[t], single[0][0], 1e-9)
        assert_close(bias[t], single[1][0], 1e-9)


@intercepts
@pytest.mark.parametrize("per_task", [None, False, True])
@pytest.mark.parametrize("scale", [[1, 1, 0, 1], [1, 1, 1, 0]], ids=scale_id)
def test_shared_design_is_a_repeated_design(
    fit_intercept: bool, per_task: bool | None, scale: list[float]
) -> None:
    case = heads_case(scale, weighted=True, fit_intercept=fit_intercept)
    case.z = case.z[:1].expand(3, -1, -1)
    if per_task is None:
        case.sample_weight = None
    elif not per_task:
        case.sample_weight = case.sample_weight[:1].expand(3, -1)
    dense = case.fit()
    case.z = case.z[0]
    if per_task is False:
        case.sample_weight = case.sample_weight[0]
    for actual, expected in zip(case.fit(), dense, strict=True):
        assert torch.equal(actual, expected)


def test_coupled_ragged_equals_coupled_dense() -> None:
    case = heads_case([1, 1, 1, 1], tensors=True, weighted=True)
    for actual, expected in zip(as_ragged(case, [30] * 3).fit(), case.fit(), strict=True):
        assert torch.equal(actual, expected)


def test_integer_weights_are_repeated_rows() -> None:
    case = heads_case([1, 1, 0, 0.5], (1, 12, 8, 2))
    count = torch.tensor([0, 1, 2, 3] * 3)
    case.sample_weight = count[None].double()
    weight, bias, _, _, _ = case.fit()
    rows = torch.arange(12).repeat_interleave(count)
    repeated = Heads(case.z[:, rows], case.y[:, rows], case.strengths, case.scale)
    for actual, expected in zip((weight, bias), repeated.fit()[:2], strict=True):
        assert_close(actual, expected, 1e-7)


@pytest.mark.parametrize("scale", [[1, 1, 0, 0], [0, 0, 0, 1], [1, 0, 1, 1]], ids=scale_id)
@pytest.mark.parametrize("where", ["z", "y", "sample_weight", "negative", "init", "strength"])
def test_bad_task_spoils_no_other(scale: list[float], where: str) -> None:
    case = heads_case(scale, tensors=True, weighted=True)
    init = torch.zeros(3, 20, 2, dtype=torch.float64)
    without = heads_case(scale, tensors=True, weighted=True)
    without.sample_weight[1] = 0
    expected = without.fit(init=init.clone())
    target = {"z": case.z, "y": case.y, "init": init, "strength": case.strengths[3]}
    target |= dict.fromkeys(["sample_weight", "negative"], case.sample_weight)
    target[where].view(3, -1)[1, 4] = {"y": torch.inf, "negative": -1.0}.get(where, torch.nan)
    if where == "strength" and scale[3] == 0:
        case.scale[3] = without.scale[3] = 1e-3
        expected = without.fit(init=torch.zeros_like(init))
    weight, bias, gap, _, status = case.fit(init=init)
    assert status.tolist() == [0, 2, 0]
    assert bool(weight[1].isnan().all())
    assert bool(bias[1].isnan().all())
    assert bool(gap[1].isnan())
    for actual, other in zip((weight, bias), expected, strict=False):
        assert torch.equal(actual[[0, 2]], other[[0, 2]])
    # Coupled tasks share the roots in the gap; the bad task's missing ridge moves them by rounding.
    torch.testing.assert_close(gap[[0, 2]], expected[2][[0, 2]], rtol=0, atol=1e-15)


@pytest.mark.parametrize("scale", [[1, 0, 0, 0], [1, 1, 0, 1], [1, 1, 1, 0]], ids=scale_id)
def test_warm_start(scale: list[float]) -> None:
    case = heads_case(scale, tensors=True)
    weight, bias, _, n_iter, _ = case.fit(tol=1e-10)
    again = case.fit(tol=1e-10, init=weight)
    assert again[3].tolist() == [0, 0, 0]
    assert torch.equal(again[0], weight)
    assert torch.equal(again[1], bias)
    far = case.fit(tol=1e-10, init=torch.randn_like(weight))
    assert far[4].tolist() == [0, 0, 0]
    assert_close(far[0], weight, 1e-4)
    case.z = case.z + 1e-3 * torch.randn_like(case.z)
    moved = case.fit(tol=1e-10, init=weight)
    assert moved[4].tolist() == [0, 0, 0]
    assert int(moved[3].max()) < int(n_iter.max())


def test_infeasible_warm_start_is_projected() -> None:
    case = heads_case([1, 0, 0, 0], nonneg=True)
    weight, _, gap, _, status = case.fit(max_iter=0, init=-torch.ones(3, 20, 2).double())
    assert torch.equal(weight, torch.zeros_like(weight))
    assert bool(gap.isfinite().all())
    assert status.tolist() == [1, 1, 1]


def test_not_converged_is_said() -> None:
    case = heads_case([1, 1, 0, 0], ratio=0.01)
    _, _, gap, n_iter, status = case.fit(tol=1e-10, max_iter=25)
    assert status.tolist() == [1, 1, 1]
    assert n_iter.tolist() == [25, 25, 25]
    assert float(gap.min()) > 1e-10


def test_finished_tasks_stay_as_they_were() -> None:
    case = heads_case([1, 1, 0, 0])
    case.y[1] += 0.5 * case.z[1].sum(1, keepdim=True)
    batch = case.fit(tol=1e-8)
    assert len(set(batch[3].tolist())) > 1
    for t in range(3):
        for actual, expected in zip(batch, only(case, t, 30).fit(tol=1e-8), strict=True):
            assert torch.equal(actual[t], expected[0])


@scales
def test_target_without_variation(scale: list[float]) -> None:
    case = heads_case(scale)
    constant = torch.tensor([0.1, -3.0], dtype=torch.float64)
    case.y[1] = constant
    init = torch.ones(3, 20, 2, dtype=torch.float64)
    weight, bias, gap, _, status = case.fit(init=init, tol=1e-9)
    assert status.tolist() == [0, 0, 0]
    assert torch.equal(weight[1], torch.zeros_like(weight[1]))
    assert torch.equal(bias[1], constant)
    assert gap[1] == 0 or scale[2]


def test_constant_features_get_no_weight() -> None:
    """Centred with rounding they would be noise of 1e-17 that an unpenalised weight blows up."""
    case = heads_case([0, 0, 0, 0], (2, 30, 8, 2), weighted=True)
    case.z[0, :, 2:] = torch.tensor([0.1, 1.7, -3.3, 1e-8, 12345.678, 1e9], dtype=torch.float64)
    weight, _, _, _, _ = case.fit()
    assert torch.equal(weight[0, 2:], torch.zeros(6, 2, dtype=torch.float64))
    assert bool((weight[1, 2:] != 0).all())


@pytest.mark.parametrize("n", [12, 40])
def test_unpenalised_features_are_least_squares(n: int) -> None:
    M = 20
    case = heads_case([0, 0, 0, 0], (2, n, M, 2))
    weight, bias, _, _, status = case.fit()
    assert status.tolist() == [0, 0]
    residual = case.z @ weight + bias[:, None] - case.y
    for t in range(2):
        z, y = case.z[t] - case.z[t].mean(0), case.y[t] - case.y[t].mean(0)
        # The floor measures every weight in the spread of its feature.
        spread = z.square().mean(0).sqrt()[:, None]
        least = torch.linalg.pinv(z / spread.T) @ y / spread
        assert_close(weight[t], least, 1e-7)
    if n < M:
        assert float(residual.abs().max()) < 1e-7


def test_mixed_penalised_and_unpenalised_tasks() -> None:
    case = heads_case([1, 0, 0, 0], (2, 60, 8, 1), tensors=True)
    case.strengths[0][0] = 0
    weight, _, _, _, status = case.fit()
    assert status.tolist() == [0, 0]
    z, y = case.z[0] - case.z[0].mean(0), case.y[0] - case.y[0].mean(0)
    assert_close(weight[0], torch.linalg.lstsq(z, y).solution, 1e-6)


def test_exact_support_of_correlated_features() -> None:
    """Steps that miss the 1/n of the mean loss end in another support (n=50, M=6, rho=.9)."""
    g = torch.Generator().manual_seed(0)
    factor = torch.randn(1, 50, 1, generator=g, dtype=torch.float64)
    noise = torch.randn(1, 50, 6, generator=g, dtype=torch.float64)
    z = 0.9**0.5 * factor + 0.1**0.5 * noise
    teacher = torch.tensor([1.0, 0, 0, -1, 0, 0.5], dtype=torch.float64)[:, None]
    y = z @ teacher + 0.01 * torch.randn(1, 50, 1, generator=g, dtype=torch.float64)
    case = Heads(z, y, [None] * 4, [0.004, 0, 0, 0], fit_intercept=False)
    weight, _, gap, n_iter, _ = case.fit(tol=1e-10)
    model = Lasso(0.004, fit_intercept=False, **TIGHT).fit(z[0].numpy(), y[0, :, 0].numpy())
    assert float(gap) <= 1e-10
    assert int(n_iter) < 300
    assert torch.equal(weight[0, :, 0] != 0, teacher[:, 0] != 0)
    assert_close(weight[0, :, 0], model.coef_, 1e-7)


@pytest.mark.parametrize("scale", [[1, 0, 0, 0], [1, 1, 0, 1], [0, 1, 1, 0]], ids=scale_id)
def test_float32_follows_float64(scale: list[float]) -> None:
    case = heads_case(scale, tensors=True, weighted=True)
    exact = case.fit(tol=1e-6)
    strengths = [s.float() for s in case.strengths]
    data = (case.z.float(), case.y.float(), strengths, case.scale)
    weight, bias, gap, _, status = Heads(*data, None, case.sample_weight.float()).fit(tol=1e-6)
    assert weight.dtype == bias.dtype == gap.dtype == torch.float32
    assert status.tolist() == [0, 0, 0]
    size = float(exact[0].abs().max())
    assert_close(weight.double(), exact[0], 1e-5 * size)
    assert torch.equal(weight == 0, exact[0] == 0)


def test_float32_gap_is_that_of_the_rounded_weights() -> None:
    case = heads_case([1, 1, 0, 0], tensors=True)
    strengths = [s.float() for s in case.strengths]
    single = Heads(case.z.float(), case.y.float(), strengths, case.scale)
    weight, _, gap, _, status = single.fit(tol=1e-12, max_iter=400)
    assert torch.equal(gap, single.gap(weight))
    # Rounding moves the dual point by 1e-7, which no tolerance below certifies away.
    assert status.tolist() == [1, 1, 1]
    assert 1e-12 < float(gap.min()) <= float(gap.max()) < 1e-6


@scales
def test_no_tasks(scale: list[float]) -> None:
    case = heads_case([0, 0, 0, 0], (0, 30, 20, 2))
    case.scale = scale
    weight, bias, gap, n_iter, status = case.fit()
    assert weight.shape == (0, 20, 2)
    assert bias.shape == (0, 2)
    assert gap.shape == n_iter.shape == status.shape == (0,)


@scales
@intercepts
def test_no_rows(scale: list[float], fit_intercept: bool) -> None:
    case = heads_case([0, 0, 0, 0], (2, 0, 5, 2), fit_intercept=fit_intercept)
    case.scale = scale
    weight, bias, gap, _, status = case.fit()
    for x in (weight, bias, gap, status):
        assert torch.equal(x, torch.zeros_like(x))


@pytest.mark.parametrize("shape", [(2, 20, 1, 1), (1, 1, 4, 2), (2, 3, 1, 3)], ids=str)
@scales
def test_smallest_shapes(shape: tuple[int, int, int, int], scale: list[float]) -> None:
    case = heads_case([0, 0, 0, 0], shape)
    case.scale = [0.05 * s for s in scale]
    weight, _, gap, _, status = case.fit(tol=1e-10)
    assert status.tolist() == [0] * shape[0]
    assert torch.equal(gap, case.gap(weight))


def test_scaling_of_the_problem() -> None:
    """y times k with l1, group, shared times k gives W times k."""
    case = heads_case([1, 1, 1, 0.5], tensors=True)
    weight = case.fit()[0]
    case.y, k = case.y * 1e4, 1e4
    case.scale = [k * s for s in case.scale[:3]] + case.scale[3:]
    assert_close(case.fit()[0] / k, weight, 1e-7)


def test_solution_does_not_depend_on_the_order_of_tasks_and_features() -> None:
    case = heads_case([1, 1, 1, 0.5])
    weight = case.fit()[0]
    tasks, features = torch.tensor([2, 0, 1]), torch.randperm(20)
    permuted = Heads(case.z[tasks][:, :, features], case.y[tasks], case.strengths, case.scale)
    assert_close(permuted.fit()[0], weight[tasks][:, features], 1e-7)


def test_penalty_value_of_the_fit_is_the_objectives() -> None:
    case = heads_case([1, 1, 1, 1], tensors=True, weighted=True)
    weight, bias, _, _, _ = case.fit()
    base = case.objective(weight, bias)
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        step = 1e-3 * torch.randn(weight.shape, generator=g, dtype=torch.float64)
        shift = 1e-3 * torch.randn(bias.shape, generator=g, dtype=torch.float64)
        assert float(case.objective(weight + step, bias + shift)) > float(base)


def test_reference_exports_the_whole_family() -> None:
    assert set(reference.__all__) == {
        *("duality_gap", "feature_usage", "feature_usage_backward", "fit_heads"),
        *("fit_heads_backward", "lambda_max", "linf_prox", "linf_prox_backward"),
        *("penalty_value", "penalty_value_backward", "prox", "prox_backward"),
        *("prox_", "prox_sgd_", "prox_adamw_", "radial_prox", "radial_prox_backward"),
    }
