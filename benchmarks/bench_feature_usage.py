"""Feature usage of (T, M, C) weights, against eager PyTorch."""

import pytest
import torch

import sparsedis_kernels as sk


def eager(weight: torch.Tensor) -> torch.Tensor:
    magnitude = weight.abs().sum(dim=(0, 2))
    return torch.special.entr(magnitude / magnitude.sum()).sum()


PROVIDERS = {
    "cpu": lambda w: sk.feature_usage(w, backend="cpu").entropy,
    "reference": lambda w: sk.feature_usage(w, backend="reference").entropy,
    "eager, entropy alone": eager,
}


@pytest.mark.parametrize("shape", [(100, 128, 5), (1000, 512, 10)], ids=str)
@pytest.mark.parametrize("provider", PROVIDERS)
def bench_feature_usage(timed, shape, provider):
    weight = torch.randn(shape)
    expected = eager(weight.double()).float()
    call = PROVIDERS[provider]
    timed(lambda: call(weight), expected, tasks=shape[0], bytes_moved=4 * weight.numel())
