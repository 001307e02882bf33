"""Triton kernels compiled for NVIDIA GPUs, executed on CPU tensors and compared with torch."""

import pytest
import torch

from tests.ptx.execute import DataRaceError, LaunchError
from tests.ptx.mutate import try_all
from tests.ptx.ptx_types import PtxError, UnsupportedPtxError
from tests.ptx.static_report import report_cubin

triton = pytest.importorskip("triton")
tl = triton.language
triton_run = pytest.importorskip("tests.ptx.triton_run")
compile_triton, launch = triton_run.compile_triton, triton_run.launch
run_compiled = triton_run.run_compiled


@triton.jit
def group_soft(x_ptr, y_ptr, n, threshold, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    mask = offsets < n
    x = tl.load(x_ptr + row * n + offsets, mask=mask, other=0.0)
    norm = tl.sqrt(tl.sum(x * x, axis=0))
    scale = tl.where(norm > threshold, 1.0 - threshold / norm, 0.0)
    tl.store(y_ptr + row * n + offsets, x * scale, mask=mask)


@triton.jit
def matmul(
    a_ptr,
    b_ptr,
    c_ptr,
    M,
    N,
    K,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr = "ieee",
):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    total = tl.zeros((BM, BN), c_ptr.dtype.element_ty)
    for k in range(0, K, BK):
        a_mask = (rows[:, None] < M) & ((k + inner)[None, :] < K)
        b_mask = ((k + inner)[:, None] < K) & (columns[None, :] < N)
        a = tl.load(a_ptr + rows[:, None] * K + (k + inner)[None, :], mask=a_mask, other=0.0)
        b = tl.load(b_ptr + (k + inner)[:, None] * N + columns[None, :], mask=b_mask, other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION, out_dtype=c_ptr.dtype.element_ty)
    mask = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(c_ptr + rows[:, None] * N + columns[None, :], total, mask=mask)


@triton.jit
def scan_and_argmax(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    x = tl.load(x_ptr + offsets, mask=mask, other=-1e9)
    total = tl.cumsum(tl.where(mask, x, 0.0), axis=0)
    largest, where = tl.max(x, axis=0, return_indices=True)
    i = 0
    while i < 3:
        total = total * 0.5 + tl.exp(-tl.abs(x))
        i += 1
    tl.store(y_ptr + offsets, total + largest + where, mask=mask)


@triton.jit
def histogram(x_ptr, counts_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    values = tl.load(x_ptr + offsets, mask=mask, other=0)
    tl.atomic_add(counts_ptr + (values & 31), 1, mask=mask)
    tl.atomic_max(counts_ptr + 32, tl.max(values, axis=0))


@triton.jit
def sum_rows(x_ptr, y_ptr, columns, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + tl.program_id(0) * columns + offsets, mask=offsets < columns, other=0.0)
    tl.atomic_add(
        y_ptr + tl.program_id(0), tl.sum(x.to(tl.float32), axis=0).to(y_ptr.dtype.element_ty)
    )


def group_soft_reference(x, threshold):
    norm = x.double().norm(dim=1, keepdim=True)
    return (x * torch.where(norm > threshold, 1 - threshold / norm, 0)).float()


def multiply(a, b, out_type=torch.float32, capability=80, **constexprs):
    c = torch.zeros(a.shape[0], b.shape[1], dtype=out_type)
    tiles = {"BM": 64, "BN": 64, "BK": 32} | constexprs
    grid = (triton.cdiv(a.shape[0], tiles["BM"]), triton.cdiv(b.shape[1], tiles["BN"]))
    args = [a, b, c, a.shape[0], b.shape[1], a.shape[1]]
    stats = launch(matmul, grid, args, capability, num_stages=3, **tiles)
    return c, stats


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("capability", [75, 80, 90, 100, 120])
@pytest.mark.parametrize(("columns", "width"), [(500, 4), (512, 16)])
def test_group_soft(capability, columns, width):
    x = torch.randn(16, columns)
    y = torch.full_like(x, float("nan"))
    stats = launch(group_soft, (16,), [x, y, columns, 22.0], capability, BLOCK=512)
    torch.testing.assert_close(y, group_soft_reference(x, 22.0), atol=1e-6, rtol=1e-6)
    assert stats.global_loads == {width: x.nbytes // width}
    assert stats.bytes_stored == y.nbytes


@pytest.mark.parametrize(
    ("dtype", "capability"),
    [
        (torch.float32, 80),
        (torch.float16, 80),
        (torch.bfloat16, 75),
        (torch.bfloat16, 80),
        (torch.bfloat16, 120),
    ],
)
def test_pipelined_matmul(dtype, capability):
    a, b = torch.randn(100, 136).to(dtype), torch.randn(136, 80).to(dtype)
    c, _ = multiply(a, b, capability=capability)
    torch.testing.assert_close(c.double(), a.double() @ b.double(), atol=1e-4, rtol=1e-5)


def test_tf32_matmul():
    a, b = torch.randn(32, 64), torch.randn(64, 32)
    exact = a.double() @ b.double()

    def truncated(x):
        return (x.view(torch.int32) & ~0x1FFF).view(torch.float32).double()

    tiles = {"BM": 32, "BN": 32}
    tf32, _ = multiply(a, b, PRECISION="tf32", **tiles)
    torch.testing.assert_close(tf32.double(), truncated(a) @ truncated(b), atol=1e-5, rtol=1e-5)
    assert (tf32 - exact).abs().max() > 1e-3
    tf32x3, _ = multiply(a, b, PRECISION="tf32x3", **tiles)
    torch.testing.assert_close(tf32x3.double(), exact, atol=1e-4, rtol=1e-5)


def test_double_matmul():
    a, b = torch.randn(32, 48, dtype=torch.float64), torch.randn(48, 32, dtype=torch.float64)
    c, _ = multiply(a, b, torch.float64, BM=32, BN=32, BK=16)
    torch.testing.assert_close(c, a @ b, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("capability", [80, 90])
def test_scan_and_argmax(capability):
    x, y = torch.randn(1000), torch.empty(1000)
    launch(scan_and_argmax, (4,), [x, y, 1000], capability, BLOCK=256)
    padded = torch.nn.functional.pad(x, (0, 24)).view(4, 256)
    lowest = torch.nn.functional.pad(x, (0, 24), value=-1e9).view(4, 256)
    total = padded.cumsum(1)
    for _ in range(3):
        total = total * 0.5 + torch.exp(-lowest.abs())
    largest, where = lowest.max(1)
    reference = (total + largest[:, None] + where[:, None]).view(-1)[:1000]
    torch.testing.assert_close(y, reference, atol=1e-3, rtol=1e-5)


def test_atomics():
    x = torch.randint(0, 1000, (5000,), dtype=torch.int32)
    counts = torch.zeros(33, dtype=torch.int32)
    stats = launch(histogram, (20,), [x, counts, 5000], BLOCK=256)
    assert torch.equal(counts[:32], torch.bincount(x & 31, minlength=32).int())
    assert counts[32] == x.max()
    assert stats.global_atomics[4] == 5000 + 20


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_atomics(dtype):
    x = torch.randint(0, 5, (4, 100)).to(dtype)
    y = torch.zeros(4, dtype=dtype)
    launch(sum_rows, (4,), [x, y, 100], BLOCK=128)
    assert torch.equal(y, x.float().sum(1).to(dtype))


def test_specialisation_matches_the_launcher():
    x, y = torch.randn(1, 1), torch.zeros(1, 1)
    launch(group_soft, lambda meta: (1,), [x, y, 1, 0.0], BLOCK=32)
    torch.testing.assert_close(y, x)
    options = {"BLOCK": 64, "num_warps": 1}
    aligned = compile_triton(group_soft, [torch.zeros(64), torch.zeros(64), 64, 1.0], **options)
    shifted = compile_triton(group_soft, [torch.zeros(65)[1:], torch.zeros(64), 64, 1.0], **options)
    assert "ld.global.v2" in aligned.asm["ptx"]
    assert "ld.global.v2" not in shifted.asm["ptx"]


def test_wrong_arguments_are_refused():
    x = torch.zeros(4)
    with pytest.raises(PtxError, match="missing 1 required positional argument: 'BLOCK'"):
        launch(group_soft, (1,), [x, x, 4, 1.0])
    with pytest.raises(PtxError, match="missing 1 required positional argument: 'threshold'"):
        launch(group_soft, (1,), [x, x, 4], BLOCK=32)
    with pytest.raises(PtxError, match="argument blok"):
        launch(group_soft, (1,), [x, x, 4, 1.0], blok=3, BLOCK=32)


def test_out_of_bounds():
    x, y = torch.randn(8, 500), torch.empty(7, 500)
    with pytest.raises(LaunchError, match=r"store out of bounds.*block \(7,0,0\)"):
        launch(group_soft, (8,), [x, y, 500, 22.0], BLOCK=512)


def test_hopper_matrix_instructions_are_refused():
    a = torch.zeros(64, 64, dtype=torch.bfloat16)
    with pytest.raises(UnsupportedPtxError, match="line"):
        multiply(a, a, capability=90)


def test_matmul_is_free_of_races_and_a_dropped_wait_is_noticed():
    a, b = torch.randn(64, 128).bfloat16(), torch.randn(128, 64).bfloat16()
    c = torch.zeros(64, 64)
    compiled = compile_triton(matmul, [a, b, c, 64, 64, 128], num_stages=3, BM=64, BN=64, BK=32)

    def check(ptx, sanitize=None):
        c.fill_(float("nan"))
        stats = run_compiled(compiled, (1, 1), [a, b, c, 64, 64, 128], sanitize, ptx)
        return torch.allclose(c, a.float() @ b.float(), atol=1e-3) and not stats.warnings

    ptx = compiled.asm["ptx"]
    assert "cp.async" in ptx
    assert "ldmatrix" in ptx
    assert "mma.sync" in ptx
    assert check(ptx)
    assert check(ptx, "thread")
    outcomes = try_all(ptx, check, "async_wait")
    assert outcomes[0].noticed
    assert outcomes[-1].noticed


def test_dropped_barrier_of_a_reduction_is_a_race():
    """All lanes of a warp store its sum to one place, which is no race."""
    x, y = torch.randn(2, 256), torch.zeros(2, 256)
    launch(group_soft, (2,), [x, y, 256, 10.0], sanitize="thread", BLOCK=256)
    compiled = compile_triton(group_soft, [x, y, 256, 10.0], BLOCK=256)
    outcomes = try_all(
        compiled.asm["ptx"],
        lambda ptx: run_compiled(compiled, (2,), [x, y, 256, 10.0], "thread", ptx),
    )
    assert outcomes
    assert all(o.reason.startswith(DataRaceError.__name__) for o in outcomes)


def test_lanes_that_store_different_values_to_one_place():
    """With one element per thread, x * x is fused into one side of the butterfly's first sum."""
    x, y = torch.randn(2, 128), torch.zeros(2, 128)
    stats = launch(group_soft, (2,), [x, y, 128, 10.0], sanitize="thread", BLOCK=128)
    torch.testing.assert_close(y, group_soft_reference(x, 10.0), atol=1e-6, rtol=1e-6)
    (warning,) = stats.warnings
    assert warning.startswith("lanes of a warp store different values to one place, PTX line")
    keywords = {"sanitize": "thread", "enable_fp_fusion": False, "BLOCK": 128}
    assert not launch(group_soft, (2,), [x, y, 128, 10.0], **keywords).warnings


def test_static_report():
    x = torch.zeros(512)
    compiled = compile_triton(group_soft, [x, x, 512, 1.0], BLOCK=512)
    report = report_cubin(compiled.asm["cubin"])["group_soft"]
    assert 8 <= report.registers <= 64
    assert report.stack_bytes == 0
    assert report.widths("global loads") == {16: 1}
    assert report.widths("global stores") == {16: 1}
    assert report.group("barriers")
    assert not report.group("local loads")
