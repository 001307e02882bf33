from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsedis_kernels import reference

from .helpers import ALL_SCALES, Heads, assert_gradient, heads_case, scale_id

scales = pytest.mark.parametrize("scale", ALL_SCALES, ids=scale_id)
signs = pytest.mark.parametrize("nonneg", [False, True], ids=["signed", "nonneg"])
intercepts = pytest.mark.parametrize("fit_intercept", [True, False], ids=["bias", "no-bias"])
NAMES = ("z", "y", "sample_weight", "l1", "group", "shared", "ridge")
ALL = [True] * 7


def small(
    scale: list[float], shape: tuple[int, int, int, int] = (2, 9, 5, 2), **options: bool
) -> Heads:
    return heads_case(scale, shape, 0.15, tensors=True, weighted=True, **options)


def cotangents(T: int, M: int, C: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(7)
    first = torch.randn(T, M, C, generator=g, dtype=torch.float64)
    return first, torch.randn(T, C, generator=g, dtype=torch.float64)


def inputs_of(case: Heads) -> list[Tensor | None]:
    return [case.z, case.y, case.sample_weight, *case.strengths]


def backward(case: Heads, weight: Tensor, needs: list[bool] = ALL) -> tuple[Tensor, ...]:
    grads = cotangents(*weight.shape)
    return reference.fit_heads_backward(*grads, weight, *case.problem(), needs)


def smooth_objective(
    case: Heads, support: Tensor, w: Tensor, b: Tensor, inputs: list[Tensor]
) -> Tensor:
    """The objective for w near a solution with this support, dense layout, intercept explicit."""
    z, y, s, *tensors = inputs
    p = s / s.sum(1, keepdim=True)
    loss = (p[..., None] * (z @ w + b[:, None] - y).square()).sum() / 2
    l1, group, shared, ridge = (a * t for a, t in zip(case.scale, tensors, strict=True))
    rows, features = support.any(2), support.any(2).any(0)
    mean = (p[..., None] * z).sum(1, keepdim=True) * float(case.fit_intercept)
    spread = (p[..., None] * (z - mean).square()).sum(1)
    unpenalised = l1 + group + shared + ridge == 0
    ridge = torch.where(unpenalised, 1e-10 * spread, ridge)
    loss = loss + (l1[..., None] * w * w.detach().sign()).sum()
    loss = loss + (group[rows] * w[rows].norm(dim=1)).sum()
    loss = loss + (shared[features] * w[:, features].square().sum((0, 2)).sqrt()).sum()
    return loss + (ridge[..., None] * w.square()).sum() / 2


def implicit_gradients(case: Heads, weight: Tensor, bias: Tensor) -> list[Tensor]:
    """Gradients by autograd: the full Hessian in (w on the support, b), and mixed derivatives."""
    inputs = [x.clone().requires_grad_() for x in inputs_of(case)]
    # An unpenalised weight is free even where it is 0.
    support = weight != 0
    count = int(support.sum())

    def stationarity(flat: Tensor) -> Tensor:
        w = torch.zeros_like(weight).masked_scatter(support, flat[:count])
        b = flat[count:].view_as(bias) if case.fit_intercept else torch.zeros_like(bias)
        value = smooth_objective(case, support, w, b, inputs)
        return torch.autograd.grad(value, flat, create_graph=True)[0]

    grad_w, grad_b = cotangents(*weight.shape)
    tail = [grad_b.flatten(), bias.flatten()] if case.fit_intercept else [bias[:0].flatten()] * 2
    flat = torch.cat([weight[support], tail[1]]).requires_grad_()
    hessian = torch.autograd.functional.jacobian(stationarity, flat)
    u = torch.linalg.solve(hessian, torch.cat([grad_w[support], tail[0]]))
    g = stationarity(flat)
    assert float(g.abs().max()) < 1e-6
    mixed = torch.autograd.grad(-(g @ u), inputs, allow_unused=True)
    pairs = zip(mixed, inputs, strict=True)
    return [torch.zeros_like(x) if grad is None else grad for grad, x in pairs]


@scales
@signs
@intercepts
def test_backward(scale: list[float], nonneg: bool, fit_intercept: bool) -> None:
    case = small(scale, nonneg=nonneg, fit_intercept=fit_intercept)
    weight, bias, _, _, _ = case.fit(tol=1e-15, max_iter=2000)
    expected = implicit_gradients(case, weight, bias)
    for k, (grad, other) in enumerate(zip(backward(case, weight), expected, strict=True)):
        if k < 3 or case.scale[k - 3]:
            assert_gradient(grad, other, 1e-8)


@pytest.mark.parametrize(
    ("scale", "fit_intercept"),
    [([1, 1, 0, 1], False), ([0, 1, 0, 0], True), ([1, 1, 1, 0], True), ([0, 0, 0, 1], False)],
)
def test_backward_against_refits(scale: list[float], fit_intercept: bool) -> None:
    """Differences of whole fits, in one random direction of all inputs together."""
    case = small(scale, fit_intercept=fit_intercept)
    # No gap is below a negative tolerance: every iteration is made.
    weight, _, _, _, _ = case.fit(tol=-1, max_iter=400)
    inputs, (grad_w, grad_b) = inputs_of(case), cotangents(*weight.shape)
    g = torch.Generator().manual_seed(3)
    steps = [1e-5 * torch.randn(x.shape, generator=g, dtype=x.dtype) for x in inputs]

    def loss(sign: int) -> Tensor:
        z, y, s, *strengths = (x + sign * d for x, d in zip(inputs, steps, strict=True))
        moved = Heads(z, y, strengths, case.scale, None, s, False, fit_intercept)
        w, b, _, _, _ = moved.fit(tol=-1, max_iter=150, init=weight)
        assert torch.equal(w != 0, weight != 0)
        return (grad_w * w).sum() + (grad_b * b).sum()

    actual = sum((a * d).sum() for a, d in zip(backward(case, weight), steps, strict=True))
    expected = (loss(1) - loss(-1)) / 2
    assert abs(float(actual - expected)) < 1e-6 * abs(float(expected))


@signs
@pytest.mark.parametrize("scale", [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], ids=scale_id)
def test_fewer_rows_than_features(scale: list[float], nonneg: bool) -> None:
    case = small(scale, (2, 8, 14, 2), nonneg=nonneg)
    weight, bias, _, _, _ = case.fit(tol=1e-15, max_iter=4000)
    expected = implicit_gradients(case, weight, bias)
    for k, (grad, other) in enumerate(zip(backward(case, weight), expected, strict=True)):
        if k < 3 or case.scale[k - 3]:
            assert_gradient(grad, other, 1e-6)


@intercepts
def test_unpenalised_with_few_rows_follows_its_floor(fit_intercept: bool) -> None:
    """The interpolating weights are smallest in the features' spread, which moves with z."""
    case = small([0, 0, 0, 0], (2, 4, 7, 2), fit_intercept=fit_intercept)
    weight = case.fit()[0]
    grad_w, grad_b = cotangents(*weight.shape)
    needs = [True, True, True, False, False, False, False]
    args = (grad_w, grad_b, weight, *case.problem(), needs)
    actual = reference.fit_heads_backward(*args)[:3]
    inputs = inputs_of(case)

    def loss(k: int, step: Tensor) -> Tensor:
        moved = [x + step if i == k else x for i, x in enumerate(inputs)]
        z, y, s, *strengths = moved
        w, b, _, _, _ = Heads(z, y, strengths, case.scale, None, s, False, fit_intercept).fit()
        return (grad_w * w).sum() + (grad_b * b).sum()

    for k, grad in enumerate(actual):
        step = 1e-5 * torch.randn_like(inputs[k])
        expected = float(loss(k, step) - loss(k, -step)) / 2
        # The direct solution carries the floor's condition number of 1e10 into the differences.
        assert abs(float((grad * step).sum()) - expected) < 1e-4 * abs(expected)


def packed(case: Heads, counts: list[int]) -> Heads:
    def pack(x: Tensor) -> Tensor:
        return torch.cat([x[t, :n] for t, n in enumerate(counts)])

    offsets = torch.tensor([0, *counts]).cumsum(0)
    data = (pack(case.z), pack(case.y), case.strengths, case.scale, offsets)
    return Heads(*data, pack(case.sample_weight), case.nonneg, case.fit_intercept)


@intercepts
@pytest.mark.parametrize("scale", [[1, 1, 0, 1], [1, 1, 1, 0]], ids=scale_id)
def test_ragged_gradients_are_dense_gradients(scale: list[float], fit_intercept: bool) -> None:
    case = small(scale, (3, 9, 5, 2), fit_intercept=fit_intercept)
    counts = [9, 6, 0]
    for t, n in enumerate(counts):
        case.sample_weight[t, n:] = 0
    weight = case.fit(tol=1e-14)[0]
    dense = backward(case, weight)
    ragged = packed(case, counts)
    actual = backward(ragged, weight)
    for k in range(3):
        rows = torch.cat([dense[k][t, :n] for t, n in enumerate(counts)])
        assert_gradient(actual[k], rows, 1e-11)
    for k in range(3, 7):
        assert_gradient(actual[k], dense[k], 1e-11)


@intercepts
@pytest.mark.parametrize("per_task", [False, True])
@pytest.mark.parametrize("scale", [[1, 1, 0, 1], [1, 1, 1, 0]], ids=scale_id)
def test_shared_design_sums_over_tasks(
    scale: list[float], per_task: bool, fit_intercept: bool
) -> None:
    case = small(scale, (3, 9, 5, 2), fit_intercept=fit_intercept)
    case.z = case.z[:1].expand(3, -1, -1)
    if not per_task:
        case.sample_weight = case.sample_weight[:1].expand(3, -1)
    weight = case.fit(tol=1e-14)[0]
    dense = list(backward(case, weight))
    case.z = case.z[0]
    dense[0] = dense[0].sum(0)
    if not per_task:
        case.sample_weight = case.sample_weight[0]
        dense[2] = dense[2].sum(0)
    for actual, expected in zip(backward(case, weight), dense, strict=True):
        assert torch.equal(actual, expected)


def test_only_what_is_needed() -> None:
    case = small([1, 1, 1, 1])
    weight = case.fit(tol=1e-10)[0]
    full = backward(case, weight)
    for k in range(7):
        needs = [i == k for i in range(7)]
        grads = backward(case, weight, needs)
        assert torch.equal(grads[k], full[k])
        assert [g.numel() == 0 for g in grads] == [not n for n in needs]


@pytest.mark.parametrize("where", ["weight", "y", "cotangent", "strength"])
@pytest.mark.parametrize("scale", [[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 1]], ids=scale_id)
def test_bad_task_spoils_no_other(scale: list[float], where: str) -> None:
    case = small(scale, (3, 9, 5, 2))
    case.sample_weight[1] = 0
    weight = case.fit(tol=1e-14)[0]
    grad_w, grad_b = cotangents(*weight.shape)
    grad_w[1] = grad_b[1] = 0
    expected = reference.fit_heads_backward(grad_w, grad_b, weight, *case.problem(), ALL)
    target = {"weight": weight, "y": case.y, "cotangent": grad_w, "strength": case.strengths[3]}
    target[where][1].view(-1)[0] = torch.nan
    actual = reference.fit_heads_backward(grad_w, grad_b, weight, *case.problem(), ALL)
    for k, (grad, other) in enumerate(zip(actual, expected, strict=True)):
        if k == 5:
            assert torch.equal(grad, other)
        else:
            assert torch.equal(grad[[0, 2]], other[[0, 2]])
            assert bool(grad[1].isnan().all())


def test_bad_task_adds_nothing_to_a_shared_design() -> None:
    case = small([1, 1, 0, 1], (3, 9, 5, 2))
    case.z, case.sample_weight = case.z[0], case.sample_weight[0]
    weight = case.fit(tol=1e-14)[0]
    grads = [x[[0, 2]] for x in cotangents(3, 5, 2)]
    two = Heads(case.z, case.y[[0, 2]], [None] * 4, case.scale, None, case.sample_weight)
    two.strengths = [s if k == 2 else s[[0, 2]] for k, s in enumerate(case.strengths)]
    expected = reference.fit_heads_backward(*grads, weight[[0, 2]], *two.problem(), ALL)
    weight[1] = torch.nan
    actual = backward(case, weight)
    for k in (0, 2):
        assert_gradient(actual[k], expected[k], 1e-12)
    assert bool(backward(case, weight * torch.nan)[1].isnan().all())


def test_empty_support_has_zero_gradients() -> None:
    case = small([1, 1, 1, 0])
    case.scale = [1e3] * 3 + [0.0]
    weight, bias, _, _, _ = case.fit()
    assert not weight.any()
    grads = backward(case, weight)
    for k in (0, 3, 4, 5, 6):
        assert torch.equal(grads[k], torch.zeros_like(grads[k]))
    # The bias is the weighted mean of y.
    p = case.sample_weight / case.sample_weight.sum(1, keepdim=True)
    grad_b = cotangents(*weight.shape)[1]
    assert torch.allclose(grads[1], p[..., None] * grad_b[:, None], rtol=1e-14)
    expected = ((case.y - bias[:, None]) * grad_b[:, None]).sum(2)
    expected = expected / case.sample_weight.sum(1, keepdim=True)
    assert_gradient(grads[2], expected, 1e-13)


def test_rows_without_weight() -> None:
    case = small([1, 1, 0, 1])
    case.sample_weight[0, 2] = 0
    weight, bias, _, _, _ = case.fit(tol=1e-15, max_iter=2000)
    grads = backward(case, weight)
    assert torch.equal(grads[0][0, 2], torch.zeros(5, dtype=torch.float64))
    assert float(grads[2][0, 2]) != 0
    expected = implicit_gradients(case, weight, bias)
    for k in (0, 1, 2, 3, 4, 6):
        assert_gradient(grads[k], expected[k], 1e-8)


def test_task_without_weight() -> None:
    case = small([1, 1, 0, 1])
    case.sample_weight[1] = 0
    grads = backward(case, case.fit(tol=1e-14)[0])
    for k in (0, 1, 2, 3, 4, 6):
        assert torch.equal(grads[k][1], torch.zeros_like(grads[k][1]))
        assert bool(grads[k][0].any())


def test_zero_feature_passes_a_gradient_to_its_values() -> None:
    """A feature that is 0 has weight 0 by a ridge alone, and moves as soon as z does."""
    case = small([0, 0, 0, 1])
    case.z[0, :, 3] = 0
    weight, bias, _, _, _ = case.fit()
    assert torch.equal(weight[0, 3], torch.zeros(2, dtype=torch.float64))
    grad = backward(case, weight)[0]
    case.z[0, :, 3] = 1e-9 * torch.randn(9, dtype=torch.float64)
    weight, bias, _, _, _ = case.fit()
    expected = implicit_gradients(case, weight, bias)[0]
    assert float(grad[0, :, 3].abs().min()) > 1e-3
    assert_gradient(grad, expected, 1e-7)


def test_gradient_of_an_unconverged_fit_is_not_the_gradient() -> None:
    """A few gradient steps leave a gap at which implicit differentiation is far off."""
    case = small([1, 1, 0, 0])
    converged = case.fit(tol=1e-15, max_iter=2000)
    early = case.fit(tol=1e-15, max_iter=2)
    assert float(early[2].min()) > 1e-2
    exact = backward(case, converged[0])[0]
    near = backward(case, case.fit(tol=1e-8)[0])[0]
    far = backward(case, early[0])[0]
    assert_gradient(near, exact, 1e-3)
    assert float((far - exact).norm()) > 0.1 * float(exact.norm())


def test_more_live_weights_than_rows() -> None:
    """With several outputs the support may exceed n; the Gram matrix alone is then singular."""
    case = heads_case([0, 1, 0, 0], (2, 8, 30, 4), 0.02, tensors=True, weighted=True)
    weight, bias, _, _, _ = case.fit(tol=1e-14, max_iter=100_000)
    assert int((weight != 0).any(2).sum(1).min()) > 8
    grads = backward(case, weight)
    expected = implicit_gradients(case, weight, bias)
    for k in (0, 1, 2, 4):
        assert_gradient(grads[k], expected[k], 1e-4)


def test_float32() -> None:
    case = small([1, 1, 1, 1])
    weight = case.fit(tol=1e-14)[0]
    exact = backward(case, weight)
    single = [x.float() for x in inputs_of(case)]
    z, y, s, *strengths = single
    low = Heads(z, y, strengths, case.scale, None, s)
    grads = reference.fit_heads_backward(
        *(x.float() for x in cotangents(*weight.shape)), weight.float(), *low.problem(), ALL
    )
    for grad, other in zip(grads, exact, strict=True):
        assert grad.dtype == torch.float32
        assert_gradient(grad.double(), other, 1e-5)


@pytest.mark.parametrize("scale", [[1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]], ids=scale_id)
@pytest.mark.parametrize("shape", [(0, 9, 5, 2), (2, 0, 5, 2)], ids=str)
def test_no_tasks_and_no_rows(shape: tuple[int, int, int, int], scale: list[float]) -> None:
    case = heads_case([0, 0, 0, 0], shape, tensors=True, weighted=True)
    case.scale = scale
    weight = case.fit()[0]
    grads = backward(case, weight)
    for grad, value in zip(grads, inputs_of(case), strict=True):
        assert torch.equal(grad, torch.zeros_like(value))
