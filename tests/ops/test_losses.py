"""Heads under the multinomial and the logistic loss: optimality, oracles, gradients, edge cases."""

from dataclasses import replace

import celer
import cvxpy as cp
import numpy as np
import pytest
import skglm
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

import sparsedis_kernels as sk
from sparsedis_kernels.ops._samples import read_samples
from sparsedis_kernels.ops.unrolled import unrolled_heads
from sparsedis_kernels.reference.prox import norm
from tests.problems import LEVELS, random_penalty

F64 = torch.float64
LOSSES = ("multinomial", "logistic")
UNCOUPLED = ("l1", "group", "ridge")
losses = pytest.mark.parametrize("loss", LOSSES)
intercepts = pytest.mark.parametrize("fit_intercept", [True, False], ids=["bias", "no-bias"])


def problem(loss, T=3, n=30, M=6, C=3, *, soft=False, noise=1.0):
    """Tasks whose classes depend on two features and on chance."""
    z = torch.randn(T, n, M, dtype=F64) + 0.5
    w = 2 * torch.randn(T, M, C, dtype=F64) * (torch.arange(M) < 2)[:, None]
    scores = z @ w + noise * torch.randn(T, n, C, dtype=F64)
    if loss == "logistic":
        return z, scores.sigmoid() if soft else (scores > 0).to(F64)
    return z, scores.softmax(2) if soft else F.one_hot(scores.argmax(2), C).to(F64)


def value(loss, z, y, weight, bias, p):
    """The loss of every task by its definition: (T,)."""
    scores = z @ weight + bias[:, None]
    if loss == "multinomial":
        rows = scores.logsumexp(2) - (y * scores).sum(2)
    else:
        rows = (F.softplus(scores) - y * scores).sum(2)
    return (p * rows).sum(1)


# ---- solutions


@losses
@pytest.mark.parametrize(
    "levels", [("group",), ("l1", "group"), ("l1", "group", "ridge"), ("ridge",)], ids="+".join
)
def test_three_hundred_random_problems_reach_the_gap_asked(loss, levels):
    """Certified by the gap, and by how far the gradient is from a subgradient of the penalty."""
    T, n, M, C = 300, 24, 8, 3
    z, y = problem(loss, T, n, M, C)
    weight = 0.5 + torch.rand(T, n, dtype=F64)
    p = weight / weight.sum(1, keepdim=True)
    penalty = random_penalty(levels, T, M).scaled(0.05)
    fit = sk.fit_heads(z, y, penalty, loss=loss, sample_weight=weight, tol=1e-10)
    assert bool(fit.converged.all())
    assert float(fit.gap.max()) <= 1e-10
    w, b = fit.weight.requires_grad_(), fit.bias.requires_grad_()
    grad_w, grad_b = torch.autograd.grad(value(loss, z, y, w, b, p).sum(), (w, b))
    assert float(grad_b.abs().max()) < 1e-8
    # A point is optimal iff a proximal gradient step leaves it where it is.
    moved = sk.prox((w - grad_w).detach(), penalty)
    assert float((moved - w.detach()).abs().max()) < 1e-4
    assert bool((w == 0).all(2).any()) == (levels != ("ridge",))


def cone_solution(loss, z, y, l1, group, ridge, fit_intercept):
    n, C = y.shape
    w = cp.Variable((z.shape[1], C))
    scores = z @ w + (np.ones((n, 1)) @ cp.Variable((1, C)) if fit_intercept else 0)
    if loss == "multinomial":
        rows = cp.sum(cp.hstack([cp.log_sum_exp(scores[i]) for i in range(n)]))
    else:
        rows = cp.sum(cp.logistic(scores))
    objective = (rows - cp.sum(cp.multiply(y, scores))) / n
    objective += l1 * cp.sum(cp.abs(w)) + group * cp.sum(cp.norm(w, 2, axis=1))
    objective += ridge / 2 * cp.sum_squares(w)
    cp.Problem(cp.Minimize(objective)).solve(cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11)
    return w.value


