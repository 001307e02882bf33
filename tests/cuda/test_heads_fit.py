"""CUDA's fit_heads, executed from its PTX on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sparsedis_kernels as sk
from tests.cuda.executed import MACHINE, executing
from tests.cuda.test_heads_report import LOSSES, losses, targets
from tests.problems import HEAD_PENALTIES, LAYOUTS, Samples, fit, heads_problem, scaled_penalty

F32, F64 = torch.float32, torch.float64
ALONE = [kind for kind, penalty in HEAD_PENALTIES.items() if not penalty.shared]
kinds = pytest.mark.parametrize("kind", ALONE)


def assert_solved(
    fitted: sk.HeadsFit, z: Tensor, y: Tensor, penalty: sk.Penalty, tol: float, **how
):
    """The weights' gap, which the CPU certifies, is what was asked for and what was reported."""
    assert fitted.converged.all()
    gap = sk.duality_gap(z, y, fitted.weight, penalty, backend="cpu", **how)
    assert float(gap.max()) <= tol
    torch.testing.assert_close(fitted.gap, gap, rtol=1e-3, atol=1e-3 * tol)


@losses
@pytest.mark.parametrize("layout", LAYOUTS)
@kinds
def test_solves_what_the_cpu_solves(kind, layout, loss):
    samples = LAYOUTS[layout]()
    y, how = targets(loss, samples.y), {"loss": loss, **samples.keywords()}
    penalty = HEAD_PENALTIES[kind]
    if kind != "ridge":
        largest = sk.lambda_max(samples.z, y, penalty, **how)
        penalty = penalty.scaled(0.15 * float(largest[largest.isfinite()].max()))
    with executing(80):
        fitted = sk.fit_heads(samples.z, y, penalty, tol=1e-9, backend="cuda", **how)
    assert_solved(fitted, samples.z, y, penalty, 1e-9, **how)
    exact = sk.fit_heads(samples.z, y, penalty, tol=1e-11, backend="cpu", **how)
    torch.testing.assert_close(fitted.weight, exact.weight, rtol=2e-3, atol=2e-4)
    torch.testing.assert_close(fitted.bias, exact.bias, rtol=2e-3, atol=2e-4)
    if kind != "ridge" and loss == "squared":
        assert ((fitted.weight != 0) == (exact.weight != 0)).float().mean() > 0.98


@losses
@pytest.mark.parametrize("kind", ["ridge", "sparse_group_ridge"])
@pytest.mark.parametrize("M", [1, 7, 33, 129])
@pytest.mark.parametrize(("n", "C"), [(1, 5), (3, 65), (200, 1), (50, 2)])
def test_odd_sizes_are_solved_in_float32(loss, kind, M, n, C):
    samples = heads_problem(2, n, M, C, dtype=F32)
    y, penalty = targets(loss, samples.y), HEAD_PENALTIES[kind].scaled(0.3)
    with executing(90):
        fitted = sk.fit_heads(samples.z, y, penalty, loss=loss, tol=1e-5, backend="cuda")
    assert_solved(fitted, samples.z, y, penalty, 1e-5, loss=loss)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("kind", ["ridge", "group"])
@pytest.mark.parametrize(("T", "n", "M"), [(0, 5, 3), (2, 0, 3), (2, 5, 0)])
def test_what_is_empty_is_fitted(T, n, M, kind, dtype):
    z, y = torch.randn(T, n, M, dtype=dtype), torch.randn(T, n, 2, dtype=dtype)
    with executing(80):
        fitted = sk.fit_heads(z, y, HEAD_PENALTIES[kind], backend="cuda")
    expected = sk.fit_heads(z, y, HEAD_PENALTIES[kind], backend="cpu")
    assert fitted.converged.all()
    torch.testing.assert_close(fitted.weight, expected.weight)
    torch.testing.assert_close(fitted.bias, expected.bias)


