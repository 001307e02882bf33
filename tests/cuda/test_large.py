"""More than 65,535 tasks with more than 2^31 numbers: the blocks that end with the last of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import sparsedis_kernels as sk
from tests.cuda.executed import executing
from tests.problems import heads_problem
from tests.ptx.sparse_memory import sparse_tensor

T, N, M, C = 671_090, 200, 16, 1  # T x N x M is more than 2^31
LAST = 2
PENALTIES = {"ridge": sk.Penalty(ridge=0.1), "group": sk.Penalty(group=0.1)}


def value_and_gradients(
    leaves: Sequence[Tensor], penalty: sk.Penalty, seed: Tensor, **how
) -> list[Tensor]:
    """Of the last tasks: weight, lambda_max, gradients of leaves, the fit's gap, duality_gap."""
    z, y = (a.detach().requires_grad_() for a in leaves)
    fit = sk.fit_heads(z, y, penalty, tol=1e-5, on_error="flag", **how)
    weight = fit.weight.detach()
    largest = sk.lambda_max(z.detach(), y.detach(), sk.Penalty(group=1.0), **how)
    gap = sk.duality_gap(z.detach(), y.detach(), weight, penalty, **how)
    grads = torch.autograd.grad(fit.weight, (z, y), seed)
    return [a[-LAST:] for a in (weight, largest, *grads, fit.gap, gap)]


@pytest.mark.filterwarnings("ignore:fit_heads")
@pytest.mark.parametrize("kind", PENALTIES)
def test_the_far_end_is_that_of_a_small_problem(kind: str) -> None:
    near = heads_problem(LAST, N, M, C, dtype=torch.float32)
    far = [sparse_tensor((T, *a.shape[1:]), torch.float32) for a in (near.z, near.y)]
    assert far[0].numel() > 2**31
    for large, small in zip(far, (near.z, near.y), strict=True):
        large[-LAST:] = small
    seed = torch.randn(T, M, C)
    with executing(80, (96 * 1024, T), blocks=lambda grid: ((T - LAST) % grid, LAST)):
        *ours, gap, report = value_and_gradients(far, PENALTIES[kind], seed, backend="cuda")
    *expected, _, _ = value_and_gradients(
        (near.z, near.y), PENALTIES[kind], seed[-LAST:], backend="cpu"
    )
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
    assert float(gap.max()) <= 1e-5
    torch.testing.assert_close(gap, report, rtol=1e-2, atol=1e-7)
