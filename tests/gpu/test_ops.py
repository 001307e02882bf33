"""Values and gradients on a CUDA device, against the reference in float64 on the CPU."""

import pytest
import torch

from tests.gpu.cases import CASES, KERNELS, moved, with_gradients
from tests.problems import assert_as_accurate

pytestmark = pytest.mark.gpu

F64, F32 = torch.float64, torch.float32
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_kernel = pytest.mark.parametrize("case", KERNELS.values(), ids=KERNELS)
# Ragged; one entry a group; entries in the registers of a thread; a group longer than a program.
SHAPES = [(7, 37, 5), (3, 70, 1), (9, 33, 4), (2, 3, 3000)]


def ours(case, inputs):
    return with_gradients(lambda *leaves: case.call("triton", *leaves), inputs)


def reference(case, inputs):
    return with_gradients(lambda *leaves: case.call("reference", *leaves), inputs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_case
def test_float64_equals_the_reference(device, case, shape):
    inputs = case.inputs(shape)
    expected = reference(case, inputs)
    for actual, exact in zip(ours(case, moved(inputs, device, F64)), expected, strict=True):
        torch.testing.assert_close(actual.cpu(), exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_case
def test_float32_is_as_accurate_as_the_reference(device, case, shape):
    narrow = moved(case.inputs(shape), "cpu", F32)
    exact = reference(case, moved(narrow, "cpu", F64))
    theirs, actual = reference(case, narrow), ours(case, moved(narrow, device, F32))
    for a, b, c in zip(actual, theirs, exact, strict=True):
        if c.is_floating_point():
            assert_as_accurate(a.cpu(), b, c)
        else:
            assert torch.equal(a.cpu(), c)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_kernel
def test_half_precision_is_computed_in_float32(device, case, dtype):
    v, *further = moved(case.inputs((7, 37, 5)), device, F32)
    half = v.to(dtype)
    wide = case.call("triton", half.float(), *further)
    for narrow, exact in zip(case.call("triton", half, *further), wide, strict=True):
        torch.testing.assert_close(narrow, exact.to(narrow.dtype))


@every_kernel
def test_strided_weights(device, case):
    inputs = moved(case.inputs((9, 33, 4)), device, F64)
    v, *further = inputs
    strided = v.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    for a, b in zip(ours(case, [strided, *further]), ours(case, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@every_kernel
def test_compiles_to_one_graph(device, case, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *leaves: case.call("triton", *leaves), fullgraph=True, dynamic=dynamic
    )
    for shape in [(7, 37, 5), (6, 20, 3)]:
        inputs = moved(case.inputs(shape), device, F64)
        traced = with_gradients(compiled, inputs)
        for a, b in zip(traced, ours(case, inputs), strict=True):
            torch.testing.assert_close(a, b)


@every_case
def test_repeats_bit_for_bit(device, case):
    inputs = moved(case.inputs((60, 70, 5)), device, F32)
    first = ours(case, inputs)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(ours(case, inputs), first, strict=True))
