"""Triton kernels at the end of enormous arrays, and the sectors that they touch."""

import pytest
import torch

from tests.ptx.execute import LaunchError
from tests.ptx.sparse_memory import sparse_tensor

triton = pytest.importorskip("triton")
tl = triton.language
triton_run = pytest.importorskip("tests.ptx.triton_run")
compile_triton, launch = triton_run.compile_triton, triton_run.launch

HUGE = 2**31 + 1000  # elements; 8 GiB of float32, of which the tests touch a few pages


# ---- 64-bit offsets


@triton.jit
def iota(x_ptr, n, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """x[i] = i mod 1000, by 64-bit or 32-bit offsets."""
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    offsets = program * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + offsets, (offsets % 1000).to(tl.float32), mask=offsets < n)


def launch_last_two(wide):
    x = sparse_tensor((HUGE,), torch.float32)
    programs = triton.cdiv(HUGE, 512)
    options = {"blocks": (programs - 2, 2)}
    stats = launch(iota, (programs,), [x, HUGE], WIDE=wide, BLOCK=512, launch_options=options)
    return x, stats, (programs - 2) * 512


def test_the_last_programs_of_a_huge_array():
    x, stats, start = launch_last_two(wide=True)
    assert start > 2**31 - 1
    assert torch.equal(x[start:], torch.arange(start, HUGE) % 1000)
    assert not x[start - 512 : start].any()
    assert stats.bytes_stored == 4 * (HUGE - start)


def test_offsets_of_32_bits_are_out_of_bounds():
    with pytest.raises(LaunchError, match="global store out of bounds"):
        launch_last_two(wide=False)


# ---- sectors


@triton.jit
def copy_some(x_ptr, y_ptr, n, rounds, STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    """In round r, those of BLOCK elements whose index is r modulo `rounds`."""
    offsets = tl.arange(0, BLOCK)
    for r in range(rounds):
        mask = (offsets % rounds == r) & (offsets < n)
        x = tl.load(x_ptr + offsets * STRIDE, mask=mask)
        tl.store(y_ptr + offsets, x, mask=mask)


@pytest.mark.parametrize(
    ("n", "rounds", "stride", "loaded", "stored"),
    [
        (1024, 1, 1, 128, 128),
        (1000, 1, 1, 4 * 125, 4 * 125),  # masked one element at a time
        (1024, 1, 8, 1024, 128),
        (1024, 4, 1, 4 * 128, 4 * 128),  # two lanes of each sector in every round
        (1024, 16, 1, 1024, 1024),
    ],
)
def test_masks_that_change_from_round_to_round(n, rounds, stride, loaded, stored):
    x, y = torch.randn(1024 * stride), torch.zeros(1024)
    args = [x, y, n, rounds, stride, 1024]
    stats = launch(copy_some, (1,), args, launch_options={"count_sectors": True})
    assert torch.equal(y[:n], x[: n * stride : stride])
    assert (stats.sectors_loaded, stats.sectors_stored) == (loaded, stored)


@triton.jit
def pipelined_sum(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    """Loads that Triton turns into asynchronous copies where they feed a dot."""
    rows, inner = tl.arange(0, 16), tl.arange(0, BLOCK)
    total = tl.zeros((16, 16), tl.float32)
    for k in range(0, n, BLOCK):
        mask = (k + inner < n)[None, :]
        x = tl.load(x_ptr + rows[:, None] * n + (k + inner)[None, :], mask=mask, other=0.0)
        total = tl.dot(x, tl.trans(x), total, input_precision="ieee")
    tl.store(y_ptr + rows[:, None] * 16 + rows[None, :], total)


@pytest.mark.parametrize("n", [128, 96])
def test_asynchronous_copies(n):
    x, y = torch.randn(16, n), torch.zeros(16, 16)
    assert "cp.async" in compile_triton(pipelined_sum, [x, y, n], BLOCK=64).asm["ptx"]
    options = {"count_sectors": True}
    stats = launch(pipelined_sum, (1,), [x, y, n], BLOCK=64, launch_options=options)
    torch.testing.assert_close(y, x @ x.T)
    assert stats.sectors_loaded == x.nbytes // 32
    assert stats.sectors_stored == y.nbytes // 32
