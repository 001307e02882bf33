"""Sharing: descent, what is guaranteed and what is reached, gradients, errors."""

import dataclasses
import itertools
from dataclasses import replace

import pytest
import torch

import sparsedis_kernels as sk
from sparsedis_kernels.ops import fit_sharing, sharing
from sparsedis_kernels.ops._samples import read_samples
from sparsedis_kernels.ops.feature_usage import slope_along
from sparsedis_kernels.ops.unrolled import unrolled_heads
from sparsedis_kernels.penalty import SHARING_FLOOR
from tests.ops.test_losses import problem, value
from tests.problems import HEAD_PENALTIES, Samples, fit, heads_problem, one_design, scaled_penalty

F64 = torch.float64
LOSSES = ("squared", "multinomial", "logistic")
losses = pytest.mark.parametrize("loss", LOSSES)


def data(loss, T=3, n=20, M=5, C=2):
    if loss == "squared":
        samples = heads_problem(T, n, M, C)
        return samples.z, samples.y
    return problem(loss, T, n, M, C)


def objective(loss, z, y, weight, bias, penalty):
    """J by its definition, from the weights alone."""
    if loss == "squared":
        each = (z @ weight + bias[:, None] - y).square().sum((1, 2)) / (2 * z.shape[1])
    else:
        each = value(loss, z, y, weight, bias, torch.full(z.shape[:2], 1 / z.shape[1], dtype=F64))
    convex = dataclasses.replace(penalty, sharing=0.0)
    use = weight.abs().sum((0, 2))
    p = (use / use.sum() + SHARING_FLOOR / len(use)) / (1 + SHARING_FLOOR)
    entropy = -(p * p.log()).sum() if float(use.sum()) else torch.zeros((), dtype=F64)
    convex_value = each.sum() + sk.penalty_value(weight, convex)
    return float(convex_value + penalty.sharing * len(weight) * entropy)


@torch.no_grad()
def trace(z, y, penalty, loss="squared", tol=1e-8, fit_intercept=True, max_iter=2000):
    """All iterates of the scheme that fit_heads runs."""
    samples = read_samples("fit_heads", z, y, None, None, loss)
    convex = replace(penalty, sharing=0.0).strengths("fit_heads", (samples.T, samples.M), z)
    heads = sharing.Heads(
        *samples.args, *convex.tensors, convex.scale, convex.nonneg, fit_intercept
    )
    strength = torch.tensor(penalty.sharing, dtype=F64)
    ns = samples.namespace("fit_heads", None)
    return list(sharing.SharingProblem(ns, heads, strength, tol, max_iter).iterates(None))


# ---- the scheme


@losses
@pytest.mark.parametrize(
    "penalty",
    [
        sk.Penalty(l1=0.02),
        sk.Penalty(group=0.03, ridge=0.02),
        sk.Penalty(l1=0.01, group=0.01, shared=0.02, nonneg=True),
    ],
    ids=["l1", "group+ridge", "nested-nonneg"],
)
def test_the_objective_falls_at_every_step(loss, penalty):
    for beta in (0.01, 0.1) if loss == "squared" else (0.05,):
        z, y = data(loss, n=12, M=4)
        penalty = dataclasses.replace(penalty, sharing=beta)
        steps = trace(z, y, penalty, loss, tol=1e-7 if loss == "squared" else 1e-5)
        assert len(steps) > 1
        values = [objective(loss, z, y, *s.solution[:2], penalty) for s in steps]
        at_zero = steps[0].objective - values[0]  # a loss is taken less the least it can be
        for step, exact in zip(steps, values, strict=True):
            assert step.objective - exact == pytest.approx(at_zero, abs=1e-9)
        for before, after in itertools.pairwise(values):
            assert after <= before + 1e-12 * abs(before)
        assert values[-1] < values[0]
        last = sk.fit_heads(z, y, penalty, loss=loss, tol=1e-7 if loss == "squared" else 1e-5)
        assert torch.allclose(last.weight, steps[-1].solution[0], atol=1e-12)


@losses
def test_every_iterate_solves_its_reweighted_problem(loss):
    z, y = data(loss)
    penalty = sk.Penalty(l1=0.01, group=0.02, sharing=0.05)
    for step in trace(z, y, penalty, loss, tol=1e-5):
        weighted = sk.Penalty(l1=0.01 + step.v, group=0.02)
        gap = sk.duality_gap(z, y, step.solution[0], weighted, loss=loss)
        assert float(gap.max()) <= 1.001e-5
        torch.testing.assert_close(gap, step.solution[2], rtol=1e-6, atol=1e-9)
        assert float(step.v.min()) >= -0.01


