"""The prox of (T, M, C) weights, against eager PyTorch."""

import pytest
import torch

import sparsedis_kernels as sk

SHAPES = [(100, 128, 5), (1000, 512, 10)]


def eager(v: torch.Tensor, penalty: sk.Penalty) -> torch.Tensor:
    """The composition of levels in plain PyTorch, the best library formulation for one level."""
    x = torch.nn.functional.softshrink(v, penalty.l1) if penalty.l1 else v
    if penalty.group:
        x = x * (1 - penalty.group / x.norm(dim=2, keepdim=True).clamp(min=1e-30)).clamp(min=0)
    if penalty.shared:
        norm = x.norm(dim=(0, 2), keepdim=True).clamp(min=1e-30)
        x = x * (1 - penalty.shared / norm).clamp(min=0)
    return x


PROVIDERS = {
    "cpu": lambda v, penalty: sk.prox(v, penalty, backend="cpu"),
    "reference": lambda v, penalty: sk.prox(v, penalty, backend="reference"),
    "eager": eager,
}
PENALTIES = {
    "group": sk.Penalty(group=0.5),
    "sparse group": sk.Penalty(l1=0.2, group=0.5),
    "shared": sk.Penalty(shared=5.0),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", PENALTIES)
@pytest.mark.parametrize("provider", PROVIDERS)
def bench_prox(timed, shape, kind, provider):
    v = torch.randn(shape)
    penalty = PENALTIES[kind]
    expected = sk.prox(v.double(), penalty, backend="reference").float()
    call = PROVIDERS[provider]
    timed(lambda: call(v, penalty), expected, tasks=shape[0], bytes_moved=8 * v.numel())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("provider", PROVIDERS)
def bench_prox_backward(timed, shape, provider):
    v, seed = torch.randn(shape).requires_grad_(), torch.randn(shape)
    penalty = PENALTIES["sparse group"]
    call = PROVIDERS[provider]
    if provider == "reference":
        pytest.skip("its backward is an op of its own, timed through the public function on cpu")
    x = call(v, penalty)
    (expected,) = torch.autograd.grad(eager(v, penalty), v, seed)
    timed(
        lambda: torch.autograd.grad(x, v, seed, retain_graph=True)[0],
        expected,
        tasks=shape[0],
        bytes_moved=12 * v.numel(),
    )
