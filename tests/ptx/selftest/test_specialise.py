"""Arguments of Triton kernels: what the launcher makes constant, marks, converts and refuses."""

import pytest
import torch

from tests.ptx.execute import LaunchError
from tests.ptx.ptx_types import PtxError

triton = pytest.importorskip("triton")
tl = triton.language
triton_run = pytest.importorskip("tests.ptx.triton_run")
compile_triton, launch = triton_run.compile_triton, triton_run.launch


@triton.jit
def axpy(x_ptr, y_ptr, n, alpha, bias_ptr, BLOCK: tl.constexpr, SIGN: tl.constexpr = 1):
    """y = SIGN * alpha * x, plus bias where there is one."""
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    y = SIGN * alpha * tl.load(x_ptr + offsets, mask=mask)
    if bias_ptr is not None:
        y += tl.load(bias_ptr + offsets, mask=mask)
    tl.store(y_ptr + offsets, y, mask=mask)


@triton.jit
def annotated(
    out_ptr,
    a: "fp64",  # noqa: F821 (Triton's names of types)
    b: tl.float64,
    c: tl.int64,
    d: tl.bfloat16,
    e: tl.float16,
    f: tl.int1,
    g: tl.int8,
):
    tl.store(out_ptr, a + b + c.to(tl.float64))
    tl.store(out_ptr + 1, d.to(tl.float64) + e.to(tl.float64))
    tl.store(out_ptr + 2, tl.where(f, 1.0, 0.0).to(tl.float64) + g)
    tl.static_assert(a.dtype == tl.float64)
    tl.static_assert(c.dtype == tl.int64)


@triton.jit
def scalars(out_ptr, flag, small, wide, real, pair):
    tl.static_assert(small.dtype == tl.int32)
    tl.static_assert(wide.dtype == tl.int64)
    tl.static_assert(real.dtype == tl.float32)
    tl.store(out_ptr, small + wide + pair[0] + tl.where(flag, 1000, 0))
    tl.store(out_ptr + 1, real.to(tl.int64))


@triton.jit
def null_pointer(out_ptr, x_ptr: tl.pointer_type(tl.float32)):
    tl.store(out_ptr, tl.load(x_ptr))


@triton.jit
def not_specialised(x_ptr, n, m):
    tl.store(x_ptr + tl.arange(0, 4), n + m)


def signature_of(fn, *args, **keywords):
    return compile_triton(fn, args, **keywords).src.signature


def attributes_of(fn, *args, **keywords):
    marked = compile_triton(fn, args, **keywords).src.attrs
    return sorted(path[0] for path, attributes in marked.items() if attributes)


def test_types_and_marks():
    x = torch.zeros(65)
    expected = {"x_ptr": "*fp32", "y_ptr": "*fp32", "n": "i32", "alpha": "fp32"}
    constants = dict.fromkeys(("bias_ptr", "BLOCK", "SIGN"), "constexpr")
    assert signature_of(axpy, x, x, 64, 2.0, None, BLOCK=64) == expected | constants
    assert attributes_of(axpy, x, x, 64, 2.0, None, BLOCK=64) == [0, 1, 2]
    assert attributes_of(axpy, x[1:], x, 63, 2.0, x, BLOCK=64) == [1, 4]
    assert signature_of(axpy, x, x, 1, 1.0, x, BLOCK=64)["n"] == "constexpr"


@pytest.mark.parametrize("bias", [False, True])
def test_none_is_a_constant(bias):
    x, y = torch.randn(100), torch.zeros(100)
    b = torch.randn(100) if bias else None
    stats = launch(axpy, (2,), [x, y, 100, 2.0, b], num_warps=1, BLOCK=64)
    torch.testing.assert_close(y, 2 * x + b if bias else 2 * x)
    assert stats.bytes_loaded == (800 if bias else 400)


def test_annotated_scalars():
    out, third = torch.zeros(3, dtype=torch.float64), 1 / 3
    launch(annotated, (1,), [out, third, 16, 2**40, third, 1, True, -3])
    bf16_truncated = 170 / 512  # 171 / 512 is nearer
    assert out.tolist() == [third + 16 + 2**40, bf16_truncated + 1, -2.0]


def test_an_annotated_integer_is_no_constant():
    """One that is 1 stays a 64-bit argument; a float given as an int is not marked divisible."""
    out = torch.zeros(3, dtype=torch.float64)
    arguments = [out, 16, 16.0, 1, 1.0, 1.0, False, 1]
    assert signature_of(annotated, *arguments)["c"] == "i64"
    assert attributes_of(annotated, *arguments) == [0]
    launch(annotated, (1,), arguments)
    assert out.tolist() == [33, 2, 1]


def test_plain_scalars_and_tuples():
    out = torch.zeros(2, dtype=torch.int64)
    launch(scalars, (1,), [out, True, 7, 2**35, 3.0, (5, 1)])
    assert out.tolist() == [7 + 2**35 + 5 + 1000, 3]


def test_keywords_in_any_order():
    x, y = torch.randn(64), torch.zeros(64)
    launch(axpy, (1,), SIGN=-1, BLOCK=64, alpha=2.0, bias_ptr=None, n=64, y_ptr=y, x_ptr=x)
    torch.testing.assert_close(y, -2 * x)
    launch(axpy, lambda meta: (triton.cdiv(meta["n"], 32),), [x, 64, 3.0, None, 32], y_ptr=y)
    torch.testing.assert_close(y, 3 * x)


def test_compile_options():
    x = torch.zeros(64)
    compiled = compile_triton(axpy, [x, x, 64, 1.0, None], num_warps=2, maxnreg=32, BLOCK=64)
    assert (compiled.metadata.num_warps, compiled.metadata.maxnreg) == (2, 32)
    assert ".maxnreg 32" in compiled.asm["ptx"]


def test_a_null_pointer_is_out_of_bounds():
    assert signature_of(null_pointer, torch.zeros(1), None)["x_ptr"] == "*fp32"
    with pytest.raises(LaunchError, match="load out of bounds"):
        launch(null_pointer, (1,), [torch.zeros(1), None])


def test_parameters_that_are_not_specialised():
    fn = triton.JITFunction(not_specialised.fn, do_not_specialize=["n"])
    x = torch.zeros(4, dtype=torch.int32)
    assert signature_of(fn, x, 1, 1) == {"x_ptr": "*i32", "n": "i32", "m": "constexpr"}
    launch(fn, (1,), [x, 1, 1])
    assert x.tolist() == [2] * 4


def test_wrong_types_are_refused():
    out = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(PtxError, match=r"type i64 cannot take 0\.5"):
        launch(annotated, (1,), [out, 1.0, 1.0, 0.5, 1.0, 1.0, True, 1])
    with pytest.raises(PtxError, match="takes x_ptr, y_ptr, n, alpha, bias_ptr, SIGN; got 7"):
        launch(axpy, (1,), [out] * 7, BLOCK=64)