def test_a_fixed_point_is_stationary():
    """Where nothing is clamped: the smooth part's slope is in the penalty's subdifferential."""
    z, y = data("squared", T=4, n=30, M=6)
    penalty = sk.Penalty(l1=0.2, ridge=0.1, sharing=0.05)
    out = sk.fit_heads(z, y, penalty, tol=1e-14)
    w, b = out.weight.requires_grad_(), out.bias
    loss = (z @ w + b[:, None] - y).square().sum() / (2 * 30)
    (grad,) = torch.autograd.grad(loss + 0.05 * w.square().sum(), w)
    w = w.detach()
    slope = 0.05 * 4 * sk.feature_usage(w, floor=SHARING_FLOOR).slope
    total = (0.2 + slope)[None, :, None].expand_as(w)
    assert float(total.min()) > 0
    off = w == 0
    assert bool(off.any())
    assert float((grad + total * w.sign())[~off].abs().max()) < 1e-6
    assert bool((grad[off].abs() <= total[off] + 1e-6).all())


def small_minimum(z, y, penalty):
    """The least J that a compass search reaches from 200 points, some entries of which are 0."""
    T, n, M = z.shape
    zc, yc = z - z.mean(1, keepdim=True), y - y.mean(1, keepdim=True)

    def value_of(w):  # (B, T, M)
        use = w.abs().sum(1)
        p = (use / use.sum(1, keepdim=True).clamp_min(1e-30) + SHARING_FLOOR / M) / (
            1 + SHARING_FLOOR
        )
        entropy = torch.where(use.sum(1) > 0, -(p * p.log()).sum(1), 0)
        residual = (zc @ w[..., None] - yc).square().sum((1, 2, 3)) / (2 * n)
        return residual + penalty.l1 * use.sum(1) + penalty.sharing * T * entropy

    w = 2 * torch.randn(200, T, M, dtype=F64) * (torch.rand(200, T, M) < 0.6)
    length = torch.ones(200, dtype=F64)
    here = value_of(w)
    for _ in range(80):
        moved = torch.zeros(200, dtype=torch.bool)
        for t, m in itertools.product(range(T), range(M)):
            for move in (w[:, t, m] + length, w[:, t, m] - length, torch.zeros(200, dtype=F64)):
                trial = w.clone()
                trial[:, t, m] = move
                there = value_of(trial)
                better = there < here
                w = torch.where(better[:, None, None], trial, w)
                here = torch.where(better, there, here)
                moved |= better
        length = torch.where(moved, length, length / 2)
    return float(here.min())


def test_against_the_global_minimum_of_small_problems():
    """Never below it, never above where it started; and as often as not the global minimum."""
    reached = 0
    for seed in range(8):
        torch.manual_seed(seed)
        z, y = data("squared", T=2, n=10, M=2 + seed % 2, C=1)
        penalty = sk.Penalty(l1=0.1, sharing=0.15)
        steps = [s.objective for s in trace(z, y, penalty, tol=1e-12)]
        first, last = steps[0], steps[-1]
        best = small_minimum(z, y, penalty)
        assert best <= last * (1 + 1e-7)
        assert last <= first
        reached += last <= best * (1 + 1e-5)
    assert reached >= 4


def test_duplicated_features_are_dropped_and_the_loss_barely_rises():
    """Six features, each twice but for noise: l1 alone spreads tasks over the copies."""
    torch.manual_seed(0)
    T, n = 16, 50
    f = torch.randn(T, n, 6, dtype=F64)
    z = torch.cat([f, f + 0.05 * torch.randn_like(f)], 2)
    w = torch.randn(T, 6, 1, dtype=F64) * (torch.rand(T, 6, 1) < 0.5)
    y = f @ w + 0.1 * torch.randn(T, n, 1, dtype=F64)
    effective, losses_ = [], []
    for beta in (0.0, 0.03, 0.1):
        out = sk.fit_heads(z, y, sk.Penalty(l1=0.05, sharing=beta), tol=1e-6)
        effective.append(float(sk.feature_usage(out.weight).entropy.exp()))
        residual = z @ out.weight + out.bias[:, None] - y
        losses_.append(float(residual.square().mean() / y.var()))
    assert effective[0] > 9
    assert effective[0] > effective[1] > effective[2]
    assert effective[2] < 7
    assert losses_[2] - losses_[0] < 0.02


