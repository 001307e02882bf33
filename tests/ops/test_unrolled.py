from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sparsedis_kernels as sk
from sparsedis_kernels.ops import unrolled
from sparsedis_kernels.ops.unrolled import unrolled_heads

PENALTIES = {
    "ridge": sk.Penalty(ridge=0.2),
    "lasso": sk.Penalty(l1=0.1),
    "group": sk.Penalty(group=0.15, ridge=0.05),
    "nested": sk.Penalty(l1=0.03, group=0.05, shared=0.1),
    "nonneg": sk.Penalty(l1=0.05, nonneg=True),
}
penalties = pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)


def samples(n: int = 20, M: int = 5) -> tuple[Tensor, Tensor]:
    """Three tasks that depend on two features, with different scales and an offset."""
    z = torch.randn(3, n, M, dtype=torch.float64) + 1
    z = z * torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)[:, None, None]
    w = torch.randn(3, M, 2, dtype=torch.float64) * (torch.arange(M) < 2)[:, None]
    return z, z @ w + 0.2 * torch.randn(3, n, 2, dtype=torch.float64) + 3


def gradient(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Of a fixed linear functional of the heads."""
    g = torch.Generator().manual_seed(1)
    a = torch.randn(weight.shape, generator=g, dtype=z.dtype)
    b = torch.randn(bias.shape, generator=g, dtype=z.dtype)
    return torch.autograd.grad((a * weight).sum() + (b * bias).sum(), z)[0]


@penalties
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("sizes", [(20, 5), (4, 7)], ids=str)
def test_converges_to_the_solution(
    penalty: sk.Penalty, fit_intercept: bool, sizes: tuple[int, int]
) -> None:
    z, y = samples(*sizes)
    weight, bias = unrolled_heads(z, y, penalty, n_steps=1000, fit_intercept=fit_intercept)
    gap = sk.duality_gap(z, y, weight, penalty, fit_intercept=fit_intercept)
    assert float(gap.max()) < 1e-3
    fit = sk.fit_heads(z, y, penalty, fit_intercept=fit_intercept, tol=1e-12)
    centre = z.mean(1, keepdim=True) if fit_intercept else 0
    error = ((z - centre) @ (weight - fit.weight)).norm() / ((z - centre) @ fit.weight).norm()
    assert float(error) < 0.01
    expected = (y - z @ weight).mean(1) if fit_intercept else torch.zeros(3, 2, dtype=z.dtype)
    torch.testing.assert_close(bias, expected)


def test_first_step_is_one_proximal_gradient_step_from_zero() -> None:
    z, y = samples()
    penalty = sk.Penalty(l1=0.3, group=0.1)
    zc, yc = z - z.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    for t in range(3):
        gram = zc[t].T @ zc[t] / 20
        step = 1 / float(torch.linalg.matrix_norm(gram, ord=2))
        expected = sk.prox(step * (zc[t].T @ yc[t] / 20)[None], penalty, step)
        weight, _ = unrolled_heads(z, y, penalty, n_steps=1)
        torch.testing.assert_close(weight[t], expected[0])


def test_no_steps_is_the_mean() -> None:
    z, y = samples()
    weight, bias = unrolled_heads(z, y, PENALTIES["group"], n_steps=0)
    assert torch.equal(weight, torch.zeros_like(weight))
    torch.testing.assert_close(bias, y.mean(1))


@penalties
def test_gradient_is_that_of_the_iterate(
    penalty: sk.Penalty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite differences with the step size held fixed, since no gradient flows through it."""
    z, y = samples(6, 3)
    fixed = unrolled._curvature(z - z.mean(1, keepdim=True))
    monkeypatch.setattr(unrolled, "_curvature", lambda _: fixed)
    inputs = (z.requires_grad_(), y.requires_grad_())
    assert torch.autograd.gradcheck(lambda *x: unrolled_heads(*x, penalty, n_steps=5), inputs)


def test_gradient_of_strengths() -> None:
    z, y = samples(6, 3)
    strengths = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64, requires_grad=True)

    def heads(s: Tensor) -> tuple[Tensor, Tensor]:
        return unrolled_heads(z, y, sk.Penalty(l1=s[0], group=s[1], ridge=s[2]), n_steps=5)

    assert torch.autograd.gradcheck(heads, (strengths,))


