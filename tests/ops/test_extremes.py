"""At the ends of the range the CPU kernels agree with the reference."""

import math

import pytest
import torch

import sparsedis_kernels as sk


def full(C, value):
    return torch.full((1, 1, C), value, requires_grad=True)


def gradients(x, inputs, seed=None):
    return torch.autograd.grad(x, inputs, torch.ones_like(x) if seed is None else seed)


def radial_at_zero(backend):
    """Without a strength the prox is the identity, at 0 too."""
    for prox in (sk.prox_mcp, sk.prox_scad, sk.prox_l0):
        v = full(2, 0.0)
        yield from gradients(prox(v, 0.0, backend=backend), v)


def radial_of_large_weights(backend):
    v, strength = full(2, 2e19), torch.tensor(1.0, requires_grad=True)
    yield from gradients(
        sk.prox_mcp(v, strength, backend=backend).square().sum(), (v, strength), torch.tensor(1.0)
    )


def infinite_gradients_of_zeros(backend, C, with_metric):
    """What comes back to an entry that is 0 reaches no other."""
    v = torch.zeros(2, 3, C)
    v[0, 0, 0], v[1, 0, 0] = 3, 2
    v.requires_grad_()
    levels = [torch.tensor(x, requires_grad=True) for x in (0.3, 0.2, 0.1)]
    l1, shared, ridge = levels
    metric = torch.full_like(v, 1.5) if with_metric else None
    for coupled in (0.0, shared):
        penalty = sk.Penalty(l1=l1, group=0.1, shared=coupled, ridge=ridge, nonneg=True)
        x = sk.prox(v, penalty, metric=metric, backend=backend)
        seed = torch.ones_like(x).masked_fill(x == 0, math.inf)
        inputs = (v, l1, ridge, shared) if coupled is shared else (v, l1, ridge)
        yield from gradients(x, inputs, seed)


def norms_beyond_the_range(backend):
    for penalty in (sk.Penalty(group=1e20), sk.Penalty(group=1e25), sk.Penalty(shared=1e20)):
        for C in (2, 7, 200, 5000):
            yield sk.prox(full(C, 2e20).detach(), penalty, backend=backend) / 1e20


def steps_beyond_the_range(backend):
    """Products of weights and metrics whose squares are beyond the range, beside one in it."""
    for group in (0.0, 1e18):
        for C in (2, 7):
            w, second = torch.ones(2, 3, C), torch.ones(2, 3, C)
            w[:, 1], second[:, 1] = 2e14, 1e12
            moments, step = ([torch.zeros_like(w)], [second]), [torch.tensor(9.0)]
            penalty = sk.Penalty(group=group, shared=1e20)
            sk.prox_adamw_(
                [w],
                [torch.zeros_like(w)],
                *moments,
                step,
                penalty,
                lr=1.0,
                weight_decay=0.0,
                backend=backend,
            )
            yield w / 1e14


def levels_of_next_to_nothing(backend):
    for penalty in (sk.Penalty(group=1e-24), sk.Penalty(shared=1e-24)):
        for C in (2, 7, 200, 5000):
            yield sk.prox(full(C, 1e-23).detach(), penalty, backend=backend) / 1e-23


def products_beyond_the_range(backend):
    v, group = full(2, 1e10), torch.tensor(1e9, requires_grad=True)
    x = sk.prox(v, sk.Penalty(group=group), backend=backend)
    for grad in gradients(x, (v, group), torch.full_like(x, 1e30)):
        yield grad / 1e30


def slope_of_a_faint_feature(backend):
    w = torch.tensor([[[0.0]], [[1e-37]]], requires_grad=True)
    yield from gradients(sk.penalty_value(w, sk.Penalty(shared=100.0), backend=backend), w)


def strengths_of_linf(backend):
    yield sk.prox_linf(torch.ones(1, 1, 3), torch.tensor(math.nan), backend=backend)
    v = torch.linspace(-1, 2, 390, dtype=torch.float64).view(1, 3, 130)
    yield sk.prox_linf(v, 0.0, metric=v.abs() + 0.3, backend=backend) - v


def one_design_without_a_task(backend):
    z = torch.ones(5, 4, requires_grad=True)
    fit = sk.fit_heads(z, torch.zeros(0, 5, 2), sk.Penalty(ridge=0.1), backend=backend)
    yield from gradients(fit.weight.sum(), z)


CASES = [
    radial_at_zero,
    radial_of_large_weights,
    norms_beyond_the_range,
    steps_beyond_the_range,
    levels_of_next_to_nothing,
    products_beyond_the_range,
    slope_of_a_faint_feature,
    strengths_of_linf,
    one_design_without_a_task,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_they_agree(case):
    torch.testing.assert_close(list(case("cpu")), list(case("reference")), equal_nan=True)


@pytest.mark.parametrize("with_metric", [False, True])
@pytest.mark.parametrize("C", [2, 7, 130])
def test_infinite_gradients_of_zeros_reach_no_other_entry(C, with_metric):
    ours, theirs = (
        list(infinite_gradients_of_zeros(backend, C, with_metric))
        for backend in ("cpu", "reference")
    )
    assert all(grad.isfinite().all() for grad in theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_strength_of_next_to_nothing_changes_no_bit_of_other_groups():
    v = torch.randn(200, 1, 7)
    alone = sk.prox(v, sk.Penalty(group=1.0), backend="cpu")
    group = torch.tensor([1.0, 1e-16]).repeat(200)[:, None]
    beside = sk.prox(v.repeat_interleave(2, 0), sk.Penalty(group=group), backend="cpu")
    assert torch.equal(beside[::2], alone)