# ---- gradients


def directional(f, x, direction, h):
    """Fourth-order differences."""
    up, down = (f(x + h * direction), f(x - h * direction))
    far, back = (f(x + 2 * h * direction), f(x - 2 * h * direction))
    return float((8 * (up - down) - (far - back)) / (12 * h))


GRADIENTS = {
    "l1": ("squared", {"l1": 0.05}, 0.05),
    "clamped": ("squared", {"l1": torch.tensor([[0.01], [0.02], [0.03]], dtype=F64)}, 0.3),
    "nested": ("squared", {"l1": 0.01, "group": 0.01, "shared": 0.02, "ridge": 0.1}, 0.05),
    "l1+ridge": ("squared", {"l1": 0.1, "ridge": 0.1}, 0.05),
    "multinomial": ("multinomial", {"l1": 0.02, "ridge": 0.2}, 0.005),
    "logistic": ("logistic", {"l1": 0.02, "ridge": 0.2}, 0.005),
}


@pytest.mark.usefixtures("never_done")
@pytest.mark.filterwarnings("ignore:fit_heads")  # the gap asked is out of reach
@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients_equal_finite_differences_of_the_converged_scheme(case, monkeypatch):
    loss, strengths, beta = GRADIENTS[case]
    z, y = data(loss, n=16, M=4)
    leaves = {"z": z, "y": y, "sharing": torch.tensor(beta, dtype=F64)}
    leaves |= {k: torch.as_tensor(v, dtype=F64) for k, v in strengths.items()}
    if loss != "squared":
        del leaves["y"]  # its differences would leave the targets that the loss takes
        monkeypatch.setattr(sharing, "MAX_STEPS", 12)  # enough to converge at this strength
    seed = torch.randn(3, 4, 2, dtype=F64)
    quick = {"max_iter": 300} if loss == "squared" else {"max_iter": 40, "fit_intercept": False}

    def solve(**moved):
        given = {"z": z, "y": y} | moved
        penalty = sk.Penalty(**{k: v for k, v in given.items() if k not in "zy"})
        return sk.fit_heads(given["z"], given["y"], penalty, loss=loss, tol=-1.0, **quick)

    def functional(**moved):
        fit = solve(**moved)
        return (seed * fit.weight).sum() + (fit.bias.sin().sum() if loss == "squared" else 0)

    grads = torch.autograd.grad(
        functional(**{k: x.requires_grad_() for k, x in leaves.items()}), list(leaves.values())
    )
    leaves = {k: x.detach() for k, x in leaves.items()}
    z, y = z.detach(), y.detach()
    plain = solve(**leaves | {"sharing": 0.0}).weight
    assert float((solve(**leaves).weight - plain).abs().max()) > 1e-3  # sharing does something
    last = trace(z, y, sk.Penalty(sharing=beta, **strengths), loss, -1.0, **quick)[-1]
    assert float((last.target - last.v).norm()) <= 1e-9 * float(last.v.norm())
    for (name, x), grad in zip(leaves.items(), grads, strict=True):
        direction = torch.randn_like(x) * (1 if name in "zy" else x)
        numeric = directional(
            lambda moved, name=name: functional(**leaves | {name: moved}), x, direction, 1e-4
        )
        assert float((grad * direction).sum()) == pytest.approx(numeric, rel=1e-5, abs=1e-9), name


def test_slope_along_a_direction_is_its_derivative():
    use = torch.tensor([0.7, 0.0, 1.9, 0.2], dtype=F64, requires_grad=True)
    direction = torch.randn(4, dtype=F64)
    slope = sk.feature_usage(use[None, :, None], floor=SHARING_FLOOR).slope
    # At a feature of magnitude 0 the gradient of a weight is 0, so its own entry is left out.
    (along,) = torch.autograd.grad(slope, use, direction)
    expected = torch.where(use == 0, 0, slope_along(use.detach(), SHARING_FLOOR, direction))
    torch.testing.assert_close(along, expected)