@pytest.mark.parametrize("name", ["ridge", "group"])
def test_gradient_approaches_the_implicit_one(name: str) -> None:
    penalty = PENALTIES[name]
    z, y = samples()
    z.requires_grad_()
    fit = sk.fit_heads(z, y, penalty, tol=1e-13)
    implicit = gradient(z, fit.weight, fit.bias)
    errors = [
        float((gradient(z, *unrolled_heads(z, y, penalty, n_steps=n)) - implicit).norm())
        for n in (3, 30, 1000)
    ]
    scale = float(implicit.norm())
    assert errors[0] > 0.05 * scale  # a truncated iteration has another gradient, and says so
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-5 * scale


def test_features_that_are_zero_get_zero_weights() -> None:
    z, y = samples()
    z[1] = 0
    weight, bias = unrolled_heads(z, y, PENALTIES["lasso"], n_steps=10)
    assert torch.equal(weight[1], torch.zeros_like(weight[1]))
    torch.testing.assert_close(bias[1], y[1].mean(0))
    assert bool((weight[0] != 0).any())


@pytest.mark.parametrize("sizes", [(0, 5, 4), (3, 0, 4)], ids=["T", "n"])
def test_empty(sizes: tuple[int, int, int]) -> None:
    T, n, M = sizes
    z, y = torch.ones(T, n, M), torch.ones(T, n, 2)
    weight, bias = unrolled_heads(z, y, PENALTIES["lasso"], n_steps=3)
    assert torch.equal(weight, torch.zeros(T, M, 2))
    assert torch.equal(bias, torch.zeros(T, 2))


def test_half_precision_is_computed_in_float32() -> None:
    z, y = (x.bfloat16() for x in samples())
    weight, bias = unrolled_heads(z, y, PENALTIES["group"], n_steps=20)
    wide = unrolled_heads(z.float(), y.float(), PENALTIES["group"], n_steps=20)
    assert torch.equal(weight, wide[0].bfloat16())
    assert torch.equal(bias, wide[1].bfloat16())


def test_arguments_that_do_not_fit() -> None:
    z, y = samples()
    penalty = PENALTIES["lasso"]
    with pytest.raises(ValueError, match=r"unrolled_heads: z has shape \(20, 5\), expected 3 axes"):
        unrolled_heads(z[0], y, penalty, n_steps=1)
    with pytest.raises(ValueError, match="unrolled_heads: y has shape"):
        unrolled_heads(z, y[:2], penalty, n_steps=1)
    with pytest.raises(ValueError, match="unrolled_heads: n_steps must be >= 0, got -1"):
        unrolled_heads(z, y, penalty, n_steps=-1)


@pytest.mark.parametrize("wrong", ["nan", "label", "soft"])
def test_a_bad_task_is_named(wrong: str) -> None:
    z, y = samples()
    loss, targets = "multinomial", y.softmax(2)
    if wrong == "nan":
        loss, targets = "squared", y
        z[2, 4, 1] = float("nan")
    elif wrong == "label":
        targets = y.argmax(2)
        targets[2, 0] = -1
    else:
        targets[2] *= 3
    with pytest.raises(ValueError, match=r"unrolled_heads: NaN, .*1 of 3 tasks, .* is task 2$"):
        unrolled_heads(z, targets, PENALTIES["lasso"], n_steps=2, loss=loss)


def test_compiles_and_maps() -> None:
    """Bad tasks are looked for where that can be done alone."""
    z, y = samples(6, 3)

    def heads(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return unrolled_heads(z, y, PENALTIES["lasso"], n_steps=3)

    compiled = torch.compile(heads, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z, y), heads(z, y))
    mapped = torch.vmap(heads)(z[:, None], y[:, None])
    for together, alone in zip(mapped, heads(z, y), strict=True):
        torch.testing.assert_close(together[:, 0], alone)
