from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsedis_kernels import reference

from .helpers import ALL_SCALES, Heads, assert_gradient, directional, heads_case, scale_id

scales = pytest.mark.parametrize("scale", ALL_SCALES, ids=scale_id)
signs = pytest.mark.parametrize("nonneg", [False, True], ids=["signed", "nonneg"])
intercepts = pytest.mark.parametrize("fit_intercept", [True, False], ids=["bias", "no-bias"])
NAMES = ("z", "y", "sample_weight", "l1", "group", "shared", "ridge")


def small(scale: list[float], **options: object) -> Heads:
    shape = options.pop("shape", (2, 9, 5, 2))
    return heads_case(scale, shape, 0.15, tensors=True, weighted=True, **options)


def cotangents(case: Heads) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(7)
    T, M, C = case.y.shape[0], case.z.shape[-1], case.y.shape[-1]
    T = T if case.offsets is None else len(case.offsets) - 1
    return tuple(torch.randn(s, generator=g, dtype=torch.float64) for s in ((T, M, C), (T, C)))


def inputs_of(case: Heads) -> list[Tensor | None]:
    return [case.z, case.y, case.sample_weight, *case.strengths]


def with_inputs(case: Heads, inputs: list[Tensor | None]) -> Heads:
    z, y, s, *strengths = inputs
    return Heads(z, y, strengths, case.scale, case.offsets, s, case.nonneg, case.fit_intercept)


def backward(case: Heads, weight: Tensor, grads: tuple[Tensor, Tensor], needs: list[bool]) -> tuple:
    return reference.fit_heads_backward(*grads, weight, *case.problem(), needs)


def check(case: Heads, names: tuple[str, ...] = NAMES, rtol: float = 2e-6) -> None:
    """Compare every gradient with differences of tight fits, started at the solution."""
    weight, _, _, _, status = case.fit(tol=1e-15)
    cotangent = cotangents(case)
    actual = backward(case, weight, cotangent, [True] * 7)
    inputs = inputs_of(case)
    for i, name in enumerate(NAMES):
        if inputs[i] is None or name not in names or (i > 2 and case.scale[i - 3] == 0):
            continue

        def loss(value: Tensor, i: int = i) -> Tensor:
            moved = with_inputs(case, [*inputs[:i], value, *inputs[i + 1 :]])
            w, b, _, _, _ = moved.fit(tol=1e-16, max_iter=3000, init=weight)
            return (cotangent[0] * w).sum() + (cotangent[1] * b).sum()

        one = torch.ones((), dtype=torch.float64)
        assert_gradient(actual[i], directional(loss, inputs[i], one, 1e-5), rtol)


@scales
@signs
@intercepts
def test_backward(scale: list[float], nonneg: bool, fit_intercept: bool) -> None:
    check(small(scale, nonneg=nonneg, fit_intercept=fit_intercept))
