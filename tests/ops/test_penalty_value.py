import pytest
import torch

import sparsedis_kernels as sk
from tests.problems import LEVEL_SETS, LEVELS, random_penalty

F64 = torch.float64


@pytest.mark.parametrize("levels", LEVEL_SETS, ids="+".join)
@pytest.mark.parametrize("form", ["float", "task", "feature", "group"])
def test_equals_the_formula(backend, levels, form):
    w = torch.randn(4, 5, 3, dtype=F64)
    penalty = random_penalty(levels, 4, 5, like=form)
    group = [torch.as_tensor(getattr(penalty, k), dtype=F64) for k in ("l1", "group", "ridge")]
    l1, norm, ridge = (g.expand(4, 5) for g in group)
    expected = (
        (l1 * w.abs().sum(dim=2)).sum()
        + (norm * w.norm(dim=2)).sum()
        + (torch.as_tensor(penalty.shared, dtype=F64) * w.norm(dim=(0, 2))).sum()
        + (ridge / 2 * w.square().sum(dim=2)).sum()
    )
    torch.testing.assert_close(sk.penalty_value(w, penalty, backend=backend), expected)


def test_negative_weights_are_infinite_under_nonneg(backend):
    w = torch.rand(2, 3, 2)
    assert torch.isfinite(sk.penalty_value(w, sk.Penalty(l1=1.0, nonneg=True), backend=backend))
    w[1, 1, 1] = -1e-9
    assert torch.isinf(sk.penalty_value(w, sk.Penalty(l1=1.0, nonneg=True), backend=backend))


def test_gradient_at_zero_rows_is_the_subgradient_zero(backend):
    w = torch.zeros(2, 3, 2, requires_grad=True)
    value = sk.penalty_value(w, sk.Penalty(l1=1.0, group=1.0, shared=1.0), backend=backend)
    (grad,) = torch.autograd.grad(value, w)
    assert (grad == 0).all()


def test_large_arrays_do_not_depend_on_threads():
    w = torch.randn(300, 200, 3)
    penalty = sk.Penalty(l1=0.1, group=0.2, shared=0.3, ridge=0.4)
    alone = sk.penalty_value(w, penalty)
    torch.set_num_threads(2)
    assert torch.equal(sk.penalty_value(w, penalty), alone)
    exact = sk.penalty_value(w.double(), penalty)
    torch.testing.assert_close(alone.double(), exact, rtol=1e-6, atol=0)


def value_and_gradients(w, strengths, backend, dtype):
    leaves = [w.to(dtype).requires_grad_()] + [s.to(dtype).requires_grad_() for s in strengths]
    penalty = sk.Penalty(**dict(zip(LEVELS, leaves[1:], strict=True)))
    value = sk.penalty_value(leaves[0], penalty, backend=backend)
    return value.detach(), *torch.autograd.grad(3 * value, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("C", [1, 2, 5, 7, 10, 23, 130, 600])
def test_any_number_of_outputs_agrees_with_the_reference(C, dtype):
    """Tasks fill no block, features no vector; a group is zero, others are tiny or huge."""
    torch.manual_seed(0)
    w = torch.randn(9, 21, C, dtype=dtype)
    w[2, 3], w[1, :, 0] = 0, 0
    w[4, 5] *= 1e-30
    w[8, 20] *= 1e15
    strengths = [getattr(random_penalty(LEVELS, 9, 21, dtype=dtype), level) for level in LEVELS]
    ours = value_and_gradients(w, strengths, "cpu", dtype)
    exact = value_and_gradients(w, strengths, "reference", F64)
    for actual, expected in zip(ours, exact, strict=True):
        near = torch.finfo(dtype).eps * 32 * expected.abs().clamp_min(1e-36)
        assert ((actual.double() - expected).abs() <= near).all()


def test_nan_reaches_the_value_and_the_gradient_of_its_group_alone():
    w = torch.randn(3, 5, 10)
    w[1, 2, 3] = torch.nan
    w.requires_grad_()
    value = sk.penalty_value(w, sk.Penalty(l1=0.1, group=0.2, ridge=0.3), backend="cpu")
    (grad,) = torch.autograd.grad(value, w)
    assert value.isnan()
    assert grad.isnan().any(dim=2).nonzero().tolist() == [[1, 2]]