@pytest.mark.parametrize(("loss", "tol"), [("squared", 2e-7), ("multinomial", 1e-6)])
def test_steps_in_float32_reach_nearly_what_it_certifies(loss, tol):
    torch.manual_seed(0)
    samples, group = heads_problem(2, 50, 64, 5, dtype=F32), sk.Penalty(group=1.0)
    y, how = targets(loss, samples.y), {"loss": loss}
    penalty = group.scaled(0.1 * float(sk.lambda_max(samples.z, y, group, **how).min()))
    with executing(90):
        fitted = sk.fit_heads(samples.z, y, penalty, tol=tol, max_iter=400, backend="cuda", **how)
    assert fitted.converged.all()
    gap = sk.duality_gap(samples.z, y, fitted.weight, penalty, backend="cpu", **how)
    assert float(gap.max()) <= 1.1 * tol


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("kind", ["lasso", "group", "sparse_group"])
def test_correlations_may_have_squares_beyond_float32(kind, scale):
    samples = heads_problem(2, 20, 9, 3, dtype=F32)
    samples = Samples(scale * samples.z, scale * samples.y)
    penalty = scaled_penalty(samples, HEAD_PENALTIES[kind])
    with executing(80):
        fitted = fit(samples, penalty, tol=1e-5, backend="cuda")
    assert_solved(fitted, samples.z, samples.y, penalty, 1e-5)


@pytest.mark.parametrize("kind", ["ridge", "lasso", "group", "shared"])
def test_what_overflows_has_not_converged(kind):
    """Of samples whose squares are, nearly, beyond the range."""
    z, y = 1e160 * torch.randn(3, 12, 20, dtype=F64), torch.randn(3, 12, 2, dtype=F64)
    penalty = sk.Penalty(**{{"lasso": "l1"}.get(kind, kind): 0.1})
    with executing(80):
        out = sk.fit_heads(z, y, penalty, on_error="flag", max_iter=50, backend="cuda")
    assert not out.converged.any()


@pytest.mark.parametrize("kind", ["ridge", "group"])
@losses
def test_what_does_not_fit_on_the_chip_gives_the_same_bits(kind, loss):
    samples = heads_problem(3, 25, 17, 3, dtype=F32)
    y, penalty = targets(loss, samples.y), HEAD_PENALTIES[kind].scaled(0.05)
    kept = []
    for shared in (MACHINE[0], 9_000, 3_000, 0):
        with executing(80, (shared, 2)) as executor:
            kept.append(sk.fit_heads(samples.z, y, penalty, loss=loss, tol=1e-5, backend="cuda"))
            assert all(used <= shared for *_, used in executor.planned)
    for other in kept[1:]:
        assert torch.equal(other.weight, kept[0].weight)
        assert torch.equal(other.gap, kept[0].gap)


@losses
def test_a_task_is_what_it_is_alone(loss):
    samples = heads_problem(5, 20, 9, 2, dtype=F32)
    y, penalty = targets(loss, samples.y), sk.Penalty(l1=0.01, group=0.02)
    with executing(80, (MACHINE[0], 3), seed=1):
        together = sk.fit_heads(samples.z, y, penalty, loss=loss, backend="cuda")
    for t in range(5):
        with executing(80, seed=2 + t):
            own = slice(t, t + 1)
            alone = sk.fit_heads(samples.z[own], y[own], penalty, loss=loss, backend="cuda")
        assert torch.equal(together.weight[own], alone.weight)
        assert torch.equal(together.bias[own], alone.bias)


@losses
def test_bad_tasks_spoil_no_other(loss):
    samples = heads_problem(5, 12, 6, 3)
    z, y = samples.z.clone(), targets(loss, samples.y)
    weight = torch.rand(5, 12, dtype=F64)
    z[1, 3, 2], y[3, 0, 0], weight[4] = torch.nan, torch.inf, 0
    how = {"loss": loss, "sample_weight": weight, "on_error": "flag"}
    with executing(80):
        fitted = sk.fit_heads(z, y, sk.Penalty(group=0.02), backend="cuda", **how)
    assert fitted.weight.isnan().flatten(1).any(1).tolist() == [False, True, False, True, False]
    assert fitted.converged.tolist() == [True, False, True, False, True]
    assert not fitted.weight[4].any()


