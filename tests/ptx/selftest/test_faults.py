"""Each kernel of faults.cu has one fault, which must be reported; corrected ones must pass."""

import numpy as np
import pytest

from tests.ptx.cuda_compile import compile_ptx
from tests.ptx.execute import DataRaceError, Kernel, LaunchError, SanitizerError
from tests.ptx.mutate import drop, try_all
from tests.ptx.ptx_types import PtxError, UnsupportedPtxError
from tests.ptx.selftest.builds import kernel_of, ptx_of

pytestmark = pytest.mark.usefixtures("nvcc")


@pytest.fixture
def faults():
    return kernel_of("faults.cu")


def floats(n):
    return np.arange(n, dtype=np.float32)


@pytest.mark.parametrize(
    ("entry", "arrays", "message"),
    [
        ("load_past_end", (32, 32), "global load out of bounds"),
        ("store_past_end", (32,), "global store out of bounds"),
        ("misaligned", (32, 32), "misaligned access"),
    ],
)
def test_bad_global_access(faults, entry, arrays, message):
    with pytest.raises(LaunchError, match=message + r".* PTX line \d+, block \(0,0,0\) thread"):
        faults.launch(entry, [floats(n) for n in arrays], 1, 32)


def test_bounds_check_can_be_turned_off(faults):
    room, y = floats(33), floats(32)
    faults.launch("load_past_end", [room[:32], y], 1, 32, check_bounds=False)
    assert y[31] == 32


def test_shared_memory_out_of_bounds(faults):
    with pytest.raises(LaunchError, match="shared memory access out of bounds"):
        faults.launch("shared_past_end", [floats(32)], 1, 32, dynamic_shared=4 * 32)


@pytest.mark.parametrize(
    ("entry", "threads", "n"),
    [
        ("missing_barrier", 64, 64),
        ("missing_barrier_before_reuse", 64, 128),
        ("missing_warp_barrier", 32, 32),
    ],
)
def test_missing_barrier(entry, threads, n):
    arrays = [floats(n), floats(n)]
    with pytest.raises(DataRaceError) as caught:
        kernel_of("faults.cu", sanitize="thread").launch(entry, arrays, 1, threads)
    lines = ptx_of("faults.cu").splitlines()
    named = " ".join(lines[line - 1] for line in caught.value.lines)
    assert "shared" in named
    kernel_of("faults.cu", sanitize="thread", WITH_BARRIER=1).launch(entry, arrays, 1, threads)
    reversed_rows = floats(n).reshape(-1, threads)[:, ::-1].ravel()
    assert np.array_equal(arrays[1], reversed_rows)


def test_uninitialised_shared_memory(faults):
    y = floats(64)
    faults.launch("uninitialised_shared", [floats(64), y], 1, 64)
    assert np.isnan(y[0])
    assert not np.isnan(y[1:]).any()
    with pytest.raises(LaunchError, match=r"uninitialised shared memory.*thread \(0,0,0\)"):
        faults.launch("uninitialised_shared", [floats(64), y], 1, 64, check_shared_init=True)


def test_local_array_overrun():
    kernel = kernel_of("faults.cu", sanitize="address")
    index, y = np.arange(4, dtype=np.int32), floats(4)
    kernel.launch("local_past_end", [index, y], 1, 4)
    index[2] = 5
    with pytest.raises(SanitizerError, match="stack-buffer-overflow"):
        kernel.launch("local_past_end", [index, y], 1, 4)


@pytest.mark.parametrize("entry", ["blocks_write_same", "blocks_read_neighbour"])
def test_race_between_blocks(faults, entry):
    y = floats(64)
    faults.launch(entry, [y], 4, 16)
    with pytest.raises(LaunchError, match="another block wrote here"):
        faults.launch(entry, [y], 4, 16, check_block_races=True)
    with pytest.raises(LaunchError, match="race between blocks"):
        faults.launch(entry, [y], 4, 16, check_block_races=True, seed=3)


def test_seed_shuffles_blocks(faults):
    last_writers = set()
    for seed in range(8):
        y = floats(16)
        faults.launch("blocks_write_same", [y], 4, 16, seed=seed)
        last_writers.add(y[0])
    assert len(last_writers) > 1


def test_no_race_between_blocks_in_correct_kernel():
    x = np.ones((8, 128), np.float32)
    stats = kernel_of("kernels.cu").launch(
        "group_soft", [x, np.zeros_like(x), 32, 1.0], 8, 128, check_block_races=True
    )
    assert not stats.warnings


def test_deadlock_names_the_lines(faults):
    with pytest.raises(LaunchError, match=r"deadlock.*block barrier.*warp collective"):
        faults.launch("barrier_skipped_by_some", [floats(32)], 1, 32)


def test_barrier_in_divergent_code(faults):
    with pytest.raises(
        LaunchError, match=r"one warp wait at different barriers, PTX lines \d+ and \d+"
    ):
        faults.launch("barrier_in_divergent_code", [floats(32)], 1, 32)


