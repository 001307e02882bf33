import itertools
import subprocess
import sys
import warnings

import celer
import cvxpy
import numpy as np
import pytest
import skglm
import torch
from sklearn import linear_model

import sparsedis_kernels as sk
from tests.problems import (
    HEAD_PENALTIES,
    LARGE_LAYOUTS,
    LAYOUTS,
    Samples,
    fit,
    heads_problem,
    one_design,
    ragged,
    scaled_penalty,
)

F64 = torch.float64
penalties = pytest.mark.parametrize("kind", HEAD_PENALTIES)
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def task_samples(samples: Samples, t: int) -> tuple[torch.Tensor, torch.Tensor]:
    """z (n, M) and y (n, C) of one task, from any layout."""
    if samples.offsets is not None:
        rows = slice(int(samples.offsets[t]), int(samples.offsets[t + 1]))
        return samples.z[rows], samples.y[rows]
    z = samples.z if samples.z.dim() == 2 else samples.z[t]
    return z, samples.y[t]


def objective(samples, fitted, penalty):
    loss = sum(
        ((z @ w + b - y) ** 2).sum() / (2 * max(len(z), 1))
        for (z, y), w, b in zip(
            (task_samples(samples, t) for t in range(len(fitted.weight))),
            fitted.weight, fitted.bias, strict=True,
        )
    )  # fmt: skip
    return float(loss + sk.penalty_value(fitted.weight, penalty))


@penalties
@layouts
def test_gap_is_reached_and_bounds_the_suboptimality(backend, kind, layout):
    samples = LAYOUTS[layout]()
    penalty = scaled_penalty(samples, HEAD_PENALTIES[kind])
    best = objective(samples, fit(samples, penalty, tol=1e-11, max_iter=10**6), penalty)
    for tol in (1e-2, 1e-4, 1e-6):
        loose = fit(samples, penalty, tol=tol, backend=backend, max_iter=10**6)
        assert loose.converged.all()
        assert (loose.gap <= tol).all()
        certified = sk.duality_gap(
            samples.z, samples.y, loose.weight, penalty, **samples.keywords(), backend=backend
        )
        torch.testing.assert_close(certified, loose.gap, rtol=1e-6, atol=1e-9)
        zero = objective_at_zero(samples)
        assert -1e-12 <= objective(samples, loose, penalty) - best <= tol * zero * (1 + 1e-9)


def objective_at_zero(samples):
    tasks = len(samples.offsets) - 1 if samples.offsets is not None else len(samples.y)
    total = 0.0
    for t in range(tasks):
        _, y = task_samples(samples, t)
        if len(y):
            total += float(((y - y.mean(0)) ** 2).sum() / (2 * len(y)))
    return total