@losses
def test_a_warm_start_takes_fewer_steps(loss):
    samples = heads_problem(4, 30, 12, 3)
    y, penalty = targets(loss, samples.y), sk.Penalty(group=0.02)
    with executing(80):
        cold = sk.fit_heads(samples.z, y, penalty, loss=loss, tol=1e-8, backend="cuda")
        warm = sk.fit_heads(
            1.001 * samples.z, y, penalty, loss=loss, tol=1e-6, init=cold.weight, backend="cuda"
        )
        again = sk.fit_heads(
            samples.z, y, penalty, loss=loss, tol=1e-8, init=cold.weight, backend="cuda"
        )
    assert again.n_iter.max() == 0
    assert torch.equal(again.weight, cold.weight)
    assert (warm.n_iter < cold.n_iter).all()
    assert_solved(warm, 1.001 * samples.z, y, penalty, 1e-6, loss=loss)


def test_a_fit_that_does_not_converge_says_so():
    samples = heads_problem(3, 30, 40, 3)
    with executing(80), pytest.warns(RuntimeWarning, match="3 of 3 tasks"):
        fitted = fit(samples, sk.Penalty(group=1e-4), tol=1e-12, max_iter=7, backend="cuda")
    assert fitted.n_iter.tolist() == [7, 7, 7]
    assert not fitted.converged.any()


def test_collinear_features_do_not_end_the_power_method_early():
    samples = heads_problem(3, 40, 30, 2, correlation=0.99)
    penalty = scaled_penalty(samples, HEAD_PENALTIES["group"], 0.1)
    with executing(80):
        fitted = fit(samples, penalty, tol=1e-7, backend="cuda")
    assert_solved(fitted, samples.z, samples.y, penalty, 1e-7)


