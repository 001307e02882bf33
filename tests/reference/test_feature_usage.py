from __future__ import annotations

import pytest
import torch

from sparsedis_kernels import reference

from .helpers import assert_gradient, directional


def weights() -> torch.Tensor:
    w = torch.zeros(3, 4, 2, dtype=torch.float64)
    w[0, 0] = torch.tensor([1.0, -2.0])
    w[0, 1] = torch.tensor([0.0, 0.5])
    w[2, 0] = torch.tensor([-0.25, 0.0])
    return w


def test_counts() -> None:
    magnitude, tasks, features = reference.feature_usage(weights())
    assert magnitude.tolist() == [3.25, 0.5, 0.0, 0.0]
    assert tasks.tolist() == [2, 1, 0, 0]
    assert features.tolist() == [2, 0, 1]
    assert tasks.dtype == features.dtype == torch.int64


def test_backward() -> None:
    w = torch.randn(3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cotangent = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    grad = reference.feature_usage_backward(cotangent, w)
    expected = directional(lambda x: reference.feature_usage(x)[0], w, cotangent, 1e-6)
    assert_gradient(grad, expected)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_unused_features_get_exactly_0(value: float) -> None:
    cotangent = torch.tensor([2.0, 1.0, value, -value], dtype=torch.float64)
    grad = reference.feature_usage_backward(cotangent, weights())
    expected = torch.zeros_like(grad)
    expected[0, 0] = torch.tensor([2.0, -2.0])
    expected[0, 1, 1] = 1
    expected[2, 0, 0] = -2
    assert torch.equal(grad, expected)


def test_no_tasks() -> None:
    magnitude, tasks, features = reference.feature_usage(torch.zeros(0, 4, 2))
    assert magnitude.tolist() == [0.0] * 4
    assert tasks.tolist() == [0] * 4
    assert features.shape == (0,)
