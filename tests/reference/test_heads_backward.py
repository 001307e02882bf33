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