def test_ridge_of_copied_features_that_is_lost_to_rounding_still_fits():
    samples = heads_problem(2, 30, 12, 3)
    z = torch.cat([samples.z[..., :6]] * 2, -1)
    with executing(80):
        fitted = sk.fit_heads(
            z, samples.y, sk.Penalty(ridge=1e-19), on_error="flag", backend="cuda"
        )
    centred = z[..., :6] - z[..., :6].mean(1, keepdim=True)
    best = torch.linalg.lstsq(centred, samples.y - samples.y.mean(1, keepdim=True)).solution
    predicted = z @ fitted.weight + fitted.bias[:, None]
    expected = centred @ best + samples.y.mean(1, keepdim=True)
    torch.testing.assert_close(predicted, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shared_bytes", [MACHINE[0], 0])
@pytest.mark.parametrize(("n", "M"), [(12, 20), (20, 12)])
def test_one_design_of_ridge_heads_is_read_and_factored_once_by_a_block(n, M, shared_bytes):
    """And a task is what it is with a design of its own, whatever the others are."""
    T, blocks = 9, 2
    z = heads_problem(1, n, M, 2, dtype=F32).z[0]
    y = heads_problem(T, n, M, 2, dtype=F32).y
    y[0, 0, 0], y[4] = torch.nan, 0.0
    how = {"penalty": sk.Penalty(ridge=0.1), "on_error": "flag", "backend": "cuda"}
    with executing(80, (shared_bytes, blocks), sanitize="thread") as executor:
        together = sk.fit_heads(z, y, **how)
    with executing(80, (shared_bytes, T)) as each:
        alone = sk.fit_heads(z.expand(T, n, M).contiguous(), y, **how)
    torch.testing.assert_close(together.weight, alone.weight, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(together.bias, alone.bias, rtol=0, atol=0, equal_nan=True)
    assert together.converged.tolist() == [False, *[True] * (T - 1)]
    ((_, shared),), ((_, own),) = executor.launches, each.launches
    assert shared.multiplications[4] < 0.7 * own.multiplications[4]
    if shared_bytes:
        assert shared.bytes_loaded <= 1.1 * 4 * ((blocks + 1) * z.numel() + y.numel())


@pytest.mark.parametrize("what", ["ridge", "sample_weight"])
def test_one_design_is_factored_for_every_task_where_they_differ(what):
    z, y = heads_problem(1, 12, 20, 2).z[0], heads_problem(5, 12, 20, 2).y
    ridge = 0.1 + torch.rand(5, 20, dtype=F64) if what == "ridge" else 0.1
    weight = torch.rand(5, 12, dtype=F64) if what == "sample_weight" else None
    how = {"penalty": sk.Penalty(ridge=ridge), "sample_weight": weight}
    with executing(80, (MACHINE[0], 2)):
        fitted = sk.fit_heads(z, y, backend="cuda", **how)
    exact = sk.fit_heads(z, y, backend="cpu", **how)
    torch.testing.assert_close(fitted.weight, exact.weight)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shared_bytes", [MACHINE[0], 0])
@pytest.mark.parametrize(("n", "M"), [(12, 20), (20, 12)])
def test_ridge_that_float32_does_not_solve_is_solved_in_double(n, M, shared_bytes, packed):
    """All tasks but the first, whose features are nearly copies of three."""
    torch.manual_seed(0)
    samples, penalty = heads_problem(3, n, M, 2, dtype=F32), sk.Penalty(ridge=1e-5)
    z, y, how = samples.z, samples.y, {}
    z[1:] = z[1:] @ torch.randn(M, 3) @ torch.randn(3, M) + 0.01 * z[1:]
    if packed:
        how["offsets"] = n * torch.arange(4)
        z, y = z.flatten(0, 1), y.flatten(0, 1)
    with executing(80, (shared_bytes, 2), sanitize="thread"):
        fitted = sk.fit_heads(z, y, penalty, tol=1e-6, backend="cuda", **how)
    assert fitted.converged.all()
    exact = sk.fit_heads(z.double(), y.double(), penalty, tol=1e-12, backend="cpu", **how)
    for t, rtol in ((0, 1e-5), (1, 1e-6), (2, 1e-6)):
        error = (fitted.weight[t] - exact.weight[t]).norm() / exact.weight[t].norm()
        assert float(error) < rtol


@pytest.mark.parametrize("kind", ["ridge", "sparse_group"])
@pytest.mark.parametrize("loss", LOSSES[:2])
def test_no_threads_race(kind, loss):
    samples = heads_problem(5, 8, 5, 3, dtype=F32)  # each task's arrays begin with a whole 16 bytes
    y, penalty = targets(loss, samples.y), HEAD_PENALTIES[kind].scaled(0.1)
    with executing(80, (MACHINE[0], 2), sanitize="thread") as executor:
        sk.fit_heads(samples.z, y, penalty, loss=loss, max_iter=20, on_error="flag", backend="cuda")
    ridge = kind == "ridge" and loss == "squared"
    assert [name for name, _ in executor.launches] == ["fit_ridge" if ridge else "fit_proximal"]


@losses
def test_a_block_takes_the_first_task_that_is_left(loss):
    """Each is asked for once, and what it gives does not depend on who takes it."""
    samples = heads_problem(7, 20, 9, 2, dtype=F32)
    y, penalty = targets(loss, samples.y), sk.Penalty(group=0.02)
    fits = []
    for blocks in (1, 2, 7, 9):
        with executing(80, (MACHINE[0], blocks)) as executor:
            fits.append(sk.fit_heads(samples.z, y, penalty, loss=loss, backend="cuda"))
        ((_, stats),) = executor.launches
        assert stats.global_atomics == {8: 7}
        assert executor.planned[0].grid == min(blocks, 7)
    for other in fits[1:]:
        assert torch.equal(other.weight, fits[0].weight)
        assert torch.equal(other.gap, fits[0].gap)


@losses
def test_every_byte_is_read_once(loss):
    samples = heads_problem(3, 50, 64, 5, dtype=F32)
    y, strengths = targets(loss, samples.y), 0.02 + 0.1 * torch.rand(3, 64)
    with executing(80) as executor:
        sk.fit_heads(samples.z, y, sk.Penalty(group=strengths), loss=loss, backend="cuda")
    ((_, stats),) = executor.launches
    inputs = sum(4 * t.numel() for t in (samples.z, y, strengths))
    outputs = 4 * 3 * (64 * 5 + 5 + 1 + 1 + 1)
    assert inputs <= stats.bytes_loaded <= 1.1 * inputs
    assert stats.bytes_stored == outputs
