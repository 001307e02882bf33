"""Sparse heads of small tasks, which the CPU kernels solve side by side."""

import pytest
import torch
from torch import Tensor

import sparsedis_kernels as sk
from tests.problems import (
    HEAD_PENALTIES,
    NAN_TASK,
    UNEVEN_COUNTS,
    UNEVEN_FEATURES,
    fit,
    heads_problem,
    scaled_penalty,
    uneven_task,
    uneven_tasks,
)

T = len(UNEVEN_COUNTS)
LEVELS = {
    "lasso": ("l1",), "elastic_net": ("l1", "ridge"), "group": ("group",),
    "sparse_group": ("l1", "group"), "all": ("l1", "group", "ridge"),
}  # fmt: skip
# Most passes that lanes take, as csrc/core/sparse_lanes.h has it.
LANE_STEPS = 84


def strengths(levels: tuple[str, ...], dtype: torch.dtype, free: bool = True) -> dict[str, Tensor]:
    """Those of every task and feature; where `free`, some features have none, in one task all."""
    values = {}
    for level in levels:
        values[level] = 0.05 + 0.1 * torch.rand(T, UNEVEN_FEATURES, dtype=dtype)
        if free and level != "ridge":
            values[level][::5, ::7] = 0.0
            values[level][13] = 0.0
    return values


