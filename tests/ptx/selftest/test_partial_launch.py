"""Launches of a part of the grid, and tensors that do not fit in memory."""

import gc
import resource
from pathlib import Path

import pytest
import torch

from tests.ptx.execute import Kernel, LaunchError
from tests.ptx.sparse_memory import sparse_tensor

# out[i] = the linear index of the i-th block to run, taken from the order in which they run
GRID_PTX = """
.version 8.0
.target sm_80
.address_size 64
.visible .entry mark(.param .u64 out, .param .u64 first)
{
.reg .b32 %r<9>;
.reg .b64 %rd<9>;
ld.param.u64 %rd1, [out];
ld.param.u64 %rd2, [first];
mov.u32 %r1, %ctaid.x;
mov.u32 %r2, %ctaid.y;
mov.u32 %r3, %ctaid.z;
mov.u32 %r4, %nctaid.x;
mov.u32 %r5, %nctaid.y;
cvt.u64.u32 %rd3, %r3;
cvt.u64.u32 %rd4, %r5;
mul.lo.u64 %rd3, %rd3, %rd4;
cvt.u64.u32 %rd4, %r2;
add.u64 %rd3, %rd3, %rd4;
cvt.u64.u32 %rd4, %r4;
mul.lo.u64 %rd3, %rd3, %rd4;
cvt.u64.u32 %rd4, %r1;
add.u64 %rd3, %rd3, %rd4;
sub.u64 %rd5, %rd3, %rd2;
shl.b64 %rd5, %rd5, 3;
add.u64 %rd5, %rd5, %rd1;
st.global.u64 [%rd5], %rd3;
ret;
}
"""


@pytest.fixture(scope="module")
def mark():
    """Launches the kernel that writes each block's linear index to a place of its own."""
    kernel = Kernel(GRID_PTX)

    def launch(grid, blocks, places, **options):
        out = torch.full((places,), -1)
        first = blocks[0] if blocks else 0
        kernel.launch("mark", [out, first], grid, 1, blocks=blocks, **options)
        return out.tolist()

    return launch


def test_all_blocks_by_default(mark):
    assert mark((3, 2, 2), None, 12) == list(range(12))


@pytest.mark.parametrize("blocks", [(0, 1), (4, 5), (11, 1), (0, 12)])
def test_some_blocks(mark, blocks):
    first, count = blocks
    assert mark((3, 2, 2), blocks, count) == list(range(first, first + count))


def test_some_blocks_in_random_order(mark):
    assert mark((3, 2, 2), (2, 7), 7, seed=5, check_block_races=True) == list(range(2, 9))


@pytest.mark.parametrize("grid", [(2**31 - 1,), (2**31 - 1, 65535, 65535)])
def test_the_end_of_the_largest_grids(mark, grid):
    total = grid[0] * (65535**2 if len(grid) == 3 else 1)
    assert mark(grid, (total - 3, 3), 3) == [total - 3, total - 2, total - 1]


@pytest.mark.parametrize("blocks", [(-1, 2), (0, 0), (12, 1), (5, 8), (0, 13)])
def test_blocks_outside_the_grid_are_refused(mark, blocks):
    with pytest.raises(LaunchError, match="of a grid of 12"):
        mark((3, 2, 2), blocks, 13)


# ---- arrays that do not fit in memory


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def mapped_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def test_only_touched_pages_of_a_sparse_tensor_exist():
    resident, mapped = resident_bytes(), mapped_bytes()
    x = sparse_tensor((3, 2**31), torch.float32)
    assert x.shape == (3, 2**31)
    assert mapped_bytes() - mapped >= 24 << 30
    x[2, -1] = 5
    assert x[0, 0] == 0
    assert x[2, -2:].tolist() == [0, 5]
    part = x[1]
    del x
    assert part[-1] == 0
    assert resident_bytes() - resident < 64 << 20
    del part
    gc.collect()
    assert mapped_bytes() - mapped < 1 << 30


def test_sparse_tensors_of_other_types():
    assert sparse_tensor((0, 4), torch.int64).shape == (0, 4)
    x = sparse_tensor((2, 3), torch.bfloat16)
    x += 1
    assert x.sum() == 6
    assert x.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("sanitize", "options"), [("thread", {}), (None, {"check_block_races": 1})]
)
def test_huge_arrays_are_not_copied(sanitize, options):
    kernel = Kernel(GRID_PTX, sanitize)
    with pytest.raises(LaunchError, match="too many for a sanitizer"):
        kernel.launch("mark", [sparse_tensor((2**31,), torch.float32), 0], 1, 1, **options)
