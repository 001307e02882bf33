"""Ridge heads of small tasks, which the CPU kernels solve side by side."""

import pytest
import torch
from torch import Tensor

import sparsedis_kernels as sk
from tests.problems import NAN_TASK, UNEVEN_COUNTS, UNEVEN_FEATURES, heads_problem, uneven_tasks


def solve(z: Tensor, y: Tensor, weight: Tensor, offsets: Tensor, ridge: Tensor, **options):
    """The fit, and the gradients of a scalar in z, y and ridge."""
    leaves = [x.clone().requires_grad_() for x in (z, y, ridge)]
    out = sk.fit_heads(
        *leaves[:2], sk.Penalty(ridge=leaves[2]), sample_weight=weight, offsets=offsets,
        on_error="flag", **options,
    )  # fmt: skip
    value = (out.weight.nan_to_num() ** 3).sum() + (out.bias.nan_to_num() ** 3).sum()
    return out, torch.autograd.grad(value, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("C", [1, 2, 5, 7])
def test_a_task_beside_others_is_what_it_is_alone(dtype, C):
    z, y, weight, offsets = uneven_tasks(C, dtype)
    ridge = torch.rand(len(UNEVEN_COUNTS), UNEVEN_FEATURES, dtype=dtype) + 0.1
    together, grads = solve(z, y, weight, offsets, ridge)
    assert together.weight.isnan().flatten(1).all(1).nonzero().flatten().tolist() == [NAN_TASK]
    for t in range(len(UNEVEN_COUNTS)):
        rows = slice(int(offsets[t]), int(offsets[t + 1]))
        own = torch.tensor([0, UNEVEN_COUNTS[t]])
        alone, gradients = solve(z[rows], y[rows], weight[rows], own, ridge[t : t + 1])
        for a, b in zip(alone, together, strict=True):
            assert torch.equal(a[0].nan_to_num(), b[t].nan_to_num()), t
        for a, b in zip(gradients[:2], grads[:2], strict=True):
            assert torch.equal(a.nan_to_num(), b[rows].nan_to_num()), t
        assert torch.equal(gradients[2][0].nan_to_num(), grads[2][t].nan_to_num()), t


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("C", [1, 2, 5, 7])
def test_fits_and_gradients_are_the_reference_s(dtype, C):
    z, y, weight, offsets = uneven_tasks(C, dtype)
    ridge = torch.rand(len(UNEVEN_COUNTS), UNEVEN_FEATURES, dtype=dtype) + 0.1
    out, grads = solve(z, y, weight, offsets, ridge)
    exact, expected = solve(
        z.double(), y.double(), weight.double(), offsets, ridge.double(), backend="reference"
    )
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {}
    for ours, theirs in zip((*out[:2], *grads), (*exact[:2], *expected), strict=True):
        torch.testing.assert_close(
            ours.double(),
            theirs.double(),
            equal_nan=True,
            **(tolerance or {"rtol": 1e-9, "atol": 1e-11}),
        )
    assert out.converged.tolist() == exact.converged.tolist()


@pytest.mark.parametrize("M", [20, 90])
@pytest.mark.parametrize("n", [12, 40, 70])
def test_a_task_whose_samples_are_one_direction_is_solved(n, M):
    """Float32 rounds its system to an indefinite one, or to none near it; others do not notice."""
    samples = heads_problem(20, n, M, 2, dtype=torch.float32)
    ridge = torch.full((20, M), 0.1)
    before = sk.fit_heads(samples.z, samples.y, sk.Penalty(ridge=ridge))
    samples.z[4] = 10 * torch.randn(n, 1) * torch.randn(1, M)
    ridge[4] = 1e-4
    out = sk.fit_heads(samples.z, samples.y, sk.Penalty(ridge=ridge))
    assert out.converged.all()
    others = [t for t in range(20) if t != 4]
    assert torch.equal(out.weight[others], before.weight[others])
    z, y = samples.z[4].double(), samples.y[4].double()
    exact = sk.fit_heads(z[None], y[None], sk.Penalty(ridge=1e-4))
    scores = z @ out.weight[4].double() + out.bias[4]
    torch.testing.assert_close(scores, z @ exact.weight[0] + exact.bias[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("ridge", [1e-2, 1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(20, 50, 64), (3, 70, 128), (20, 64, 50)])
def test_a_small_ridge_costs_float32_no_digits(shape, weighted, ridge):
    """Neither weights nor gradients, which it would by the direction that the intercept takes."""
    T, n, M = shape
    samples = heads_problem(T, n, M, 3)
    weight = torch.rand(T, n, dtype=torch.float64) + 0.5 if weighted else None
    seed = torch.randn(T, M, 3, dtype=torch.float64)

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        z, y = (x.to(dtype).requires_grad_() for x in (samples.z, samples.y))
        own = None if weight is None else weight.to(dtype)
        out = sk.fit_heads(z, y, sk.Penalty(ridge=ridge), sample_weight=own)
        assert out.converged.all()
        grads = torch.autograd.grad((out.weight * seed.to(dtype)).sum(), (z, y))
        return [x.detach().double() for x in grads]

    for ours, exact in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        error = (ours - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
        assert float(error.max()) <= 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("shape", [(9, 32, 1), (40, 32, 3), (40, 33, 7), (40, 40, 2), (1, 3, 5)])
def test_targets_beside_others_on_one_design(shape, alike, intercept, dtype):
    """Heads of 37 tasks are the reference's, and bit for bit what they are alone."""
    n, M, C = shape
    z = torch.randn(n, M, dtype=dtype) + 3
    y = torch.randn(37, n, C, dtype=dtype) + torch.arange(37)[:, None, None]
    y[5, n // 2, 0] = torch.inf
    y[6] = 0.0
    init = torch.zeros(37, M, C, dtype=dtype)
    init[7, 0, 0] = torch.nan
    options = {
        "sample_weight": torch.rand(n, dtype=dtype) + 0.1, "fit_intercept": intercept,
        "on_error": "flag",
    }  # fmt: skip
    penalty = sk.Penalty(ridge=0.3 if alike else torch.rand(M, dtype=dtype) + 0.1)
    out = sk.fit_heads(z, y, penalty, init=init, **options)
    assert out.weight.isnan().flatten(1).all(1).nonzero().flatten().tolist() == [5, 7]
    assert not out.weight[6].any()
    exact = sk.fit_heads(z, y, penalty, init=init, backend="reference", **options)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    for ours, theirs in zip(out[:2], exact[:2], strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=tolerance, atol=tolerance)
    for t in (0, 4, 8, 15, 16, 36):
        alone = sk.fit_heads(z, y[t : t + 1], penalty, **options)
        for a, b in zip(alone, out, strict=True):
            assert torch.equal(a[0], b[t]), t
