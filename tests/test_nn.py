from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sparsedis_kernels as sk
from sparsedis_kernels.nn import Hypergradient, SparseHeads
from sparsedis_kernels.ops import unrolled

PENALTY = sk.Penalty(group=0.1, ridge=0.05)


def episode() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Support and query of tasks that depend on two features."""
    T, n, M, C = 2, 8, 3, 2
    z = torch.randn(T, 2 * n, M, dtype=torch.float64)
    w = torch.randn(T, M, C, dtype=torch.float64) * (torch.arange(M) < 2)[:, None]
    y = z @ w + 0.3 * torch.randn(T, 2 * n, C, dtype=torch.float64) + 1
    return z[:, :n], y[:, :n], z[:, n:], y[:, n:]


def query_loss(heads: SparseHeads, zs: Tensor, ys: Tensor, zq: Tensor, yq: Tensor) -> Tensor:
    return (heads.predict(heads(zs, ys), zq) - yq).square().mean()


def numeric(f: Callable[[Tensor], Tensor], x: Tensor, h: float = 1e-6) -> Tensor:
    """Central differences of a scalar function."""
    result = torch.zeros_like(x)
    for i in range(x.numel()):
        e = torch.zeros_like(x)
        e.view(-1)[i] = h
        result.view(-1)[i] = (f(x + e) - f(x - e)) / (2 * h)
    return result


def make_heads(mode: Hypergradient) -> SparseHeads:
    return SparseHeads(PENALTY, hypergradient=mode, tol=1e-14, unrolled_steps=4)


def gradients(heads: SparseHeads, *data: Tensor) -> list[Tensor]:
    zs, ys, zq, yq = data
    zs, zq = zs.clone().requires_grad_(), zq.clone().requires_grad_()
    loss = query_loss(heads, zs, ys, zq, yq)
    return list(torch.autograd.grad(loss, (zs, zq), materialize_grads=True))


@pytest.mark.parametrize("mode", ["implicit", "unrolled"])
def test_query_features_get_their_gradient(mode: Hypergradient) -> None:
    heads, (zs, ys, zq, yq) = make_heads(mode), episode()
    expected = numeric(lambda x: query_loss(heads, zs, ys, x, yq), zq)
    torch.testing.assert_close(gradients(heads, zs, ys, zq, yq)[1], expected, rtol=1e-6, atol=1e-8)


def test_implicit_is_the_gradient_of_the_solution() -> None:
    heads, (zs, ys, zq, yq) = make_heads("implicit"), episode()
    expected = numeric(lambda x: query_loss(heads, x, ys, zq, yq), zs, 1e-5)
    torch.testing.assert_close(gradients(heads, zs, ys, zq, yq)[0], expected, rtol=1e-4, atol=1e-6)


def test_detached_holds_the_heads_fixed() -> None:
    heads, (zs, ys, zq, yq) = make_heads("detached"), episode()
    fit = heads(zs, ys)
    assert torch.equal(fit.weight, make_heads("implicit")(zs, ys).weight)
    support, query = gradients(heads, zs, ys, zq, yq)
    assert torch.equal(support, torch.zeros_like(zs))
    expected = numeric(lambda x: (heads.predict(fit, x) - yq).square().mean(), zq)
    torch.testing.assert_close(query, expected, rtol=1e-6, atol=1e-8)


def test_unrolled_is_the_gradient_of_the_iterate(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the step size held fixed: no gradient flows through it."""
    heads, (zs, ys, zq, yq) = make_heads("unrolled"), episode()
    fixed = unrolled._curvature(zs - zs.mean(1, keepdim=True))
    monkeypatch.setattr(unrolled, "_curvature", lambda _: fixed)
    expected = numeric(lambda x: query_loss(heads, x, ys, zq, yq), zs)
    support = gradients(heads, zs, ys, zq, yq)[0]
    torch.testing.assert_close(support, expected, rtol=1e-6, atol=1e-8)
    other = gradients(make_heads("implicit"), zs, ys, zq, yq)[0]
    assert float((support - other).norm()) > 0.05 * float(other.norm())


def test_detached_shared_features_keep_only_the_direct_dependence() -> None:
    """Support and query from one parameter: the first-order gradient, not the full one."""
    heads, (zs, ys, zq, yq) = make_heads("detached"), episode()
    scale = torch.ones(3, dtype=torch.float64, requires_grad=True)
    loss = query_loss(heads, zs * scale, ys, zq * scale, yq)
    fit = heads(zs, ys)
    expected = numeric(lambda s: (heads.predict(fit, zq * s) - yq).square().mean(), scale.detach())
    torch.testing.assert_close(torch.autograd.grad(loss, scale)[0], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "penalty",
    [
        sk.Penalty(l1=1.0),
        sk.Penalty(group=1.0, ridge=0.1),
        sk.Penalty(l1=1.0, group=1.0),
        sk.Penalty(shared=1.0),
        sk.Penalty(group=1.0, shared=1.0, nonneg=True),
    ],
)
def test_relative_strength_1_is_where_all_weights_vanish(penalty: sk.Penalty) -> None:
    zs, ys, _, _ = episode()
    zs[1] *= 5  # the tasks' own lambda_max differ
    for factor, zero in ((1 + 1e-9, True), (0.99, False)):
        fit = SparseHeads(penalty.scaled(factor), relative=True, tol=1e-13)(zs, ys)
        tasks = (fit.weight == 0).flatten(1).all(1)
        coupled = penalty.shared != 0
        assert bool(tasks.all()) if zero else not bool(tasks.all() if coupled else tasks.any())