@losses
@intercepts
@pytest.mark.parametrize("strengths", [(0, 0.05, 0), (0.01, 0.03, 0.02), (0.02, 0, 0.01)], ids=str)
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_equals_a_cone_solver(loss, fit_intercept, strengths):
    z, y = problem(loss, soft=True)
    penalty = sk.Penalty(**dict(zip(("l1", "group", "ridge"), strengths, strict=True)))
    fit = sk.fit_heads(z, y, penalty, loss=loss, fit_intercept=fit_intercept, tol=1e-12)
    for t in range(len(z)):
        expected = cone_solution(loss, z[t].numpy(), y[t].numpy(), *strengths, fit_intercept)
        np.testing.assert_allclose(fit.weight[t].numpy(), expected, atol=2e-5)


@intercepts
def test_ridge_equals_scikit_learn(fit_intercept):
    z, y = problem("multinomial")
    fit = sk.fit_heads(
        z, y, sk.Penalty(ridge=0.1), loss="multinomial", fit_intercept=fit_intercept, tol=1e-12
    )
    for t in range(len(z)):
        model = LogisticRegression(
            C=1 / (0.1 * z.shape[1]), fit_intercept=fit_intercept, tol=1e-10, max_iter=10_000
        ).fit(z[t].numpy(), y[t].argmax(1).numpy())
        np.testing.assert_allclose(fit.weight[t].T.numpy(), model.coef_, atol=1e-5)
        if fit_intercept:
            np.testing.assert_allclose(fit.bias[t].numpy(), model.intercept_, atol=1e-5)


@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.02])
def test_l1_logistic_equals_celer_and_skglm(ratio):
    """Both minimise sum log(1 + exp(-y u)) with l1, without a bias."""
    z, y = problem("logistic", n=60, M=90, C=1)
    penalty = sk.Penalty(l1=1.0)
    largest = sk.lambda_max(z, y, penalty, loss="logistic", fit_intercept=False)
    penalty = penalty.scaled(ratio * largest)
    fit = sk.fit_heads(z, y, penalty, loss="logistic", fit_intercept=False, tol=1e-12)
    for t, strength in enumerate((ratio * largest).tolist()):
        design, signs = np.asfortranarray(z[t].numpy()), 2 * y[t, :, 0].numpy() - 1
        peers = (
            celer.LogisticRegression(
                C=1 / (60 * strength), fit_intercept=False, tol=1e-12, max_iter=1000
            ),
            skglm.SparseLogisticRegression(alpha=strength, fit_intercept=False, tol=1e-12),
        )
        for peer in peers:
            found = peer.fit(design, signs).coef_.ravel()
            np.testing.assert_allclose(fit.weight[t, :, 0].numpy(), found, atol=1e-5)


