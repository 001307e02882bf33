from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparsedis_kernels import reference

from .helpers import ALL_SCALES, assert_gradient, directional, prox_case, scale_id

scales = pytest.mark.parametrize("scale", ALL_SCALES, ids=scale_id)


@scales
@pytest.mark.parametrize("tensors", [False, True], ids=["ones", "tensors"])
def test_value_from_the_definition(scale: list[float], tensors: bool) -> None:
    case = prox_case(scale, tensors=tensors)
    w, (T, M, _) = case.v, case.v.shape
    expected = 0.0
    for m in range(M):
        for t in range(T):
            row = w[t, m]
            sizes = (row.abs().sum(), row.norm(), None, row.square().sum() / 2)
            for k in (0, 1, 3):
                strength = 1.0 if not tensors else case.strengths[k][t, m]
                expected += float(case.scale[k] * strength * sizes[k])
        strength = 1.0 if not tensors else case.strengths[2][m]
        expected += float(case.scale[2] * strength * w[:, m].norm())
    value = reference.penalty_value(w, *case.strengths, case.scale, False)
    assert value.shape == ()
    assert math.isclose(float(value), expected, rel_tol=1e-14, abs_tol=0)


@scales
def test_backward(scale: list[float]) -> None:
    case = prox_case(scale)
    inputs = [case.v, *case.strengths]
    cotangent = torch.tensor(-1.7, dtype=torch.float64)
    grads = reference.penalty_value_backward(cotangent, *inputs, case.scale, [True] * 5)
    for i, grad in enumerate(grads):

        def moved(value: Tensor, i: int = i) -> Tensor:
            new = [*inputs[:i], value, *inputs[i + 1 :]]
            return reference.penalty_value(*new, case.scale, False)

        # The value is of order 10, so differences of step 1e-4 lose 1e-11 / 1e-4 at most.
        assert_gradient(grad, directional(moved, inputs[i], cotangent, 1e-5))


def test_negative_entries_are_infinite_with_the_sign_constraint() -> None:
    case = prox_case([1, 1, 1, 1])
    args = (*case.strengths, case.scale)
    assert float(reference.penalty_value(case.v, *args, True)) == math.inf
    positive = case.v.abs()
    value = reference.penalty_value(positive, *args, True)
    assert torch.equal(value, reference.penalty_value(positive, *args, False))


def test_subgradient_is_0_at_kinks() -> None:
    case = prox_case([1, 1, 1, 1])
    w = case.v.clone()
    w[:, 2] = 0
    one = torch.ones((), dtype=w.dtype)
    grads = reference.penalty_value_backward(one, w, *case.strengths, case.scale, [True] * 5)
    assert torch.equal(grads[0][:, 2], torch.zeros_like(w[:, 2]))
    assert all(bool(g.isfinite().all()) for g in grads)


@pytest.mark.parametrize("size", [1e20, 1e-25])
def test_norms_of_float32_extremes(size: float) -> None:
    case = prox_case([1, 1, 1, 0])
    expected = reference.penalty_value(case.v, *case.strengths, case.scale, False)
    strengths = [s.float() for s in case.strengths]
    w = (case.v * size).float()
    value = reference.penalty_value(w, *strengths, case.scale, False)
    assert math.isclose(float(value) / size, float(expected), rel_tol=1e-6)
    grad = reference.penalty_value_backward(
        torch.ones(()), w, *strengths, case.scale, [True] + [False] * 4
    )[0]
    exact = reference.penalty_value_backward(
        torch.ones(()).double(), case.v, *case.strengths, case.scale, [True] + [False] * 4
    )[0]
    assert torch.allclose(grad.double(), exact, rtol=1e-6)


def test_no_tasks() -> None:
    case = prox_case([1, 1, 1, 1], shape=(0, 4, 3))
    value = reference.penalty_value(case.v, *case.strengths, case.scale, True)
    assert torch.equal(value, torch.zeros((), dtype=torch.float64))
