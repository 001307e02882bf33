"""Sectors of 32 bytes that warps touch, counted by hand for simple patterns."""

import pytest
import torch

from tests.ptx.execute import Kernel, LaunchError

# Threads below `lanes` load 4 bytes each, `step` bytes apart, and store them to consecutive places,
# `rounds` times.
PTX = """
.version 8.0
.target sm_80
.address_size 64
.visible .entry strided(.param .u64 x, .param .u64 y, .param .u32 step, .param .u32 lanes,
                        .param .u32 rounds)
{
.reg .pred %p<4>;
.reg .b32 %r<9>;
.reg .b64 %rd<9>;
ld.param.u64 %rd1, [x];
ld.param.u64 %rd2, [y];
ld.param.u32 %r1, [step];
ld.param.u32 %r2, [lanes];
ld.param.u32 %r3, [rounds];
mov.u32 %r4, %tid.x;
mad.wide.u32 %rd1, %r4, %r1, %rd1;
mad.wide.u32 %rd2, %r4, 4, %rd2;
setp.lt.u32 %p1, %r4, %r2;
mov.u32 %r5, 0;
again:
@%p1 ld.global.u32 %r6, [%rd1];
@%p1 st.global.u32 [%rd2], %r6;
add.u32 %r5, %r5, 1;
setp.lt.u32 %p2, %r5, %r3;
@%p2 bra again;
ret;
}
"""


@pytest.fixture(scope="module")
def kernel():
    return Kernel(PTX)


def count(kernel, step, *, threads=32, lanes=1024, rounds=1, start=0, grid=1):
    x = torch.zeros(1 << 16, dtype=torch.int32)[start:]
    args = [x, torch.zeros(1024, dtype=torch.int32), step, lanes, rounds]
    stats = kernel.launch("strided", args, grid, threads, count_sectors=True)
    return stats.sectors_loaded, stats.sectors_stored


@pytest.mark.parametrize(("step", "sectors"), [(0, 1), (4, 4), (8, 8), (32, 32), (128, 32)])
def test_strides(kernel, step, sectors):
    assert count(kernel, step) == (sectors, 4)


def test_an_unaligned_warp_touches_one_more(kernel):
    assert count(kernel, 4, start=1) == (5, 4)


@pytest.mark.parametrize(("lanes", "sectors"), [(0, 0), (1, 1), (8, 1), (9, 2), (31, 4), (33, 5)])
def test_masked_lanes_touch_nothing(kernel, lanes, sectors):
    assert count(kernel, 4, threads=64, lanes=lanes) == (sectors, sectors)


def test_warps_rounds_and_blocks_add_up(kernel):
    assert count(kernel, 0, threads=256) == (8, 32)
    assert count(kernel, 0, rounds=5) == (5, 20)
    assert count(kernel, 4, threads=40, lanes=36, rounds=3, grid=2) == (6 * 5, 6 * 5)


def test_not_counted_unless_asked_for(kernel):
    x = torch.zeros(32, dtype=torch.int32)
    stats = kernel.launch("strided", [x, x.clone(), 4, 32, 1], 1, 32)
    assert (stats.sectors_loaded, stats.sectors_stored) == (None, None)
    with pytest.raises(LaunchError, match="counting sectors does not work under a sanitizer"):
        Kernel(PTX, "thread").launch("strided", [x, x, 4, 32, 1], 1, 32, count_sectors=True)