def solve(data: tuple[Tensor, ...], values: dict[str, Tensor], nonneg: bool, **options):
    z, y, weight, offsets = data
    penalty = sk.Penalty(**values, nonneg=nonneg)
    return sk.fit_heads(
        z, y, penalty, sample_weight=weight, offsets=offsets, on_error="flag", **options
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("C", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("levels", LEVELS)
def test_a_task_beside_others_is_what_it_is_alone(levels, nonneg, C, dtype):
    """Bit for bit, whatever sets the others have and whether they start warm."""
    data = uneven_tasks(C, dtype)
    values = strengths(LEVELS[levels], dtype)
    init = torch.randn(T, UNEVEN_FEATURES, C, dtype=dtype)
    init[torch.rand(T, UNEVEN_FEATURES) < 0.6] = 0.0
    init[::3] = 0.0
    together = solve(data, values, nonneg, init=init)
    assert together.weight.isnan().flatten(1).all(1).nonzero().flatten().tolist() == [NAN_TASK]
    for t in range(0, T, 3 if C > 1 else 1):
        own = uneven_task(data, t)
        mine = {level: value[t : t + 1] for level, value in values.items()}
        alone = solve(own, mine, nonneg, init=init[t : t + 1])
        for a, b in zip(alone, together, strict=True):
            assert torch.equal(a[0].nan_to_num(), b[t].nan_to_num()), t


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("C", [1, 2, 5])
@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("levels", LEVELS)
def test_objectives_are_the_reference_s(levels, nonneg, C, dtype):
    """As far as the gap that either certifies; where nothing is unique, weights may differ."""
    data = uneven_tasks(C, dtype)
    # What stands in for no strength at all is less in double: another problem.
    values = strengths(LEVELS[levels], dtype, free=dtype == torch.float64)
    tol = 1e-6 if dtype == torch.float32 else 1e-9
    out = solve(data, values, nonneg, tol=tol)
    assert out.converged.logical_not().nonzero().flatten().tolist() == [NAN_TASK]
    z, y, weight, offsets = data
    exact = tuple(x.double() for x in (z, y))
    gaps = sk.duality_gap(
        *exact, out.weight.double(),
        sk.Penalty(**{level: value.double() for level, value in values.items()}, nonneg=nonneg),
        sample_weight=weight.double(), offsets=offsets, backend="reference",
    )  # fmt: skip
    # Float32 rounds samples as it centres them.
    rounding = 4 * torch.finfo(dtype).eps
    assert float(gaps[torch.arange(T) != NAN_TASK].max()) <= tol + rounding


@pytest.mark.parametrize("kind", ["lasso", "elastic_net", "group", "sparse_group_ridge", "nonneg"])
@pytest.mark.parametrize("tol", [1e-4, 1e-6])
def test_gaps_are_certified_in_few_passes(kind, tol):
    """In double sums over all features: that of the weights, from the data, is no larger."""
    samples = heads_problem(37, 40, 48, 5, dtype=torch.float32)
    penalty = scaled_penalty(samples, HEAD_PENALTIES[kind], 0.1)
    out = fit(samples, penalty, tol=tol)
    assert out.converged.all()
    assert float(out.gap.max()) <= tol
    z, y, weight = samples.z.double(), samples.y.double(), out.weight.double()
    gap = sk.duality_gap(z, y, weight, penalty, backend="reference")
    assert float(gap.max()) <= tol + 2.0**-24
    assert int(out.n_iter.max()) <= LANE_STEPS


def test_what_takes_many_passes_is_solved_all_the_same():
    """Two tasks with strong correlations go on alone, from where lanes left them."""
    samples = heads_problem(20, 40, 30, 5)
    hard = heads_problem(20, 40, 30, 5, correlation=0.999)
    penalty = scaled_penalty(samples, HEAD_PENALTIES["group"], 0.1)
    before = fit(samples, penalty, tol=1e-10)
    for t in (3, 11):
        samples.z[t], samples.y[t] = hard.z[t], hard.y[t]
    out = fit(samples, penalty, tol=1e-10)
    assert out.converged.all()
    others = [t for t in range(20) if t not in (3, 11)]
    assert torch.equal(out.weight[others], before.weight[others])
    assert int(out.n_iter[[3, 11]].min()) > LANE_STEPS


@pytest.mark.parametrize("C", [1, 5])
def test_features_that_are_alike_are_no_obstacle(C):
    """Newton steps with one output have no system there."""
    samples = heads_problem(20, 30, 24, C)
    samples.z[:, :, 12:] = samples.z[:, :, :12]
    samples.z[4] = 0.0
    penalty = scaled_penalty(samples, HEAD_PENALTIES["group"], 0.05)
    out = fit(samples, penalty, tol=1e-9)
    assert out.converged.all()
    assert not out.weight[4].any()
    exact = fit(samples, penalty, tol=1e-12, backend="reference")
    folded, theirs = (x.weight[:, :12] + x.weight[:, 12:] for x in (out, exact))
    torch.testing.assert_close(folded, theirs, rtol=1e-3, atol=1e-3)


def test_a_start_below_a_bound_is_no_solution():
    samples = heads_problem(20, 30, 10, 2)
    penalty = scaled_penalty(samples, HEAD_PENALTIES["nonneg"], 0.1)
    out = fit(samples, penalty, tol=1e-8)
    start = out.weight.clone()
    start[5, 2, 1] -= start[5, 2, 1] + 1e-9
    again = fit(samples, penalty, tol=1e-4, init=start)
    assert float(again.weight.min()) >= 0
    assert again.converged.all()


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_sizes_whose_squares_leave_the_range(scale):
    """Of targets, with strengths that follow them: the weights do, too."""
    samples = heads_problem(20, 30, 12, 3, dtype=torch.float32)
    penalty = scaled_penalty(samples, HEAD_PENALTIES["sparse_group"], 0.1)
    expected = fit(samples, penalty, tol=1e-6)
    out = sk.fit_heads(samples.z, samples.y * scale, penalty.scaled(scale), tol=1e-6)
    assert out.converged.all()
    torch.testing.assert_close(out.weight / scale, expected.weight, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("C", [1, 2])
@pytest.mark.parametrize("max_iter", [1, 5, 19, 20, 21, 40, 84, 90])
def test_steps_are_as_many_as_allowed(max_iter, C):
    samples = heads_problem(20, 30, 12, C, correlation=0.999)
    penalty = scaled_penalty(samples, HEAD_PENALTIES["group"], 0.001)
    out = fit(samples, penalty, tol=0.0, max_iter=max_iter, on_error="flag")
    assert int(out.n_iter.max()) == max_iter
