"""Problems of more than 2^31 elements: their last programs, on tensors that exist in part."""

import pytest
import torch

import sparsedis_kernels as sk
from tests.ptx.sparse_memory import sparse_tensor
from tests.triton.implementations import executing

SHAPE = (3, 150_000_001, 5)
GROUPS = 300  # of the last task, fewer than the last two programs handle
LAYOUTS = {
    "dense": lambda: sparse_tensor(SHAPE, torch.bfloat16),
    "outputs_first": lambda: sparse_tensor((5, *SHAPE[:2]), torch.bfloat16).permute(1, 2, 0),
}
OPS = {
    "prox": lambda v: sk.prox(v, sk.Penalty(l1=0.2, group=0.5), backend="triton"),
    "scad": lambda v: sk.prox_scad(v, 0.5, backend="triton"),
}


def last_two(grid):
    return grid[0] - 2, 2


def value_and_gradient(op, v, seed):
    v = v.detach().requires_grad_()
    x = op(v)
    return x.detach(), torch.autograd.grad(x, v, seed)[0]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_far_end_is_that_of_a_small_problem(op, layout):
    far = [LAYOUTS[layout]() for _ in range(2)]
    assert far[0].numel() > 2**31
    near = torch.randn(2, 1, GROUPS, 5, dtype=torch.bfloat16)
    for a, values in zip(far, near, strict=True):
        a[-1:, -GROUPS:] = values
    with executing(80, blocks=last_two):
        ours = value_and_gradient(OPS[op], *far)
    with executing(80):
        expected = value_and_gradient(OPS[op], *near)
    torch.testing.assert_close([a[-1:, -GROUPS:] for a in ours], list(expected))


def test_feature_usage_far_from_the_start():
    T, M = 1030, 2**21
    w = sparse_tensor((T, M, 1), torch.bfloat16)
    assert w.numel() > 2**31
    w[:, -GROUPS:] = torch.randn(T, GROUPS, 1).relu().bfloat16()
    grad = torch.randn(M)
    with executing(80, blocks=last_two):
        magnitude, users, _ = torch.ops.sparsedis_triton.feature_usage(w)
        grad_w = torch.ops.sparsedis_triton.feature_usage_backward(grad, w)
    used = w[:, -GROUPS:, 0].float()
    torch.testing.assert_close(magnitude[-GROUPS:], used.sum(0))
    assert torch.equal(users[-GROUPS:], (used > 0).sum(0))
    expected = torch.where(used > 0, grad[-GROUPS:], 0).bfloat16()
    assert torch.equal(grad_w[-1, -GROUPS:, 0], expected[-1])
