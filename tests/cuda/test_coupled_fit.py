"""CUDA's fit_heads of tasks that the shared level couples, executed from its PTX on a CPU."""

from __future__ import annotations

import pytest
import torch

import sparsedis_kernels as sk
from tests.cuda.executed import MACHINE, THREADS, executing
from tests.cuda.test_heads_report import losses, targets
from tests.problems import HEAD_PENALTIES, LAYOUTS, heads_problem

F32, F64 = torch.float32, torch.float64
COUPLED = [kind for kind, penalty in HEAD_PENALTIES.items() if penalty.shared]
LAUNCHES = ["coupled_start", "coupled_steps", "coupled_write"]


def weak(kind: str, z, y, **how) -> sk.Penalty:
    """A penalty at a share of lambda_max."""
    penalty = HEAD_PENALTIES[kind]
    return penalty.scaled(0.15 * float(sk.lambda_max(z, y, penalty, **how)))


def assert_solved(fitted: sk.HeadsFit, z, y, penalty: sk.Penalty, tol: float, **how):
    """All tasks' gap, which the CPU certifies, is what was asked for and what was reported."""
    assert fitted.converged.all()
    gap = sk.duality_gap(z, y, fitted.weight, penalty, backend="cpu", **how).max()
    assert float(gap) <= tol
    torch.testing.assert_close(fitted.gap.max(), gap, rtol=1e-2, atol=1e-3 * tol)


@losses
@pytest.mark.parametrize(
    ("kind", "layout"),
    [("nested", layout) for layout in LAYOUTS] + [(kind, "dense") for kind in COUPLED],
)
def test_solves_what_the_cpu_solves(kind, layout, loss):
    samples = LAYOUTS[layout]()
    y, how = targets(loss, samples.y), {"loss": loss, **samples.keywords()}
    penalty = weak(kind, samples.z, y, **how)
    with executing(80) as executor:
        fitted = sk.fit_heads(samples.z, y, penalty, tol=1e-9, backend="cuda", **how)
    assert [name for name, *_ in executor.planned] == LAUNCHES
    assert_solved(fitted, samples.z, y, penalty, 1e-9, **how)
    exact = sk.fit_heads(samples.z, y, penalty, tol=1e-11, backend="cpu", **how)
    torch.testing.assert_close(fitted.weight, exact.weight, rtol=2e-3, atol=2e-4)
    torch.testing.assert_close(fitted.bias, exact.bias, rtol=2e-3, atol=2e-4)
    assert ((fitted.weight != 0) == (exact.weight != 0)).float().mean() > 0.98


@losses
@pytest.mark.parametrize(("n", "M", "C"), [(1, 7, 5), (3, 33, 1), (60, 1, 2), (2, 129, 9)])
def test_odd_sizes_are_solved_in_float32(loss, n, M, C):
    samples = heads_problem(3, n, M, C, dtype=F32)
    y = targets(loss, samples.y)
    penalty = weak("nested", samples.z, y, loss=loss).scaled(2.0)
    with executing(90):
        fitted = sk.fit_heads(samples.z, y, penalty, loss=loss, tol=1e-5, backend="cuda")
    assert_solved(fitted, samples.z, y, penalty, 1e-5, loss=loss)


def test_strengths_differ_between_tasks_and_features():
    samples = heads_problem(4, 20, 6, 2)
    levels = [0.02 * torch.rand(4, 6, dtype=F64), 0.02 * torch.rand(4, 6, dtype=F64)]
    shared = torch.linspace(0, 0.2, 6, dtype=F64)  # the first feature couples nothing
    penalty = sk.Penalty(l1=levels[0], group=levels[1], shared=shared)
    with executing(80):
        fitted = sk.fit_heads(samples.z, samples.y, penalty, tol=1e-10, backend="cuda")
    exact = sk.fit_heads(samples.z, samples.y, penalty, tol=1e-12, backend="cpu")
    assert_solved(fitted, samples.z, samples.y, penalty, 1e-10)
    torch.testing.assert_close(fitted.weight, exact.weight, rtol=1e-4, atol=1e-5)