def test_krylov_solve_is_exact_on_any_regular_system():
    for size in (1, 2, 7):
        matrix = torch.randn(size, size, dtype=F64)
        rhs = torch.randn(size, dtype=F64)
        x = fit_sharing.krylov_solve(lambda v, matrix=matrix: matrix @ v, rhs, 1e-12)
        torch.testing.assert_close(x, torch.linalg.solve(matrix, rhs), rtol=1e-8, atol=1e-8)
    turn = torch.tensor(
        [[0.0, -1.0], [1.0, 0.0]], dtype=F64
    )  # where a residual never falls at first
    x = fit_sharing.krylov_solve(lambda v: turn @ v, torch.tensor([1.0, 0.0], dtype=F64), 1e-12)
    torch.testing.assert_close(x, torch.tensor([0.0, -1.0], dtype=F64))
    zero = torch.zeros(3, dtype=F64)
    assert torch.equal(fit_sharing.krylov_solve(lambda v: v, zero, 1e-12), zero)


def test_without_a_gradient_nothing_is_pulled_back(monkeypatch):
    def forbidden(*_):
        raise AssertionError("a gradient was computed")

    monkeypatch.setattr(fit_sharing, "krylov_solve", forbidden)
    z, y = data("squared")
    heads = sk.nn.SparseHeads(sk.Penalty(l1=0.1, sharing=0.05), hypergradient="detached")
    out = heads(z.requires_grad_(), y)
    assert not out.weight.requires_grad
    heads.predict(out, z).sum().backward()
    assert bool(z.grad.isfinite().all())


# ---- behaviour


@pytest.mark.parametrize("kind", HEAD_PENALTIES)
def test_no_sharing_is_the_plain_fit_to_the_bit(kind):
    samples = heads_problem(4, 14, 9, 2)
    plain = scaled_penalty(samples, HEAD_PENALTIES[kind])
    z = samples.z.clone().requires_grad_()
    results = []
    for beta in (None, 0.0, torch.tensor(0.0, dtype=F64)):
        penalty = plain if beta is None else dataclasses.replace(plain, sharing=beta)
        out = sk.fit_heads(z, samples.y, penalty)
        results.append((*out, *torch.autograd.grad(out.weight.square().sum(), z)))
    for other in results[1:]:
        for a, b in zip(results[0][:5], other[:5], strict=True):
            assert torch.equal(a, b)
        torch.testing.assert_close(results[0][5], other[5], rtol=1e-12, atol=1e-14)


def test_order_of_features_and_tasks_does_not_matter():
    samples = heads_problem(4, 14, 6, 2)
    penalty = sk.Penalty(l1=0.1, sharing=0.1)
    tasks, features = torch.randperm(4), torch.randperm(6)
    out = fit(samples, penalty, tol=1e-10)
    moved = sk.fit_heads(samples.z[tasks][:, :, features], samples.y[tasks], penalty, tol=1e-10)
    torch.testing.assert_close(moved.weight, out.weight[tasks][:, features], rtol=1e-6, atol=1e-6)


def test_layouts_agree():
    design = one_design(3, 12, 8, 2)
    z, y = design.z.expand(3, 12, 8), design.y
    penalty = sk.Penalty(l1=0.1, sharing=0.1)
    offsets, flat = torch.arange(0, 37, 12), (z.reshape(36, 8), y.reshape(36, 2))
    jagged = [torch.nested.nested_tensor_from_jagged(part, offsets) for part in flat]
    dense = sk.fit_heads(z, y, penalty, tol=1e-10)
    others = [
        sk.fit_heads(*flat, penalty, offsets=offsets, tol=1e-10),
        sk.fit_heads(*jagged, penalty, tol=1e-10),
        sk.fit_heads(design.z, y, penalty, tol=1e-10),
    ]
    for other in others:
        torch.testing.assert_close(other.weight, dense.weight, rtol=1e-6, atol=1e-6)


def test_a_flagged_task_spoils_no_other():
    """Neither in the weights, nor in T, nor in the clamp, nor in the gradient."""
    samples = heads_problem(4, 14, 6, 2)
    l1 = torch.tensor([0.1, 0.02, 0.001, 0.1], dtype=F64)
    penalty = sk.Penalty(l1=l1, sharing=0.4)
    z, keep = samples.z.clone(), [0, 1, 3]
    z[2, 0, 0] = float("nan")
    whole, part = z.requires_grad_(), samples.z[keep].requires_grad_()
    marked = sk.fit_heads(whole, samples.y, penalty, on_error="flag")
    alone = sk.fit_heads(part, samples.y[keep], sk.Penalty(l1=l1[keep], sharing=0.4))
    assert marked.converged.tolist() == [True, True, False, True]
    assert torch.equal(marked.weight[keep], alone.weight)
    (of_whole,) = torch.autograd.grad(marked.weight[keep].square().sum(), whole)
    (of_part,) = torch.autograd.grad(alone.weight.square().sum(), part)
    torch.testing.assert_close(of_whole[keep], of_part)