@penalties
def test_layouts_agree(kind):
    """One set of numbers as dense, ragged, jagged and, with one design, as one design."""
    design = one_design(3, 12, 8, 2)
    z, y = design.z.expand(3, 12, 8), design.y
    penalty = scaled_penalty(design, HEAD_PENALTIES[kind])
    weight = torch.rand(3, 12, dtype=F64)
    offsets = torch.arange(0, 37, 12)
    flat = (z.reshape(36, 8), y.reshape(36, 2))
    jagged = [torch.nested.nested_tensor_from_jagged(part, offsets) for part in flat]
    options = {"tol": 1e-12, "max_iter": 10**5}
    dense = sk.fit_heads(z, y, penalty, sample_weight=weight, **options)
    others = {
        "ragged": sk.fit_heads(
            *flat, penalty, offsets=offsets, sample_weight=weight.flatten(), **options
        ),
        "jagged": sk.fit_heads(*jagged, penalty, sample_weight=weight.flatten(), **options),
        "one design": sk.fit_heads(design.z, y, penalty, sample_weight=weight, **options),
        "strided": sk.fit_heads(
            z.mT.contiguous().mT, y.mT.contiguous().mT, penalty, sample_weight=weight, **options
        ),
    }
    for other in others.values():
        torch.testing.assert_close(other.weight, dense.weight, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(other.bias, dense.bias, rtol=1e-5, atol=1e-7)
    equal = torch.full((12,), 0.5, dtype=F64)
    torch.testing.assert_close(
        sk.fit_heads(design.z, y, penalty, sample_weight=equal, **options).weight,
        sk.fit_heads(z, y, penalty, **options).weight,
        rtol=1e-5,
        atol=1e-7,
    )


def test_jagged_gradients_reach_the_nested_tensors():
    samples = ragged([5, 9, 7], 4, 2)
    leaves = [samples.z.clone().requires_grad_(), samples.y.clone().requires_grad_()]
    jagged = [torch.nested.nested_tensor_from_jagged(part, samples.offsets) for part in leaves]
    penalty = sk.Penalty(l1=0.05)
    loss = sk.fit_heads(*jagged, penalty, tol=1e-10).weight.square().sum()
    packed = sk.fit_heads(*leaves, penalty, offsets=samples.offsets, tol=1e-10)
    for a, b in zip(
        torch.autograd.grad(loss, leaves),
        torch.autograd.grad(packed.weight.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


# --- independent oracles -------------------------------------------------------------------------


def cvxpy_heads(samples, penalty):
    """The problem as written, by an interior-point cone solver."""
    T = len(samples.y)
    n, M = samples.z.shape[-2:]
    C = samples.y.shape[-1]
    W = [cvxpy.Variable((M, C)) for _ in range(T)]
    b = [cvxpy.Variable((1, C)) for _ in range(T)]
    terms = []
    for t in range(T):
        z, y = (part.numpy() for part in task_samples(samples, t))
        residual = z @ W[t] + np.ones((n, 1)) @ b[t] - y
        terms.append(cvxpy.sum_squares(residual) / (2 * n))
        terms.append(penalty.l1 * cvxpy.norm1(W[t]))
        terms.append(penalty.group * cvxpy.sum(cvxpy.norm(W[t], 2, axis=1)))
        terms.append(penalty.ridge / 2 * cvxpy.sum_squares(W[t]))
    for m in range(M):
        feature = cvxpy.hstack([W[t][m] for t in range(T)])
        terms.append(penalty.shared * cvxpy.norm(feature, 2))
    bounds = [w >= 0 for w in W] if penalty.nonneg else []
    problem = cvxpy.Problem(cvxpy.Minimize(sum(terms)), bounds)
    problem.solve(solver="CLARABEL", tol_gap_rel=1e-11, tol_gap_abs=1e-11, tol_feas=1e-11)
    return np.stack([w.value for w in W])


@penalties
@pytest.mark.parametrize("shape", [(3, 14, 6, 2), (2, 8, 12, 3), (3, 10, 8, 1)])
def test_equals_a_cone_solver(kind, shape):
    samples = heads_problem(*shape)
    penalty = scaled_penalty(samples, HEAD_PENALTIES[kind])
    ours = fit(samples, penalty, tol=1e-12, max_iter=10**5).weight
    oracle = torch.from_numpy(cvxpy_heads(samples, penalty))
    torch.testing.assert_close(ours, oracle, rtol=1e-4, atol=2e-5)


def test_equals_scikit_learn_and_celer_and_skglm():
    samples = heads_problem(2, 30, 20, 3)
    z, y = samples.z.numpy(), samples.y.numpy()
    options = {"tol": 1e-12, "max_iter": 10**5}

    def ours(penalty, outputs=slice(None)):
        return sk.fit_heads(samples.z, samples.y[:, :, outputs], penalty, **options).weight.numpy()

    first = slice(0, 1)
    lasso, enet = ours(sk.Penalty(l1=0.1), first), ours(sk.Penalty(l1=0.1, ridge=0.2), first)
    positive = ours(sk.Penalty(l1=0.1, nonneg=True), first)
    group, ridge = ours(sk.Penalty(group=0.2)), ours(sk.Penalty(ridge=0.3))
    for t in range(2):
        single = y[t, :, 0]
        strict = {"tol": 1e-14, "max_iter": 10**6}
        theirs = {
            "lasso": linear_model.Lasso(0.1, **strict).fit(z[t], single).coef_,
            "celer": celer.Lasso(0.1, tol=1e-13).fit(z[t], single).coef_,
            "skglm": skglm.Lasso(0.1, tol=1e-13).fit(z[t], single).coef_,
        }
        for coef in theirs.values():
            np.testing.assert_allclose(lasso[t, :, 0], coef, atol=1e-6)
        net = linear_model.ElasticNet(0.3, l1_ratio=1 / 3, **strict).fit(z[t], single).coef_
        np.testing.assert_allclose(enet[t, :, 0], net, atol=1e-6)
        bounded = linear_model.Lasso(0.1, positive=True, **strict).fit(z[t], single).coef_
        np.testing.assert_allclose(positive[t, :, 0], bounded, atol=1e-6)
        multi = linear_model.MultiTaskLasso(0.2, **strict).fit(z[t], y[t]).coef_.T
        np.testing.assert_allclose(group[t], multi, atol=1e-6)
        l2 = linear_model.Ridge(0.3 * 30).fit(z[t], y[t]).coef_.T
        np.testing.assert_allclose(ridge[t], l2, atol=1e-10)


def test_shared_level_equals_a_multi_task_lasso_on_one_design():
    """With one design and C = 1 the shared level over tasks is scikit-learn's MultiTaskLasso."""
    design = one_design(6, 25, 12, 1)
    ours = fit(design, sk.Penalty(shared=0.4), tol=1e-12, max_iter=10**5).weight[:, :, 0]
    targets = design.y[:, :, 0].T.numpy()
    theirs = linear_model.MultiTaskLasso(0.4, tol=1e-14, max_iter=10**6).fit(design.z, targets)
    np.testing.assert_allclose(ours.numpy(), theirs.coef_, atol=1e-6)


def test_weighted_ridge_equals_scikit_learn():
    samples = heads_problem(1, 20, 6, 2)
    weight = torch.rand(1, 20, dtype=F64)
    ours = sk.fit_heads(samples.z, samples.y, sk.Penalty(ridge=0.3), sample_weight=weight)
    theirs = linear_model.Ridge(0.3 * float(weight.sum())).fit(
        samples.z[0], samples.y[0], sample_weight=weight[0]
    )
    np.testing.assert_allclose(ours.weight[0].numpy(), theirs.coef_.T, atol=1e-10)
    np.testing.assert_allclose(ours.bias[0].numpy(), theirs.intercept_, atol=1e-10)


# --- 500 random problems --------------------------------------------------------------------------


def random_problem(seed):
    """A random size, layout, penalty, weighting and intercept."""
    rng = torch.Generator().manual_seed(seed)

    def pick(low, high):
        return int(torch.randint(low, high + 1, (1,), generator=rng))

    torch.manual_seed(seed)
    T, n, M, C = pick(1, 4), pick(4, 24), pick(1, 20), pick(1, 4)
    kind = list(HEAD_PENALTIES)[seed % len(HEAD_PENALTIES)]
    layout = ("dense", "ragged", "one_design")[seed // len(HEAD_PENALTIES) % 3]
    make = {
        "dense": lambda: heads_problem(T, n, M, C),
        "ragged": lambda: ragged([n + k for k in range(T)], M, C),
        "one_design": lambda: one_design(T, n, M, C),
    }
    samples = make[layout]()
    rows = samples.y.shape[:-1]
    weight = 0.5 + torch.rand(rows, dtype=F64) if pick(0, 1) else None
    samples = Samples(samples.z, samples.y, samples.offsets, weight)
    share = 0.05 + 0.4 * float(torch.rand(1, generator=rng))
    return samples, scaled_penalty(samples, HEAD_PENALTIES[kind], share), bool(pick(0, 1))


# With `never_done`: to rounding.
SOLVED = {"tol": -1.0, "max_iter": 300}


@pytest.mark.usefixtures("never_done")
@pytest.mark.parametrize("block", range(10))
def test_500_random_problems(block):
    """Gap as asked, solution as the reference's, gradient as finite differences, off kinks."""
    checked = 0
    for seed in range(50 * block, 50 * block + 50):
        samples, penalty, intercept = random_problem(seed)
        options = {"fit_intercept": intercept, "max_iter": 10**5}
        fitted = fit(samples, penalty, tol=1e-6, **options)
        assert (fitted.gap <= 1e-6).all(), seed
        certified = sk.duality_gap(
            samples.z, samples.y, fitted.weight, penalty, **samples.keywords(),
            fit_intercept=intercept, backend="reference",
        )  # fmt: skip
        assert (certified <= 1.001e-6).all(), seed
        exact = fit(samples, penalty, tol=1e-12, **options)
        oracle = fit(samples, penalty, tol=1e-9, backend="reference", **options)
        torch.testing.assert_close(exact.weight, oracle.weight, rtol=1e-3, atol=3e-4)
        checked += check_gradient(samples, penalty, intercept, seed)
    assert checked >= 35, checked


def leaves_of(samples, penalty):
    """What the gradient is taken in: z, y, sample weights where there are some, strengths > 0."""
    data = [samples.z, samples.y]
    if samples.sample_weight is not None:
        data.append(samples.sample_weight)
    levels = [k for k in ("l1", "group", "shared", "ridge") if getattr(penalty, k) > 0]
    return data, levels, [torch.tensor(float(getattr(penalty, k)), dtype=F64) for k in levels]


def check_gradient(samples, penalty, intercept, seed) -> bool:
    """A directional derivative in every input against fourth-order finite differences.

    False, unchecked, where a support changes between the points of the difference, or a weight is
    so small that the norms bend within a step: there the derivative is one-sided.
    """
    data, levels, strengths = leaves_of(samples, penalty)

    def solve(*args):
        z, y, *rest = args
        weight = rest.pop(0) if samples.sample_weight is not None else None
        moved = sk.Penalty(**dict(zip(levels, rest, strict=True)), nonneg=penalty.nonneg)
        return sk.fit_heads(
            z, y, moved, offsets=samples.offsets, sample_weight=weight, fit_intercept=intercept,
            **SOLVED,
        )  # fmt: skip

    def value(out):
        generator = torch.Generator().manual_seed(seed)
        seeds = [torch.randn(o.shape, generator=generator, dtype=F64) for o in out[:2]]
        return sum((o * s).sum() for o, s in zip(out[:2], seeds, strict=True))

    inputs = [*data, *strengths]
    directions = [torch.randn_like(i) for i in data] + [0.1 * s for s in strengths]
    leaves = [i.clone().requires_grad_() for i in inputs]
    h = 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the tolerance is never met
        out = solve(*leaves)
        grads = torch.autograd.grad(value(out), leaves)
        far, up, down, back = (
            solve(*(i + k * h * d for i, d in zip(inputs, directions, strict=True)))
            for k in (2, 1, -1, -2)
        )
    support = out.weight != 0
    moved = any(((p.weight != 0) != support).any() for p in (far, up, down, back))
    if moved or bool((out.weight[support].abs() < 1e-3).any()):
        return False
    difference = 8 * (value(up) - value(down)) - (value(far) - value(back))
    terms = [(g * d).sum() for g, d in zip(grads, directions, strict=True)]
    scale = sum(float((g * d).norm()) for g, d in zip(grads, directions, strict=True))
    assert abs(float(sum(terms) - difference / (12 * h))) <= 1e-5 * scale + 1e-9, seed
    return True


# --- behaviour ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ridge", "lasso", "sparse_group_ridge"])
@pytest.mark.parametrize("layout", ["dense", "wide", "ragged"])
def test_bitwise_independent_of_the_batch(kind, layout):
    samples = LAYOUTS[layout]()
    penalty = scaled_penalty(samples, HEAD_PENALTIES[kind])
    together = fit(samples, penalty)
    for t in range(len(together.weight)):
        z, y = task_samples(samples, t)
        alone = sk.fit_heads(z[None], y[None], penalty)
        assert torch.equal(alone.weight[0], together.weight[t])
        assert torch.equal(alone.bias[0], together.bias[t])


@pytest.mark.parametrize("kind", [kind for kind, p in HEAD_PENALTIES.items() if not p.shared])
def test_a_shared_factor_leaves_every_task_as_it_is_alone(kind):
    """Of those on one design; a bad task does not spoil what the next ones take from it."""
    samples = one_design(6, 14, 9, 2)
    penalty = scaled_penalty(samples, HEAD_PENALTIES[kind])
    together = fit(samples, penalty)
    y = samples.y.clone()
    y[1, 3, 0] = torch.nan
    spoilt = sk.fit_heads(samples.z, y, penalty, on_error="flag")
    for t in (0, 2, 5):
        alone = sk.fit_heads(samples.z, samples.y[t : t + 1], penalty)
        for fitted in (together, spoilt):
            assert torch.equal(alone.weight[0], fitted.weight[t])
            assert torch.equal(alone.bias[0], fitted.bias[t])


@penalties
@pytest.mark.parametrize("layout", LARGE_LAYOUTS)
def test_bitwise_independent_of_the_number_of_threads(kind, layout):
    samples = LARGE_LAYOUTS[layout]()
    penalty = scaled_penalty(samples, HEAD_PENALTIES[kind])
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        z = samples.z.clone().requires_grad_()
        out = sk.fit_heads(z, samples.y, penalty, **samples.keywords())
        results.append((*out, *torch.autograd.grad(out.weight.square().sum(), z)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("kind", HEAD_PENALTIES)
@pytest.mark.parametrize("where", ["z", "y", "sample_weight", "init"])
def test_a_bad_task_is_named_or_flagged_and_spoils_no_other(backend, kind, where):
    samples = heads_problem(4, 12, 6, 2)
    penalty = scaled_penalty(samples, HEAD_PENALTIES[kind])
    inputs = {
        "z": samples.z.clone(), "y": samples.y.clone(),
        "sample_weight": torch.rand(4, 12, dtype=F64), "init": torch.zeros(4, 6, 2, dtype=F64),
    }  # fmt: skip
    inputs[where][2].flatten()[1] = float("nan")
    call = {"penalty": penalty, "backend": backend, **inputs}
    with pytest.raises(ValueError, match=r"fit_heads: NaN.*1 of 4 tasks, the first is task 2"):
        sk.fit_heads(**call)
    marked = sk.fit_heads(**call, on_error="flag")
    assert marked.weight[2].isnan().all()
    assert marked.converged.tolist() == [True, True, False, True]
    keep = [0, 1, 3]
    clean = {k: v[keep] if isinstance(v, torch.Tensor) else v for k, v in call.items()}
    without = sk.fit_heads(**clean, on_error="flag")
    assert torch.equal(marked.weight[keep], without.weight)
    assert torch.equal(marked.bias[keep], without.bias)


def test_a_negative_sample_weight_marks_its_task(backend):
    samples = heads_problem(3, 9, 4, 1)
    weight = torch.ones(3, 9, dtype=F64)
    weight[1, 4] = -1.0
    call = {"sample_weight": weight, "backend": backend}
    with pytest.raises(ValueError, match=r"negative sample weight .* in 1 of 3 tasks.*task 1"):
        sk.fit_heads(samples.z, samples.y, sk.Penalty(l1=0.1), **call)
    out = sk.fit_heads(samples.z, samples.y, sk.Penalty(l1=0.1), on_error="flag", **call)
    assert out.weight.isnan().flatten(1).all(dim=1).tolist() == [False, True, False]


def test_gradients_of_flagged_tasks_are_nan_and_spoil_no_other():
    samples = heads_problem(3, 12, 6, 2)
    z = samples.z.clone()
    z[1, 0, 0] = float("inf")
    z.requires_grad_()
    out = sk.fit_heads(z, samples.y, sk.Penalty(l1=0.1), on_error="flag")
    (grad,) = torch.autograd.grad(out.weight.sum(), z)
    assert grad[1].isnan().all()
    assert grad[[0, 2]].isfinite().all()


def test_warm_start_takes_a_fraction_of_the_work():
    samples = heads_problem(20, 50, 128, 5, dtype=torch.float32)
    penalty = sk.Penalty(group=1.0).scaled(
        0.1 * sk.lambda_max(samples.z, samples.y, sk.Penalty(group=1.0))
    )
    cold = fit(samples, penalty)
    moved = Samples(samples.z * (1 + 0.01 * torch.randn_like(samples.z)), samples.y)
    again = fit(moved, penalty, init=cold.weight)
    fresh = fit(moved, penalty)
    assert again.converged.all()
    assert again.n_iter.sum() < 0.5 * fresh.n_iter.sum()
    stay = fit(samples, penalty, init=cold.weight)
    assert (stay.n_iter == 0).all()
    assert torch.equal(stay.weight, cold.weight)


@pytest.mark.parametrize("loss", ["squared", "multinomial"])
@pytest.mark.parametrize("level", ["l1", "group", "shared"])
def test_a_warm_start_below_zero_is_no_start_for_nonneg(backend, level, loss):
    samples = heads_problem(3, 12, 6, 2)
    y = samples.y if loss == "squared" else samples.y.softmax(2)
    for strength in (0.05, 50.0):
        penalty = sk.Penalty(**{level: strength}, nonneg=True)
        options = {"loss": loss, "backend": backend, "tol": 1e-9, "max_iter": 10**5}
        init = torch.full((3, 6, 2), -1.0, dtype=F64)
        warm = sk.fit_heads(samples.z, y, penalty, init=init, **options)
        cold = sk.fit_heads(samples.z, y, penalty, **options)
        assert (warm.weight >= 0).all()
        torch.testing.assert_close(warm.weight, cold.weight, rtol=1e-3, atol=1e-4)
        assert bool((warm.weight == 0).all()) == (strength == 50)


def test_not_converged_is_flagged_and_warned_once_with_the_count(backend):
    samples = heads_problem(5, 20, 40, 3, correlation=0.9)
    penalty = scaled_penalty(samples, HEAD_PENALTIES["group"], 0.01)
    with pytest.warns(RuntimeWarning, match=r"5 of 5 tasks did not reach tol=1e-10") as caught:
        out = sk.fit_heads(samples.z, samples.y, penalty, tol=1e-10, max_iter=2, backend=backend)
    assert [warning.filename for warning in caught] == [__file__]
    assert not out.converged.any()
    assert (out.gap > 1e-10).all()


@pytest.mark.parametrize("kind", HEAD_PENALTIES)
def test_float32_certifies_the_gap_in_float64(kind):
    samples = heads_problem(6, 40, 50, 3)
    single = Samples(samples.z.float(), samples.y.float())
    penalty = scaled_penalty(single, HEAD_PENALTIES[kind])
    for tol in (1e-4, 1e-6):
        out = fit(single, penalty, tol=tol)
        assert out.weight.dtype == torch.float32
        assert out.converged.all()
        wide = Samples(single.z.double(), single.y.double())
        exact = sk.duality_gap(wide.z, wide.y, out.weight.double(), penalty)
        assert (exact <= 1.02 * tol + 1e-7).all()


def test_half_precision_solves_in_float32():
    samples = heads_problem(3, 20, 8, 2)
    half = Samples(samples.z.bfloat16(), samples.y.bfloat16())
    wide = Samples(half.z.float(), half.y.float())
    out, exact = fit(half, sk.Penalty(l1=0.1)), fit(wide, sk.Penalty(l1=0.1))
    assert out.weight.dtype == torch.bfloat16
    assert torch.equal(out.weight, exact.weight.bfloat16())


@penalties
def test_degenerate_sizes(backend, kind):
    penalty = HEAD_PENALTIES[kind]
    scaled = penalty.scaled(0.1)
    for T, n, M, C in [(0, 5, 3, 2), (2, 0, 3, 2), (2, 1, 3, 2), (2, 5, 1, 1)]:
        z = torch.randn(T, n, M, dtype=F64, requires_grad=True)
        y = torch.randn(T, n, C, dtype=F64)
        out = sk.fit_heads(z, y, scaled, backend=backend)
        assert out.weight.shape == (T, M, C)
        assert out.converged.all()
        (grad,) = torch.autograd.grad(out.weight.sum() + out.bias.sum(), z)
        assert torch.isfinite(grad).all()
        if n <= 1:
            assert (out.weight == 0).all()
            torch.testing.assert_close(out.bias, y.sum(dim=1))
    silent = sk.fit_heads(
        torch.randn(2, 4, 3), torch.randn(2, 4, 1), scaled, sample_weight=torch.zeros(2, 4),
        backend=backend,
    )  # fmt: skip
    assert (silent.weight == 0).all()
    assert (silent.bias == 0).all()


def test_constant_targets_and_features(backend):
    z, y = torch.randn(2, 8, 4, dtype=F64), torch.full((2, 8, 2), 3.0, dtype=F64)
    out = sk.fit_heads(z, y, sk.Penalty(l1=0.1), backend=backend)
    assert (out.weight == 0).all()
    torch.testing.assert_close(out.bias, torch.full((2, 2), 3.0, dtype=F64))
    z[:, :, 1] = 0.1  # not exact in binary: its mean must be itself all the same
    y = torch.randn(2, 8, 2, dtype=F64)
    for penalty in (sk.Penalty(l1=0.05), sk.Penalty(ridge=0.1), sk.Penalty()):
        out = sk.fit_heads(z, y, penalty, backend=backend)
        assert out.weight[:, 1].abs().max() < 1e-9
        assert torch.isfinite(out.weight).all()


def test_without_a_penalty_it_is_least_squares(backend):
    samples = heads_problem(3, 30, 6, 2)
    out = sk.fit_heads(samples.z, samples.y, sk.Penalty(), tol=1e-8, backend=backend)
    design = torch.cat([samples.z, torch.ones(3, 30, 1, dtype=F64)], dim=2)
    exact = torch.linalg.lstsq(design, samples.y).solution
    torch.testing.assert_close(out.weight, exact[:, :6], rtol=1e-6, atol=1e-8)


def test_unpenalised_features_of_a_sparse_problem(backend):
    """A weight of 0 on some features, as a reweighted penalty gives: they are fitted freely."""
    samples = heads_problem(2, 25, 6, 1)
    l1 = torch.full((6,), 0.3, dtype=F64)
    l1[:2] = 0
    out = sk.fit_heads(samples.z, samples.y, sk.Penalty(l1=l1), tol=1e-8, backend=backend)
    assert out.converged.all()
    z, y = samples.z - samples.z.mean(1, keepdim=True), samples.y - samples.y.mean(1, keepdim=True)
    pull = z.mT @ (y - z @ out.weight) / 25
    assert pull[:, :2].abs().max() < 1e-6
    assert (pull[:, 2:].abs() <= 0.3 * (1 + 1e-6)).all()


@pytest.mark.usefixtures("never_done")
def test_gradients_where_some_features_are_free_equal_the_reference():
    """Rows that no level holds at zero move even at zero, and move their own ridge floor."""
    samples = heads_problem(3, 6, 9, 2)
    z = samples.z.clone()
    z[:, :, 4] = 0.3
    free = torch.ones(3, 9, dtype=F64)
    free[:, 3:6] = 0
    sparse = 0.05 * free
    penalties = {
        "lasso": sk.Penalty(l1=sparse),
        "group": sk.Penalty(group=sparse),
        "group, ridge on the free": sk.Penalty(group=sparse, ridge=0.1 * (1 - free)),
        "nothing": sk.Penalty(),
        "shared": sk.Penalty(shared=sparse[0], l1=0.5 * sparse),
        "shared, ridge on one task": sk.Penalty(shared=0.1, ridge=torch.tensor([[0.1], [0], [0]])),
    }
    weight = torch.rand(3, 6, dtype=F64)
    for name, penalty in penalties.items():
        grads = []
        for backend in ("cpu", "reference"):
            leaves = [z.clone().requires_grad_(), weight.clone().requires_grad_()]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                out = sk.fit_heads(
                    leaves[0], samples.y, penalty, sample_weight=leaves[1], tol=-1.0, max_iter=1000,
                    backend=backend,
                )  # fmt: skip
            loss = (out.weight * torch.linspace(-1, 1, 54, dtype=F64).view(3, 9, 2)).sum()
            grads.append([out.weight, *torch.autograd.grad(loss, leaves)])
        for ours, theirs in zip(*grads, strict=True):
            error = float((ours - theirs).norm() / theirs.norm())
            assert error < 1e-4, (name, error)


# --- traps in published code ----------------------------------------------------------------------


def test_trap_exact_coordinate_steps():
    """Steps n times too short need hundreds of passes here and stop at the wrong support."""
    torch.manual_seed(3)
    samples = heads_problem(20, 50, 6, 1, correlation=0.9)
    penalty = scaled_penalty(samples, HEAD_PENALTIES["lasso"], 0.05)
    out = fit(samples, penalty, tol=1e-8)
    assert out.n_iter.max() <= 60
    for t in range(20):
        exact = linear_model.Lasso(penalty.l1, tol=1e-14, max_iter=10**6).fit(
            samples.z[t], samples.y[t, :, 0]
        )
        assert np.array_equal(out.weight[t, :, 0].numpy() != 0, exact.coef_ != 0)


def test_trap_gradient_needs_a_solution():
    """Five plain gradient steps are no solution; the default is one, and its gradient is right."""
    samples = heads_problem(4, 50, 6, 1, correlation=0.9)
    penalty = scaled_penalty(samples, HEAD_PENALTIES["lasso"], 0.05)

    def gradient(**options):
        z = samples.z.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            weight = sk.fit_heads(z, samples.y, penalty, **options).weight
        return torch.autograd.grad(weight.square().sum(), z)[0]

    exact = gradient(tol=1e-13)
    torch.testing.assert_close(gradient(), exact, rtol=0.05, atol=0.05 * float(exact.abs().max()))
    early = gradient(tol=1e-13, max_iter=5, backend="reference")
    assert (early - exact).norm() > 0.05 * exact.norm()


@pytest.mark.usefixtures("never_done")
def test_trap_ill_conditioned_backward():
    """Five steps of conjugate gradients on the normal equations miss this gradient."""
    samples = heads_problem(2, 40, 12, 3, correlation=0.99)
    penalty = scaled_penalty(samples, HEAD_PENALTIES["group"], 0.01)
    assert check_gradient(samples, penalty, True, seed=0)


@pytest.mark.parametrize("kind", ["ridge", "lasso", "group", "shared"])
@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e18), (F64, 1e150)])
def test_weights_that_are_not_finite_have_not_converged(kind, dtype, scale):
    """Of samples whose squares are, nearly, beyond the range."""
    z, y = scale * torch.randn(3, 12, 20, dtype=dtype), torch.randn(3, 12, 2, dtype=dtype)
    penalty = sk.Penalty(**{{"lasso": "l1"}.get(kind, kind): 0.1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        out = sk.fit_heads(z, y, penalty, on_error="flag", max_iter=100, backend="cpu")
    assert out.weight[out.converged].isfinite().all()


@pytest.mark.parametrize("kind", ["ridge", "lasso", "group", "shared"])
def test_what_overflows_has_not_converged(kind):
    """Where squares are beyond the range, zero weights are no solution either."""
    z, y = 1e160 * torch.randn(3, 12, 20, dtype=F64), torch.randn(3, 12, 2, dtype=F64)
    penalty = sk.Penalty(**{{"lasso": "l1"}.get(kind, kind): 0.1})
    out = sk.fit_heads(z, y, penalty, on_error="flag", max_iter=100, backend="cpu")
    assert not out.converged.any()
    gap = sk.duality_gap(z, y, torch.zeros(3, 20, 2, dtype=F64), penalty, backend="cpu")
    assert not (gap < 1).any()


# --- errors ---------------------------------------------------------------------------------------

Z, Y = torch.randn(3, 8, 4), torch.randn(3, 8, 2)
P = sk.Penalty(l1=0.1)
ERRORS = [
    ((Z, Y[:2]), {}, ValueError, r"y has shape \(2, 8, 2\), but z needs \(3, 8, 2\)"),
    ((Z, Y[0]), {}, ValueError, r"y has shape \(8, 2\), expected 3 axes"),
    ((Z[0], Y[:, :5]), {}, ValueError, r"y has 5 samples per task, but the design z has 8"),
    ((Z, Y.long()), {}, TypeError, r"y has dtype torch.int64, expected a floating dtype"),
    ((Z, Y), {"sample_weight": torch.rand(8)}, ValueError, r"sample_weight has shape \(8,\)"),
    ((Z, Y), {"init": Z}, ValueError, r"init has shape \(3, 8, 4\).*\(3, 4, 2\)"),
    ((Z, Y), {"loss": "hinge"}, ValueError, r"loss='hinge', there is 'squared'"),
    ((Z, Y), {"on_error": "ignore"}, ValueError, r"on_error='ignore'"),
    ((Z, Y), {"penalty": sk.Penalty(l1=torch.rand(7))}, ValueError, r"penalty.l1 has shape \(7,\)"),
    (
        (Z[0], Y[0]), {"offsets": torch.tensor([0.0, 8.0])}, TypeError,
        r"offsets has dtype torch.float32, expected torch.int64",
    ),
    (
        (Z[0], Y[0]), {"offsets": torch.tensor([0, 5])}, ValueError,
        r"^fit_heads: offsets run from 0 to 5, expected from 0 to the 8 rows of z$",
    ),
    (
        (Z[0], Y[0]), {"offsets": torch.tensor([1, 8])}, ValueError,
        r"^fit_heads: offsets run from 1 to 8, expected from 0 to the 8 rows of z$",
    ),
    (
        (Z[0], Y[0]), {"offsets": torch.tensor([0, 5, 3, 8])}, ValueError,
        r"^fit_heads: offsets fall from 5 to 3 at task 1$",
    ),
    ((Z, Y), {"tol": -1e-3}, ValueError, r"fit_heads: tol must be >= 0, got -0.001"),
    ((Z, Y), {"tol": float("nan")}, ValueError, r"fit_heads: tol must be >= 0, got nan"),
    ((Z, Y), {"max_iter": -1}, ValueError, r"fit_heads: max_iter must be >= 0, got -1"),
    (
        (Z, Y[:, :, :1].long()), {"loss": "multinomial"}, ValueError,
        r"y has shape \(3, 8, 1\), expected 2 axes \(T, n\), since its integers are class indices",
    ),
    (
        (Z[0], Y[0].long()), {"loss": "multinomial", "offsets": torch.tensor([0, 8])}, ValueError,
        r"y has shape \(8, 2\), expected 1 axes \(N,\), since its integers are class indices",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("samples", "options", "kind", "message"), ERRORS)
def test_errors_name_op_argument_and_values(samples, options, kind, message):
    for backend in ("cpu", "reference"):
        with pytest.raises(kind, match=message):
            sk.fit_heads(*samples, **{"penalty": P, "backend": backend, **options})


def nested(counts, *sizes):
    offsets = torch.tensor([0, *counts]).cumsum(0)
    return torch.nested.nested_tensor_from_jagged(torch.randn(sum(counts), *sizes), offsets)


def test_nested_tensors_of_other_lengths_are_refused():
    z, y = nested([5, 3, 4], 4), nested([5, 3, 4], 2)
    assert sk.fit_heads(z, y, P).weight.shape == (3, 4, 2)
    with pytest.raises(ValueError, match=r"y holds 3 samples of task 0, but z holds 5"):
        sk.fit_heads(z, nested([3, 5, 4], 2), P)
    with pytest.raises(ValueError, match=r"y is nested with 2 tasks, but z has 3"):
        sk.lambda_max(z, nested([8, 4], 2), P)
    with pytest.raises(ValueError, match=r"sample_weight holds 4 samples of task 1, but z holds 3"):
        sk.fit_heads(z, y, P, sample_weight=nested([5, 4, 3]).abs())
    same = nested([5, 3, 4]).abs()
    weighted = sk.fit_heads(z, y, P, sample_weight=same)
    assert torch.equal(weighted.weight, sk.fit_heads(z, y, P, sample_weight=same.values()).weight)


def test_nested_tensors_with_lengths_are_refused():
    starts, lengths = torch.tensor([0, 2, 1]), torch.tensor([5, 3, 4])

    def narrowed(*sizes):
        return torch.nested.narrow(torch.randn(3, 8, *sizes), 1, starts, lengths, torch.jagged)

    z, y = narrowed(4), narrowed(2)
    with pytest.raises(
        ValueError, match=r"fit_heads: z is nested with lengths.*torch.nested.narrow"
    ):
        sk.fit_heads(z, y, P)
    packed = z.contiguous()
    with pytest.raises(ValueError, match=r"fit_heads: y is nested with lengths"):
        sk.fit_heads(packed, y, P)


def test_ragged_compiles_and_still_checks():
    samples = ragged([9, 0, 14, 1], 8, 2)

    def heads(z, y, offsets):
        return sk.fit_heads(z, y, P, offsets=offsets).weight

    compiled = torch.compile(heads, fullgraph=True, backend="aot_eager")
    arguments = (samples.z, samples.y, samples.offsets)
    assert torch.equal(compiled(*arguments), heads(*arguments))
    with pytest.raises(ValueError, match="fit_heads: offsets fall from 23 to 9 at task 2"):
        compiled(samples.z, samples.y, samples.offsets[[0, 2, 3, 1, 4]])


MEMORY = """
import resource, sys, torch, sparsedis_kernels as sk
T, n, M, C = 20_000, 50, 128, 5
z, y = torch.empty(T, n, M).normal_(), torch.empty(T, n, C).normal_()
bytes_in_out = 4 * T * (n * M + n * C + M * C + C + 1)
fit = sk.fit_heads(z[:2], y[:2], sk.Penalty(ridge=0.1))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
fit = sk.fit_heads(z, y, sk.Penalty(ridge=0.1))
assert fit.converged.all()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
grown = peak - before
print(grown / (4 * T * (M * C + C + 1)), bytes_in_out)
sys.exit(grown > 0.3 * bytes_in_out)
"""


def test_many_ridge_heads_cost_their_inputs_and_outputs():
    """No Gram matrix of the batch: 20,000 of them at M = 128 would take 1.3 GB."""
    run = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_pair_of_levels_has_a_penalty():
    """The list above covers each level, and each pair that shares a code path."""
    used = [
        {k for k in ("l1", "group", "shared", "ridge") if getattr(p, k)}
        for p in HEAD_PENALTIES.values()
    ]
    for pair in itertools.combinations(("l1", "group", "shared", "ridge"), 2):
        assert any(set(pair) <= levels for levels in used), pair
