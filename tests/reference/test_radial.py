from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsedis_kernels import reference

from .helpers import assert_gradient, directional

KINDS = pytest.mark.parametrize("kind", [0, 1, 2], ids=["mcp", "scad", "l0"])


def case(T: int = 4, M: int = 5, C: int = 3, seed: int = 0) -> list[Tensor]:
    """Radii on every branch of all three penalties."""
    g = torch.Generator().manual_seed(seed)
    v = torch.randn(T, M, C, generator=g, dtype=torch.float64)
    v = v * torch.linspace(0.05, 3, M, dtype=torch.float64)[:, None]
    strength, step, shape = (torch.rand(T, M, generator=g, dtype=torch.float64) for _ in range(3))
    return [v, 0.5 + strength, 0.3 + 0.6 * step, 2.5 + shape]


def penalty(r: Tensor, lam: Tensor, shape: Tensor, kind: int) -> Tensor:
    if kind == 0:
        return torch.where(r <= shape * lam, lam * r - r**2 / (2 * shape), shape * lam**2 / 2)
    if kind == 1:
        middle = (2 * shape * lam * r - r**2 - lam**2) / (2 * (shape - 1))
        tail = lam**2 * (shape + 1) / 2
        return torch.where(r <= lam, lam * r, torch.where(r <= shape * lam, middle, tail))
    return lam * (r > 0)


@KINDS
def test_minimises_its_objective_on_a_grid(kind: int) -> None:
    v, lam, eta, shape = case(6, 8, 3)
    x = reference.radial_prox(v, lam, eta, shape, kind)
    r = v.norm(dim=2)
    grid = torch.linspace(0, 1.5, 150001, dtype=torch.float64)[:, None, None] * r
    value = (grid - r).square() / 2 + eta * penalty(grid, lam, shape, kind)
    best = grid.gather(0, value.argmin(0, keepdim=True))[0]
    radius = x.norm(dim=2)
    # The objective is strongly convex on the path, so half a grid step bounds the distance.
    assert bool(((best - radius).abs() <= 1e-5 * r).all())
    assert torch.allclose(x * r[..., None], v * radius[..., None], atol=1e-14)
    assert 0 < int((radius == 0).sum()) < radius.numel()
    assert bool((x == v).all(2).any())


@KINDS
def test_backward(kind: int) -> None:
    inputs = case()
    x = reference.radial_prox(*inputs, kind)
    cotangent = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(3))
    grads = reference.radial_prox_backward(cotangent, *inputs, kind)
    for i, grad in enumerate(grads):

        def moved(value: Tensor, i: int = i) -> Tensor:
            return reference.radial_prox(*inputs[:i], value, *inputs[i + 1 :], kind)

        assert_gradient(grad, directional(moved, inputs[i], cotangent, 1e-6))


@KINDS
def test_zero_rows_and_zero_strength(kind: int) -> None:
    v, lam, eta, shape = case()
    v[0] = 0
    lam[0, 2:] = 0
    lam[1] = 0
    x = reference.radial_prox(v, lam, eta, shape, kind)
    assert torch.equal(x[:2], v[:2])
    grads = reference.radial_prox_backward(torch.ones_like(v), v, lam, eta, shape, kind)
    assert all(bool(g.isfinite().all()) for g in grads)
    # The prox is the identity where the strength is 0, at v = 0 too.
    assert torch.equal(grads[0][0, 2:], torch.ones_like(v[0, 2:]))
    assert torch.equal(grads[0][0, :2], torch.zeros_like(v[0, :2]))
    assert torch.equal(grads[0][1], torch.ones_like(v[1]))


@KINDS
@pytest.mark.parametrize("size", [1e17, 1e-18])
def test_float32_extremes_scale(kind: int, size: float) -> None:
    v, lam, eta, shape = case()
    expected = reference.radial_prox(v, lam, eta, shape, kind)
    # The strength of L0 scales like a square, and must itself stay inside float32.
    power = size**2 if kind == 2 else size
    scaled = [a.float() for a in (v * size, lam * power, eta, shape)]
    x = reference.radial_prox(*scaled, kind)
    assert float((x.double() / size - expected).abs().max()) < 1e-6 * float(v.abs().max())


def test_infinite_shape_is_the_convex_limit() -> None:
    v, lam, eta, shape = case()
    shape = torch.full_like(shape, torch.inf)
    x = reference.radial_prox(v, lam, eta, shape, 0)
    soft = reference.prox(v, None, lam * eta, None, None, None, [0.0, 1.0, 0.0, 0.0], False)
    assert torch.allclose(x, soft, rtol=0, atol=1e-15)


@KINDS
def test_no_tasks(kind: int) -> None:
    inputs = case(T=0)
    assert reference.radial_prox(*inputs, kind).shape == (0, 5, 3)
    grads = reference.radial_prox_backward(inputs[0], *inputs, kind)
    assert [tuple(g.shape) for g in grads] == [(0, 5, 3), (0, 5), (0, 5), (0, 5)]