def test_degenerate_problems_are_the_plain_ones():
    """No tasks, no samples, one feature, or a penalty that leaves no weight: H is 0."""
    for (T, n, M, C), l1 in itertools.product(
        [(0, 5, 3, 2), (2, 0, 3, 2), (2, 5, 1, 1), (2, 5, 3, 2)], [0.1, 1e3]
    ):
        if (T, M, l1) == (2, 3, 0.1) and n:
            continue
        z, y = torch.randn(T, n, M, dtype=F64, requires_grad=True), torch.randn(T, n, C, dtype=F64)
        out = sk.fit_heads(z, y, sk.Penalty(l1=l1, sharing=0.5))
        assert torch.equal(out.weight, sk.fit_heads(z, y, sk.Penalty(l1=l1)).weight)
        (grad,) = torch.autograd.grad(out.weight.sum() + out.bias.sum(), z)
        assert bool(grad.isfinite().all())


def test_float32_and_half_precision():
    samples = heads_problem(6, 30, 8, 2)
    penalty = sk.Penalty(l1=0.2, sharing=0.1)
    exact = fit(samples, penalty, tol=1e-6)
    single = Samples(samples.z.float(), samples.y.float())
    out = fit(single, penalty, tol=1e-6)
    assert out.weight.dtype == torch.float32
    torch.testing.assert_close(out.weight.double(), exact.weight, rtol=0, atol=2e-3)
    assert fit(Samples(samples.z.bfloat16(), samples.y), penalty).weight.dtype == torch.bfloat16


def test_relative_strengths_leave_sharing_alone():
    z, y = data("squared", T=4)
    heads = sk.nn.SparseHeads(sk.Penalty(l1=0.1, sharing=0.2), relative=True, tol=1e-10)
    largest = sk.lambda_max(z, y, sk.Penalty(l1=1.0))
    absolute = sk.Penalty(l1=0.1 * largest[:, None], sharing=0.2)
    expected = sk.fit_heads(z, y, absolute, tol=1e-10).weight
    torch.testing.assert_close(heads(z, y).weight, expected)


P = sk.Penalty(l1=0.1, sharing=0.2)
W, Z, Y = torch.randn(2, 3, 1), torch.randn(2, 5, 3), torch.randn(2, 5, 1)


@pytest.mark.parametrize(
    ("op", "call"),
    [
        ("prox", lambda: sk.prox(W, P)),
        ("prox_", lambda: sk.prox_(W.clone(), P)),
        ("penalty_value", lambda: sk.penalty_value(W, P)),
        ("lambda_max", lambda: sk.lambda_max(Z, Y, P)),
        ("duality_gap", lambda: sk.duality_gap(Z, Y, W, P)),
        ("unrolled_heads", lambda: unrolled_heads(Z, Y, P, n_steps=0)),
        ("SparseHeads", lambda: sk.nn.SparseHeads(P, hypergradient="unrolled")),
    ],
)
def test_ops_that_cannot_honour_sharing_refuse_it(op, call):
    with pytest.raises(ValueError, match=rf"^{op}.*: penalty.sharing = 0.2 is honoured by"):
        call()


def test_an_optimiser_refuses_sharing():
    weight = torch.nn.Parameter(W.clone())
    weight.grad = torch.zeros_like(weight)
    with pytest.raises(ValueError, match=r"prox_sgd_: penalty.sharing = 0.2"):
        sk.optim.ProxSGD([weight], lr=0.1, penalty=P).step()


def test_tasks_without_samples_count():
    """A fourth task, empty, is worth a third more sharing."""
    z, y = data("squared")
    sizes = torch.tensor([0, 20, 40, 60])
    packed = {"z": z.flatten(0, 1), "y": y.flatten(0, 1)}

    def weights(sharing, offsets):
        penalty = sk.Penalty(l1=0.02, sharing=sharing)
        return sk.fit_heads(**packed, penalty=penalty, offsets=offsets, tol=1e-9).weight

    empty = weights(0.03, torch.cat([sizes, sizes[-1:]]))
    torch.testing.assert_close(empty[:3], weights(0.04, sizes), rtol=1e-6, atol=1e-9)
    assert not torch.allclose(empty[:3], weights(0.03, sizes), rtol=1e-3)