def test_two_classes_are_one_logistic_output():
    """Scores -w/2 and w/2: ridge r on both costs what r/2 costs on w."""
    z, y = problem("logistic", C=1)
    both = torch.cat([1 - y, y], 2)
    two = sk.fit_heads(z, both, sk.Penalty(ridge=0.2), loss="multinomial", tol=1e-12)
    one = sk.fit_heads(z, y, sk.Penalty(ridge=0.1), loss="logistic", tol=1e-12)
    torch.testing.assert_close(
        two.weight[..., 1:] - two.weight[..., :1], one.weight, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(two.bias[:, 1:] - two.bias[:, :1], one.bias, atol=1e-5, rtol=0)


def test_soft_labels_are_rows_for_every_class():
    z, y = problem("multinomial", soft=True)
    T, n, C = y.shape
    rows, penalty = z.repeat_interleave(C, 1), sk.Penalty(group=0.03)
    hard = torch.eye(C, dtype=F64).expand(T, n, C, C).flatten(1, 2)
    soft = sk.fit_heads(z, y, penalty, loss="multinomial", tol=1e-12)
    many = sk.fit_heads(
        rows, hard, penalty, loss="multinomial", sample_weight=y.flatten(1), tol=1e-12
    )
    torch.testing.assert_close(soft.weight, many.weight, atol=1e-5, rtol=0)


@losses
def test_lambda_max_is_where_the_weights_vanish(loss):
    z, y = problem(loss)
    proportions = sk.Penalty(l1=0.3, group=1.0)
    nu = sk.lambda_max(z, y, proportions, loss=loss)
    for factor, some in ((1.001, False), (0.99, True)):
        penalty = proportions.scaled(factor * nu)
        fit = sk.fit_heads(z, y, penalty, loss=loss, tol=1e-10)
        assert (fit.weight != 0).flatten(1).any(1).tolist() == [some] * len(z)


@losses
def test_coupled_tasks(loss):
    """Optimal, by a proximal gradient step over all tasks."""
    z, y = problem(loss)
    penalty = random_penalty(LEVELS, 3, 6).scaled(0.12)
    fit = sk.fit_heads(z, y, penalty, loss=loss, tol=1e-12)
    w = fit.weight.requires_grad_()
    p = torch.full(z.shape[:2], 1 / z.shape[1], dtype=F64)
    (gradient,) = torch.autograd.grad(value(loss, z, y, w, fit.bias, p).sum(), w)
    torch.testing.assert_close(
        sk.prox((w - gradient).detach(), penalty), w.detach(), atol=1e-5, rtol=0
    )
    assert bool((norm(w.detach(), (0, 2)) == 0).any())


def test_a_warm_start_after_a_small_change_takes_a_third():
    z, y = problem("multinomial", T=20, n=50, M=30, C=5)
    penalty = sk.Penalty(group=0.02)
    cold = sk.fit_heads(z, y, penalty, loss="multinomial")
    moved = z + 1e-3 * torch.randn_like(z)
    again = sk.fit_heads(moved, y, penalty, loss="multinomial")
    warm = sk.fit_heads(moved, y, penalty, loss="multinomial", init=cold.weight)
    assert bool(warm.converged.all())
    assert 3 * int(warm.n_iter.sum()) < int(again.n_iter.sum())


# ---- the CPU kernels against the reference


def fit_and_gradients(z, y, weight, penalty, backend, how):
    """The fit, and the gradients of a fixed functional of it in z, y and the sample weights."""
    leaves = [x.detach().clone().requires_grad_() for x in (z, y, weight)]
    fit = sk.fit_heads(*leaves[:2], penalty, sample_weight=leaves[2], backend=backend, **how)
    bias = torch.where(fit.bias.isfinite(), fit.bias, 0)
    seed = torch.linspace(-1, 1, fit.weight.numel(), dtype=z.dtype).view_as(fit.weight)
    total = (seed * fit.weight).sum() + (bias * seed[:, 0]).sum()
    return fit, torch.autograd.grad(total, leaves)


@losses
@intercepts
@pytest.mark.parametrize("nonneg", [False, True], ids=["", "nonneg"])
@pytest.mark.parametrize(
    "levels",
    [("group",), ("l1", "group"), UNCOUPLED, ("l1", "ridge"), ("ridge",), ("shared",), LEVELS],
    ids="+".join,
)
def test_the_kernels_agree_with_the_reference(loss, fit_intercept, nonneg, levels):
    """Some rows without weight, an output that is no class, more features than samples."""
    T, n, M, C = 4, 13, 17, 4
    z, y = problem(loss, T, n, M, C, soft=True)
    y[0, :, 2] = 0
    y[0] /= y[0].sum(1, keepdim=True) if loss == "multinomial" else 1
    weight = torch.rand(T, n, dtype=F64) * (torch.rand(T, n) < 0.8)
    penalty = replace(random_penalty(levels, T, M).scaled(0.1), nonneg=nonneg)
    how = {"loss": loss, "fit_intercept": fit_intercept, "tol": 1e-12}
    ours, our_grads = fit_and_gradients(z, y, weight, penalty, "cpu", how)
    theirs, their_grads = fit_and_gradients(z, y, weight, penalty, "reference", how)
    assert bool(ours.converged.all())
    torch.testing.assert_close(ours.weight, theirs.weight, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.bias, theirs.bias, atol=1e-5, rtol=0)
    assert torch.equal(ours.weight == 0, theirs.weight == 0)
    for mine, other in zip(our_grads, their_grads, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4 * float(other.abs().max()), rtol=0)


@losses
@pytest.mark.parametrize("levels", [("group",), ("l1", "group"), ("ridge",)], ids="+".join)
def test_float32_reaches_its_gap_and_stays_near_float64(loss, levels):
    z, y = problem(loss, T=6, n=40, M=50, C=5)
    penalty = random_penalty(levels, 6, 50).scaled(0.05)
    single = sk.fit_heads(z.float(), y.float(), penalty, loss=loss, tol=1e-5)
    double = sk.fit_heads(z, y, penalty, loss=loss, tol=1e-12)
    assert bool(single.converged.all())
    gap = sk.duality_gap(z, y, single.weight.double(), penalty, loss=loss)
    assert float(gap.max()) < 1.1e-5
    torch.testing.assert_close(single.weight.double(), double.weight, atol=2e-2, rtol=0)


@losses
def test_reports_agree_with_the_reference(loss):
    z, y = problem(loss, M=9, soft=True)
    penalty = random_penalty(UNCOUPLED, 3, 9).scaled(0.1)
    weight = torch.randn(3, 9, 3, dtype=F64)
    for fit_intercept in (True, False):
        how = {"loss": loss, "fit_intercept": fit_intercept}
        for report in (
            lambda backend, how=how: sk.lambda_max(z, y, penalty, backend=backend, **how),
            lambda backend, how=how: sk.duality_gap(z, y, weight, penalty, backend=backend, **how),
        ):
            torch.testing.assert_close(report("cpu"), report("reference"), rtol=1e-10, atol=0)


# ---- layouts and labels


def test_class_indices_are_one_hot_rows():
    z, y = problem("multinomial", C=4)
    index, penalty = y.argmax(2), sk.Penalty(group=0.05)
    expected = sk.fit_heads(z, y, penalty, loss="multinomial").weight
    assert torch.equal(sk.fit_heads(z, index, penalty, loss="multinomial").weight, expected)
    wider = sk.fit_heads(z, index, penalty, loss="multinomial", n_classes=5)
    torch.testing.assert_close(wider.weight[..., :4], expected)
    assert bool((wider.weight[..., 4:] == 0).all())
    assert bool((wider.bias[:, 4:] == -torch.inf).all())


def test_layouts_agree():
    z, y = problem("multinomial")
    penalty = sk.Penalty(l1=0.01, group=0.03)
    dense = sk.fit_heads(z, y, penalty, loss="multinomial")
    offsets = torch.tensor([0, 30, 60, 90])
    ragged = sk.fit_heads(
        z.flatten(0, 1), y.flatten(0, 1), penalty, loss="multinomial", offsets=offsets
    )
    nested = sk.fit_heads(
        torch.nested.as_nested_tensor(list(z), layout=torch.jagged),
        torch.nested.as_nested_tensor(list(y.argmax(2)), layout=torch.jagged),
        penalty, loss="multinomial",
    )  # fmt: skip
    for other in (ragged, nested):
        torch.testing.assert_close(other.weight, dense.weight)
        torch.testing.assert_close(other.bias, dense.bias)


@intercepts
def test_tasks_may_have_different_classes(fit_intercept):
    """A class without weight in a task: as if the task had been fitted without it."""
    z, y = problem("multinomial", C=4)
    y[0] = F.one_hot(y[0, :, :2].argmax(1) * 2, 4)  # classes 0 and 2
    penalty = sk.Penalty(group=0.03, ridge=0.01)
    how = {"loss": "multinomial", "fit_intercept": fit_intercept, "tol": 1e-10}
    fit = sk.fit_heads(z, y, penalty, **how)
    alone = sk.fit_heads(z[:1], y[:1, :, [0, 2]], penalty, **how)
    torch.testing.assert_close(fit.weight[:1, :, [0, 2]], alone.weight)
    torch.testing.assert_close(fit.bias[:1, [0, 2]], alone.bias)
    assert bool((fit.weight[0, :, [1, 3]] == 0).all())
    assert fit.bias[0, [1, 3]].tolist() == [-torch.inf, -torch.inf]


@losses
def test_one_class_only_and_one_sample(loss):
    """Nothing to learn: weights 0, a bias at its limit, gap 0, and gradients 0."""
    z, y = problem(loss)
    y[0] = torch.tensor([0.0, 1.0, 0.0], dtype=F64)
    z.requires_grad_()
    for part, labels in ((z, y), (z[:, :1], y[:, :1])):
        fit = sk.fit_heads(part, labels, sk.Penalty(group=0.01), loss=loss)
        assert bool(fit.converged.all())
        assert float(fit.gap[0]) == 0
        assert bool((fit.weight[0] == 0).all())
        limits = [-torch.inf, 0.0 if loss == "multinomial" else torch.inf, -torch.inf]
        assert fit.bias[0].tolist() == limits
        (grad,) = torch.autograd.grad(fit.weight.sum(), z)
        assert bool((grad[0] == 0).all())
        assert bool(grad.isfinite().all())


@losses
def test_separable_classes_without_a_penalty_have_a_finite_solution(loss):
    z, y = problem(loss, n=5, M=12)
    fit = sk.fit_heads(z.float(), y.float(), sk.Penalty(), loss=loss)
    assert bool(fit.converged.all())
    assert bool(fit.weight.isfinite().all())


def test_targets_that_a_loss_does_not_take_mark_their_task():
    for loss, wrong in (("multinomial", 0.7), ("multinomial", -0.1), ("logistic", 1.2)):
        z, y = problem(loss)
        y[1, 3, 0] += wrong if wrong > 0 else wrong - 1
        with pytest.raises(ValueError, match=r"target that the loss does not take in 1 of 3 tasks"):
            sk.fit_heads(z, y, sk.Penalty(l1=0.1), loss=loss)
        fit = sk.fit_heads(z, y, sk.Penalty(l1=0.1), loss=loss, on_error="flag")
        assert fit.weight.isnan().flatten(1).all(1).tolist() == [False, True, False]


def test_what_cannot_be_is_said():
    z, y = problem("multinomial")
    with pytest.raises(
        ValueError, match=r"fit_heads: loss='hinge', there is 'squared', 'multinomial'"
    ):
        sk.fit_heads(z, y, sk.Penalty(l1=0.1), loss="hinge")
    with pytest.raises(TypeError, match=r"fit_heads: y has dtype torch\.int64"):
        sk.fit_heads(z, y.argmax(2), sk.Penalty(l1=0.1), loss="logistic")


# ---- gradients


def directional(f, leaves, directions, h=5e-4):
    """Fourth-order differences of f along a direction of each leaf."""

    def at(i, k):
        moved = [x.detach() + (k * h * d if j == i else 0) for j, (x, d) in
                 enumerate(zip(leaves, directions, strict=True))]  # fmt: skip
        return float(f(*moved))

    return [
        (8 * (at(i, 1) - at(i, -1)) - (at(i, 2) - at(i, -2))) / (12 * h) for i in range(len(leaves))
    ]


@pytest.mark.usefixtures("never_done")
@pytest.mark.filterwarnings("ignore:fit_heads")  # the gap asked is out of reach
@losses
@intercepts
@pytest.mark.parametrize(
    ("levels", "soft"),
    [(("group",), False), (("l1", "group"), True), (UNCOUPLED, False), (("ridge",), True)],
    ids=["group", "l1+group-soft", "all", "ridge-soft"],
)
def test_gradients_equal_finite_differences(loss, fit_intercept, levels, soft):
    check_gradients(loss, fit_intercept, levels, soft)


@pytest.mark.usefixtures("never_done")
@pytest.mark.filterwarnings("ignore:fit_heads")
@losses
def test_gradients_of_coupled_tasks_equal_finite_differences(loss):
    check_gradients(loss, True, LEVELS, True)


def check_gradients(loss, fit_intercept, levels, soft):
    """In the features, sample weights, every strength and, where they are soft, the targets."""
    z, y = problem(loss, T=2, n=20, M=4, soft=soft)
    penalty = random_penalty(levels, 2, 4).scaled(0.05)
    strengths = [getattr(penalty, level) for level in levels]
    weight = 0.5 + torch.rand(2, 20, dtype=F64)
    leaves = [x.requires_grad_() for x in (z, weight, *strengths, *[y] * soft)]
    seed_w, seed_b = torch.randn(2, 4, 3, dtype=F64), torch.randn(2, 3, dtype=F64)
    how = {"loss": loss, "fit_intercept": fit_intercept, "tol": -1.0, "max_iter": 250}
    start = sk.fit_heads(z, y, penalty, sample_weight=weight, **how).weight

    def functional(z_, weight_, *rest):
        moved = sk.Penalty(**dict(zip(levels, rest, strict=False)))
        targets = rest[-1] if soft else y
        fit = sk.fit_heads(z_, targets, moved, sample_weight=weight_, init=start, **how)
        bias = torch.where(fit.bias.isfinite(), fit.bias, 0)
        return (seed_w * fit.weight).sum() + (seed_b * bias).sum()

    directions = [torch.randn_like(x) for x in leaves]
    for i in range(2, 2 + len(levels)):
        directions[i] *= 0.02
    if soft:  # targets stay distributions, or in [0, 1]
        push = y * (1 - y) * torch.randn_like(y)
        share = y if loss == "multinomial" else 0
        directions[-1] = (push - share * push.sum(2, keepdim=True)).detach()
    grads = torch.autograd.grad(functional(*leaves), leaves)
    along = [float((g * d).sum()) for g, d in zip(grads, directions, strict=True)]
    np.testing.assert_allclose(along, directional(functional, leaves, directions), rtol=1e-5)


@losses
@intercepts
def test_unrolled_heads_approach_the_solution_and_its_gradient(loss, fit_intercept):
    z, y = problem(loss)
    z.requires_grad_()
    how = {"loss": loss, "fit_intercept": fit_intercept}
    penalty = sk.Penalty(l1=0.01, group=0.03, ridge=0.1)
    fit = sk.fit_heads(z, y, penalty, tol=1e-14, **how)
    (implicit,) = torch.autograd.grad((fit.weight.square().sum() + fit.bias.sin().sum()), z)
    errors = []
    for n_steps in (3, 30, 1000):
        weight, bias = unrolled_heads(z, y, penalty, n_steps=n_steps, **how)
        (grad,) = torch.autograd.grad(weight.square().sum() + bias.sin().sum(), z)
        errors.append(float((grad - implicit).norm() / implicit.norm()))
    assert errors[0] > 0.05 > errors[1] > errors[2]
    assert errors[2] < 1e-5
    torch.testing.assert_close(weight, fit.weight, atol=1e-6, rtol=0)
    torch.testing.assert_close(bias, fit.bias, atol=1e-6, rtol=0)


@losses
@pytest.mark.parametrize("hypergradient", ["implicit", "detached", "unrolled"])
def test_sparse_heads_take_the_loss(loss, hypergradient):
    z, y = problem(loss)
    z.requires_grad_()
    heads = sk.nn.SparseHeads(
        sk.Penalty(group=0.3), loss=loss, relative=True, hypergradient=hypergradient
    )
    fit = heads(z, y)
    assert heads.tol == 5e-3
    assert 0 < int((fit.weight != 0).any(2).sum()) < fit.weight.shape[0] * fit.weight.shape[1]
    scores = heads.predict(fit, z)
    agreed = (scores.argmax(2) == y.argmax(2)) if loss == "multinomial" else (scores > 0) == (y > 0)
    assert float(agreed.double().mean()) > 0.7
    (grad,) = torch.autograd.grad(scores.square().mean(), z)
    assert bool(grad.isfinite().all())


# ---- distributions up to rounding


def test_rows_near_a_distribution_are_divided_by_their_sum(backend):
    """A sum off by 0.005 would leave the gap open at 1e-4."""
    z, y = problem("multinomial", 3, 30, 8, 4, soft=True)
    how = {"loss": "multinomial", "backend": backend}
    penalty = sk.Penalty(group=0.03)
    exact = sk.fit_heads(z, y, penalty, tol=1e-4, max_iter=1000, **how)
    for share in (0.995, 1.005):
        near = sk.fit_heads(z, share * y, penalty, tol=1e-4, max_iter=1000, **how)
        assert bool(near.converged.all())
        torch.testing.assert_close(near.weight, exact.weight, rtol=1e-9, atol=1e-12)
        for name in ("lambda_max", "duality_gap"):
            at = (exact.weight, penalty) if name == "duality_gap" else (penalty,)
            one, other = (getattr(sk, name)(z, k * y, *at, **how) for k in (1.0, share))
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="a target that the loss does not take in 3 of 3 tasks"):
        sk.fit_heads(z, 0.98 * y, penalty, **how)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_distributions_are_as_fast_as_exact_ones(dtype):
    z, y = problem("multinomial", 3, 30, 8, 4, soft=True)
    penalty = sk.Penalty(group=0.03)
    half = sk.fit_heads(z.to(dtype), y.to(dtype), penalty, loss="multinomial", tol=1e-4)
    wide = y.to(dtype).float()
    exact = wide / wide.sum(2, keepdim=True)
    single = sk.fit_heads(z.to(dtype).float(), exact, penalty, loss="multinomial", tol=1e-4)
    assert half.n_iter.tolist() == single.n_iter.tolist()
    # Rows that differ by a bit of float32 give weights that differ by some: one unit of the dtype
    # where they lie on either side of a boundary of rounding.
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(half.weight, single.weight.to(dtype), rtol=unit, atol=1e-6)


def test_the_gradient_is_that_of_the_divided_rows():
    z, y = problem("multinomial", 2, 12, 3, 3, soft=True)
    near = (0.995 * y).requires_grad_()
    weight = sk.fit_heads(z, near, sk.Penalty(ridge=0.1), loss="multinomial", tol=1e-13).weight
    (grad,) = torch.autograd.grad((weight * torch.linspace(-1, 1, 18).view(2, 3, 3)).sum(), near)
    # A row's length plays no part.
    assert float((grad * near).sum(2).abs().max()) < 1e-12 * float(grad.abs().max())
    assert float(grad.abs().max()) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_hot_rows_stay_what_they_are(dtype):
    z, y = problem("multinomial", 2, 20, 4, 3)
    z, penalty = z.to(dtype), sk.Penalty(group=0.05)
    for targets in (y.to(dtype), y.argmax(2)):
        assert torch.equal(
            read_samples("test", z, targets, None, None, "multinomial").y, y.to(dtype)
        )
    hard, index = (
        sk.fit_heads(z, t, penalty, loss="multinomial") for t in (y.to(dtype), y.argmax(2))
    )
    assert torch.equal(hard.weight, index.weight)
