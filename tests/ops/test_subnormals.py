"""Head solves and optimiser steps on a CPU take subnormal numbers for zeros, and leave the caller's
arithmetic as it was."""

import functools
import platform

import pytest
import torch

import sparsedis_kernels as sk

SUBNORMAL = 1e-40  # the least normal number of float32 is 1.2e-38

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="only x86 is slow with subnormal numbers"
)


@pytest.fixture(autouse=True)
def unchanged():
    yield
    assert torch.full((100,), SUBNORMAL).mul(0.5).count_nonzero() == 100


@pytest.mark.parametrize("optimizer", [
    functools.partial(sk.optim.ProxSGD, momentum=0.9),
    functools.partial(sk.optim.ProxSGD, momentum=0.9, nesterov=True),
    functools.partial(sk.optim.ProxAdamW, betas=(0.9, 0.9)),
])  # fmt: skip
@pytest.mark.parametrize("level", ["group", "shared"])
def test_moments_without_gradients_decay_to_zero(optimizer, level: str) -> None:
    weight = torch.nn.Parameter(torch.ones(10, 8, 5))
    optimizer = optimizer([weight], lr=1e-3, penalty=sk.Penalty(**{level: 1e-3}))
    for step in range(1000):
        weight.grad = torch.full_like(weight, float(step == 0))
        optimizer.step()
    moments = [x for x in optimizer.state[weight].values() if x.shape == weight.shape]
    assert moments
    assert not any(x.count_nonzero() for x in moments)


def test_targets_are_taken_for_zeros() -> None:
    z, y = torch.eye(5).expand(3, 5, 5), torch.full((3, 5, 2), SUBNORMAL)
    y[:, 0] = 0  # not constant, or the intercept takes them
    assert sk.lambda_max(z, y, sk.Penalty(group=1.0), backend="cpu").tolist() == [0, 0, 0]
