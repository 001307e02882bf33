import pytest
import torch

import sparsedis_kernels as sk
from tests.problems import LEVEL_SETS, random_penalty

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