def test_relative_is_a_fraction_of_each_tasks_lambda_max() -> None:
    zs, ys, _, _ = episode()
    zs[1] *= 5
    heads = SparseHeads(sk.Penalty(group=0.3, ridge=0.1), relative=True, tol=1e-13)
    zc, yc = zs - zs.mean(1, keepdim=True), ys - ys.mean(1, keepdim=True)
    largest = (zc.mT @ yc / zs.shape[1]).norm(dim=2).amax(1)  # (T,)
    penalty = sk.Penalty(group=(0.3 * largest)[:, None], ridge=0.1)
    expected = sk.fit_heads(zs, ys, penalty, tol=1e-13).weight
    torch.testing.assert_close(heads(zs, ys).weight, expected, rtol=1e-9, atol=1e-9)


def test_relative_stops_the_gradient_at_lambda_max() -> None:
    heads = SparseHeads(sk.Penalty(group=0.3), relative=True, tol=1e-14)
    zs, ys, zq, yq = episode()
    absolute = SparseHeads(heads._penalty_of(zs, ys), tol=1e-14)
    torch.testing.assert_close(
        gradients(heads, zs, ys, zq, yq), gradients(absolute, zs, ys, zq, yq), rtol=1e-9, atol=1e-12
    )
    expected = numeric(lambda x: query_loss(absolute, x, ys, zq, yq), zs, 1e-5)
    torch.testing.assert_close(gradients(heads, zs, ys, zq, yq)[0], expected, rtol=1e-4, atol=1e-6)


def test_relative_without_a_sparse_level_is_ridge() -> None:
    zs, ys, _, _ = episode()
    fit = SparseHeads(sk.Penalty(ridge=0.3), relative=True)(zs, ys)
    assert torch.equal(fit.weight, sk.fit_heads(zs, ys, sk.Penalty(ridge=0.3)).weight)


def test_unrolled_fit_says_how_far_it_is() -> None:
    zs, ys, _, _ = episode()
    short = SparseHeads(PENALTY, hypergradient="unrolled", unrolled_steps=2)(zs, ys)
    long = SparseHeads(PENALTY, hypergradient="unrolled", unrolled_steps=500)(zs, ys)
    torch.testing.assert_close(short.gap, sk.duality_gap(zs, ys, short.weight.detach(), PENALTY))
    assert not bool(short.converged.any())
    assert bool(long.converged.all())
    assert long.n_iter.tolist() == [500, 500]


def test_predict_is_affine() -> None:
    zs, ys, zq, _ = episode()
    heads = make_heads("implicit")
    fit = heads(zs, ys)
    expected = torch.einsum("tnm,tmc->tnc", zq, fit.weight) + fit.bias.unsqueeze(1)
    torch.testing.assert_close(heads.predict(fit, zq), expected)
    torch.testing.assert_close(heads.predict(fit, zq[0])[0], expected[0])


def test_unknown_choices() -> None:
    with pytest.raises(ValueError, match=r"hypergradient='exact', there is .*implicit.*detached"):
        SparseHeads(PENALTY, hypergradient="exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"SparseHeads: loss='hinge', there is .*'multinomial'"):
        SparseHeads(PENALTY, loss="hinge")


def test_a_bad_task_is_named() -> None:
    """Whichever op meets it first."""
    zs, ys, _, _ = episode()
    zs[1, 3, 0] = float("nan")
    both: list[Hypergradient] = ["implicit", "unrolled"]
    for mode in both:
        for penalty in (sk.Penalty(group=0.3, ridge=0.1), sk.Penalty(shared=0.3)):
            for relative in (True, False):
                heads = SparseHeads(penalty, relative=relative, hypergradient=mode)
                with pytest.raises(ValueError, match=r"NaN, .* 1 of 2 tasks, the first is task 1"):
                    heads(zs, ys)
                labels = SparseHeads(
                    penalty, loss="multinomial", relative=relative, hypergradient=mode
                )
                with pytest.raises(ValueError, match=r"loss does not take .* the first is task 0"):
                    labels(zs.nan_to_num(), torch.tensor([[0, 1, 0, -1, 0, 1, 1, 0]] * 2))


@pytest.mark.parametrize("mode", ["implicit", "unrolled"])
def test_class_indices_are_one_hot_targets(mode: Hypergradient) -> None:
    zs, ys, _, _ = episode()
    index = ys.argmax(2)
    heads = SparseHeads(
        sk.Penalty(group=0.1), loss="multinomial", relative=True, hypergradient=mode
    )
    one_hot = torch.nn.functional.one_hot(index, 4).double()
    indices, expected = heads(zs, index, n_classes=4), heads(zs, one_hot)
    assert indices.weight.shape == (2, 3, 4)
    assert torch.equal(indices.weight, expected.weight)
    assert torch.equal(indices.gap, expected.gap)
    assert heads(zs, index).weight.shape == (2, 3, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tol": -1e-4}, "tol must be >= 0, got -0.0001"),
        ({"tol": float("nan")}, "tol must be >= 0, got nan"),
        ({"unrolled_steps": 0}, "unrolled_steps must be >= 1, got 0"),
    ],
)
def test_numbers_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"SparseHeads: {message}"):
        SparseHeads(PENALTY, **options)