def test_waiting_for_another_block_ends(faults):
    with pytest.raises(LaunchError, match="loop that never ends"):
        faults.launch("waits_for_other_block", [np.zeros(1, np.int32)], 2, 1)


def test_waiting_for_nobody_in_a_cooperative_launch_ends(faults):
    flag = np.zeros(1, np.int32)
    faults.launch("waits_for_other_block", [flag], 2, 1, cooperative=True)
    assert flag[0] == 1
    flag[0] = 0
    with pytest.raises(LaunchError, match="loop that never ends"):
        faults.launch("waits_for_other_block", [flag], 1, 1, cooperative=True)


def test_a_cooperative_launch_cannot_tell_blocks_apart(faults):
    with pytest.raises(LaunchError, match="cooperative"):
        faults.launch(
            "waits_for_other_block", [np.zeros(1, np.int32)], 2, 1,
            cooperative=True, check_block_races=True,
        )  # fmt: skip


def test_device_assert(faults):
    faults.launch("asserts", [np.zeros(32, np.int32)], 1, 32)
    with pytest.raises(LaunchError, match=r"device assertion failed: x\[threadIdx.x\] >= 0"):
        faults.launch("asserts", [np.arange(32, dtype=np.int32) - 1], 1, 32)


def test_static_shared_memory_is_per_kernel(faults):
    """An array of one kernel does not hide an overrun in another."""
    with pytest.raises(LaunchError, match="shared memory access out of bounds"):
        faults.launch("static_shared_past_end", [floats(64)], 1, 64)


def test_unsupported_kernel_is_refused_with_its_line(faults):
    with pytest.raises(UnsupportedPtxError, match=r"prints line \d+: call.*vprintf"):
        faults.launch("prints", [np.zeros(32, np.int32)], 1, 32)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("wgmma.fence.sync.aligned;", "unknown instruction wgmma"),
        ("add.wild.f32 %f1, %f2, %f3;", "modifier .wild"),
        ("mov.u32 %r1, %clock;", "%clock"),
        ("add.s32 %r1, %r2, nowhere;", "symbol nowhere"),
        ("bra nowhere;", "label nowhere"),
    ],
)
def test_unknown_ptx_is_refused(line, reason):
    ptx = (
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\n"
        f".reg .b32 %r<4>;\n.reg .f32 %f<4>;\n{line}\nret;\n}}\n"
    )
    with pytest.raises(UnsupportedPtxError, match=f"k line 8: .*{reason}"):
        Kernel(ptx)


def test_launch_limits(faults):
    for grid, block, message in ((1, 1025, "larger"), ((1, 70000), 1, "larger"), (0, 1, "shape")):
        with pytest.raises(LaunchError, match=message):
            faults.launch("store_past_end", [floats(2000)], grid, block)
    with pytest.raises(LaunchError, match="compiled for 128 threads"):
        kernel_of("kernels.cu").launch("group_soft", [floats(4), floats(4), 1, 1.0], 1, 256)
    with pytest.raises(LaunchError, match="bytes of shared memory"):
        faults.launch("store_past_end", [floats(2)], 1, 1, dynamic_shared=300 << 10)
    with pytest.raises(LaunchError, match="takes 1 arguments"):
        faults.launch("store_past_end", [], 1, 1)
    with pytest.raises(PtxError, match=r"no kernel 'absent'.*store_past_end"):
        faults.launch("absent", [], 1, 1)


def test_compiler_errors_are_shown(tmp_path):
    source = tmp_path / "bad.cu"
    source.write_text("__global__ void k() { undeclared = 1; }")
    with pytest.raises(PtxError, match="undeclared"):
        compile_ptx(source)


def test_mutation_of_barriers():
    """Without its first or last barrier the Cholesky kernel is still right: one owner per pivot."""
    ptx = ptx_of("kernels.cu")
    matrix = (4 * np.eye(6) + 1).astype(np.float32)

    def check(text):
        factor = matrix.copy()
        kernel = Kernel(text, sanitize="thread", only=["cholesky"])
        kernel.launch("cholesky", [factor, 6, np.zeros(1, np.int32)], 1, 32, 6 * 7 * 4)
        return np.allclose(factor, np.linalg.cholesky(matrix.astype(np.float64)), atol=1e-5)

    assert check(ptx)
    outcomes = try_all(ptx, check, entry="cholesky")
    assert [outcome.noticed for outcome in outcomes] == [False, True, True, False]
    assert [o.site.text.split()[0] for o in outcomes] == ["bar.sync"] * 4
    assert drop(ptx, outcomes[0].site).count("\n") == ptx.count("\n")

    kernel = Kernel(ptx, sanitize="thread", only=["cholesky"])
    for outcome in outcomes:  # as without another build
        call = ("cholesky", [matrix.copy(), 6, np.zeros(1, np.int32)], 1, 32, 6 * 7 * 4)
        left_out = {"drop_barrier": outcome.site.line}
        if outcome.noticed:
            with pytest.raises(LaunchError):
                kernel.launch(*call, **left_out)
        else:
            assert kernel.launch(*call, **left_out).dropped > 0
