"""fit_heads and its gradient by the CUDA library, on a device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sparsedis_kernels as sk
from tests.problems import LAYOUTS, heads_problem

pytestmark = pytest.mark.gpu

PENALTIES = {
    "ridge": sk.Penalty(ridge=0.1),
    "group": sk.Penalty(group=0.05),
    "sparse_group": sk.Penalty(l1=0.02, group=0.03),
    "nested": sk.Penalty(l1=0.01, group=0.01, shared=0.03),
}
losses = pytest.mark.parametrize("loss", ["squared", "multinomial"])


def targets(loss: str, y: Tensor) -> Tensor:
    """The targets, or as class probabilities."""
    return y if loss == "squared" else torch.softmax(3 * y, -1)


def solution(z: Tensor, y: Tensor, penalty: sk.Penalty, **how: Any) -> tuple[Tensor, Tensor]:
    """The weights, and the gradient in z of a function of them, on the CPU."""
    leaf = z.detach().requires_grad_()
    weight = sk.fit_heads(leaf, y, penalty, **how).weight
    (grad,) = torch.autograd.grad(weight.sin().sum(), leaf)
    return weight.detach().cpu(), grad.cpu()


@losses
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", PENALTIES)
def test_equals_the_cpu_kernels(library_device, kind, layout, loss):
    samples, penalty = LAYOUTS[layout](), PENALTIES[kind]
    y, options = targets(loss, samples.y), samples.keywords()
    there = {k: v.to(library_device) if isinstance(v, Tensor) else v for k, v in options.items()}
    how = {"loss": loss, "tol": 1e-12}
    on_device = solution(
        samples.z.to(library_device), y.to(library_device), penalty, backend="cuda", **there, **how
    )
    on_cpu = solution(samples.z, y, penalty, backend="cpu", **options, **how)
    for a, b in zip(on_device, on_cpu, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@losses
@pytest.mark.parametrize(("n", "M"), [(25, 64), (50, 512), (300, 700)])
def test_many_tasks_in_float32_meet_their_gap(library_device, n, M, loss):
    samples = heads_problem(2000, n, M, 3, dtype=torch.float32)
    z, y = samples.z.to(library_device), targets(loss, samples.y).to(library_device)
    fitted = sk.fit_heads(z, y, PENALTIES["group"], loss=loss, tol=1e-4, backend="cuda")
    gap = sk.duality_gap(
        samples.z, y.cpu(), fitted.weight.cpu(), PENALTIES["group"], loss=loss, backend="cpu"
    )
    assert float(gap.max()) <= 1.01e-4
    assert fitted.converged.all()


@losses
def test_coupled_tasks_beyond_the_blocks_that_run_at_a_time(library_device, loss):
    samples = heads_problem(3000, 25, 64, 3, dtype=torch.float32)
    z, y = samples.z.to(library_device), targets(loss, samples.y).to(library_device)
    penalty = PENALTIES["nested"]
    fitted = sk.fit_heads(z, y, penalty, loss=loss, tol=1e-3, backend="cuda")
    gap = sk.duality_gap(samples.z, y.cpu(), fitted.weight.cpu(), penalty, loss=loss, backend="cpu")
    assert fitted.converged.all()
    assert float(gap.max()) <= 1.01e-3
    again = sk.fit_heads(z, y, penalty, loss=loss, tol=1e-3, backend="cuda")
    assert torch.equal(fitted.weight, again.weight)