@losses
def test_blocks_and_their_order_change_no_bit(loss):
    samples = heads_problem(5, 20, 9, 2)
    y = targets(loss, samples.y)
    penalty = weak("nested", samples.z, y, loss=loss)
    kept = []
    for blocks, seed in ((3, None), (1, 1), (9, 2)):
        with executing(80, (MACHINE[0], blocks), seed=seed) as executor:
            kept.append(sk.fit_heads(samples.z, y, penalty, loss=loss, backend="cuda"))
        assert executor.planned[1] == ("coupled_steps", blocks, THREADS, 0)
    for other in kept[1:]:
        assert torch.equal(other.weight, kept[0].weight)
        assert torch.equal(other.bias, kept[0].bias)
        assert torch.equal(other.gap, kept[0].gap)


@losses
def test_bad_and_empty_tasks_change_no_bit_of_the_others(loss):
    samples = heads_problem(5, 12, 6, 3)
    z, y = samples.z.clone(), targets(loss, samples.y)
    weight = 0.5 + torch.rand(5, 12, dtype=F64)
    z[1, 3, 2], y[3, 0, 0], weight[4] = torch.nan, torch.inf, 0
    penalty = sk.Penalty(l1=0.005, group=0.005, shared=0.01)
    how = {"loss": loss, "backend": "cuda"}
    with executing(80):
        fitted = sk.fit_heads(z, y, penalty, sample_weight=weight, on_error="flag", **how)
        others = [0, 2]
        alone = sk.fit_heads(
            z[others], y[others], penalty, sample_weight=weight[others], **how
        )  # fmt: skip
    assert fitted.weight.isnan().flatten(1).any(1).tolist() == [False, True, False, True, False]
    assert fitted.converged.tolist() == [True, False, True, False, True]
    assert not fitted.weight[4].any()
    torch.testing.assert_close(fitted.weight[others], alone.weight, rtol=1e-9, atol=1e-12)


@losses
def test_a_warm_start_takes_fewer_steps(loss):
    samples = heads_problem(4, 30, 12, 3)
    y = targets(loss, samples.y)
    penalty = weak("nested", samples.z, y, loss=loss)
    how = {"loss": loss, "tol": 1e-8, "backend": "cuda"}
    with executing(80):
        cold = sk.fit_heads(samples.z, y, penalty, **how)
        warm = sk.fit_heads(1.001 * samples.z, y, penalty, init=cold.weight, **how)
        again = sk.fit_heads(samples.z, y, penalty, init=cold.weight, **how)
    assert again.n_iter.max() == 0
    assert torch.equal(again.weight, cold.weight)
    assert (warm.n_iter < cold.n_iter).all()


def test_a_fit_that_does_not_converge_says_so():
    samples = heads_problem(3, 30, 40, 3)
    with executing(80), pytest.warns(RuntimeWarning, match="3 of 3 tasks"):
        fitted = sk.fit_heads(
            samples.z, samples.y, sk.Penalty(group=1e-4, shared=1e-4), tol=1e-12, max_iter=7,
            backend="cuda",
        )  # fmt: skip
    assert fitted.n_iter.tolist() == [7, 7, 7]
    assert not fitted.converged.any()


@pytest.mark.parametrize("loss", ["squared", "multinomial"])
def test_no_threads_race(loss):
    samples = heads_problem(3, 9, 5, 3)
    y = targets(loss, samples.y)
    penalty = weak("nested", samples.z, y, loss=loss)
    with executing(80, (MACHINE[0], 2), sanitized=["coupled_steps"]) as executor:
        sk.fit_heads(
            samples.z, y, penalty, loss=loss, max_iter=12, on_error="flag", backend="cuda"
        )  # fmt: skip
    assert [name for name, _ in executor.launches] == LAUNCHES
