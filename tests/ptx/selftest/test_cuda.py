"""Kernels compiled by nvcc, executed and compared with numpy or Python references."""

import math
import struct

import numpy as np
import pytest

from tests.ptx.execute import DataRaceError, Kernel
from tests.ptx.mutate import drop, sites
from tests.ptx.selftest.builds import kernel_of, ptx_of

pytestmark = pytest.mark.usefixtures("nvcc")
ARCHS = (75, 80, 90, 100)


@pytest.fixture(params=ARCHS, ids=lambda arch: f"sm_{arch}")
def kernels(request):
    return kernel_of("kernels.cu", request.param)


@pytest.fixture
def kernels80():
    return kernel_of("kernels.cu", 80)


def group_soft_reference(x, threshold):
    norm = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    return x * np.where(norm > threshold, 1 - threshold / norm, 0)


def positive_definite(rng, batch, n):
    factor = rng.standard_normal((batch, n, n))
    return (factor @ factor.transpose(0, 2, 1) + n * np.eye(n)).astype(np.float32)


def bfloat16_bits(x):
    """Bits of x rounded to nearest even."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def test_add_vectors(kernels, rng):
    a, b = rng.standard_normal((2, 1000), dtype=np.float32)
    c = np.zeros_like(a)
    stats = kernels.launch("add_vectors", [a, b, c, 1000], 8, 128)
    assert np.array_equal(c, a + b)
    assert stats.global_loads == {4: 2000}
    assert stats.bytes_stored == 4000


def test_group_soft(kernels, rng):
    x = rng.standard_normal((32, 512), dtype=np.float32)
    y = np.full_like(x, np.nan)
    stats = kernels.launch("group_soft", [x, y, 128, 22.5], 32, 128)
    np.testing.assert_allclose(y, group_soft_reference(x, 22.5), atol=1e-6)
    assert stats.global_loads == {16: 2 * 32 * 128}
    assert stats.global_stores == {16: 32 * 128}
    assert stats.bytes_loaded == 2 * x.nbytes
    assert stats.barriers == 2 * 32


def test_cholesky(kernels, rng):
    a = positive_definite(rng, 16, 24)
    factor, info = a.copy(), np.zeros(16, np.int32)
    stats = kernels.launch(
        "cholesky", [factor, 24, info], 16, 64, 24 * 25 * 4, check_shared_init=True
    )
    np.testing.assert_allclose(factor, np.linalg.cholesky(a.astype(np.float64)), atol=1e-5)
    assert not info.any()
    scaled, updated = 24 * 23 // 2, 23 * 24 * 25 // 6
    assert stats.multiplications == {4: 16 * (scaled + updated)}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_order_of_blocks_and_threads_does_not_matter(kernels80, rng, seed):
    x = rng.standard_normal((8, 512), dtype=np.float32)
    y, shuffled = np.zeros_like(x), np.zeros_like(x)
    kernels80.launch("group_soft", [x, y, 128, 22.5], 8, 128)
    kernels80.launch("group_soft", [x, shuffled, 128, 22.5], 8, 128, seed=seed)
    assert np.array_equal(y, shuffled)


def test_cholesky_reports_indefinite_matrix(kernels80, rng):
    a = positive_definite(rng, 2, 8)
    a[1, 3, 3] = -1
    info = np.zeros(2, np.int32)
    kernels80.launch("cholesky", [a, 8, info], 2, 32, 8 * 9 * 4)
    assert info.tolist() == [0, 4]


def test_atomics_and_votes(kernels, rng):
    x = (3 * rng.standard_normal(1000)).astype(np.float32)
    total, histogram, ballots = np.zeros(1), np.zeros(8, np.int32), np.zeros(32, np.uint32)
    stats = kernels.launch("atomics_and_votes", [x, total, histogram, ballots, 1000], 8, 128)
    bins = np.clip(np.floor(2 * x) + 4, 0, 7).astype(int)
    assert total[0] == pytest.approx(x.astype(np.float64).sum(), abs=1e-9)
    assert np.array_equal(histogram, np.bincount(bins, minlength=8))
    assert np.array_equal(np.unpackbits(ballots.view(np.uint8), bitorder="little")[:1000], x > 0)
    assert stats.global_atomics == {8: 1000, 4: 1000}


def test_conversion_to_half(kernels, rng):
    x = (3 * rng.standard_normal(1000)).astype(np.float32)
    x[:5] = [0, -0.0, np.inf, 1e-7, 1e30]
    half, bf16 = np.zeros(1000, np.float16), np.zeros(1000, np.uint16)
    kernels.launch("to_half", [x, half, bf16, 1000], 8, 128)
    with np.errstate(over="ignore"):
        assert np.array_equal(half, (x * np.float32(1.5)).astype(np.float16))
    assert np.array_equal(bf16, bfloat16_bits(x * np.float32(0.3)))


def test_packed_half(kernels, rng):
    a, b = rng.standard_normal((2, 64)).astype(np.float16)
    c = bfloat16_bits(rng.standard_normal(64))
    ab, cc = np.zeros_like(a), np.zeros_like(c)
    kernels.launch("packed_half", [a, b, ab, c, cc, 32], 1, 32)
    exact = a.astype(np.float64) * b.astype(np.float64) + (a + b).astype(np.float64)
    assert np.array_equal(ab, exact.astype(np.float16))
    c32 = from_bfloat16(c)
    doubled = from_bfloat16(bfloat16_bits(c32 + c32))
    assert np.array_equal(cc, bfloat16_bits(c32 * doubled))


def test_float_functions(kernels, rng):
    x = (3 * rng.standard_normal(500)).astype(np.float32)
    y = np.zeros_like(x)
    kernels.launch("float_functions", [x, y, 500], 4, 128)

    def reference(v):
        a = abs(float(v))
        index = bin(int(v.view(np.uint32))).count("1") & 7
        return (
            math.exp(v)
            + math.log(a + 1)
            + math.sin(v)
            + 1 / math.sqrt(a + 0.5)
            + math.tanh(v)
            + math.erf(v)
            + a**1.7
            + math.fmod(v, np.float32(0.3))
            + float(v) * index
        )

    np.testing.assert_allclose(y, [reference(v) for v in x], rtol=1e-5, atol=1e-5)


def test_double_functions(kernels80, rng):
    x = 3 * rng.standard_normal(300)
    y = np.zeros_like(x)
    kernels80.launch("double_functions", [x, y, 300], 3, 128)

    def reference(v):
        a = abs(v)
        return (
            a**1.3
            + math.sin(v * 1000)
            + math.exp(v)
            + math.log(a + 1)
            + math.sqrt(a)
            + 1 / (v * v + 1)
            + math.fmod(v, 0.37)
            + math.erf(v)
            + np.cbrt(v)
            + math.gamma(a + 0.5)
        )

    np.testing.assert_allclose(y, [reference(v) for v in x], rtol=1e-14)


def test_integers(kernels, rng):
    a = rng.integers(-(2**62), 2**62, 300)
    b = rng.integers(-(2**62), 2**62, 300) >> rng.integers(0, 60, 300)
    out = np.zeros_like(a)
    kernels.launch("integers", [a, b, out, 300], 3, 128)

    def reference(x, y):
        odd = y | 1
        quotient = abs(x) // abs(odd) * (1 if (x < 0) == (odd < 0) else -1)
        ux, uy = x % 2**64, odd % 2**64
        total = (
            quotient
            + x
            - quotient * odd
            + ux // uy
            + (ux * uy >> 64)
            + bin(ux).count("1")
            + 64
            - ux.bit_length()
            + (x >> (y & 63))
            + x % 2**32 % (odd % 2**32)
        ) % 2**64
        return total - 2**64 if total >= 2**63 else total

    assert out.tolist() == [reference(int(x), int(y)) for x, y in zip(a, b, strict=True)]


def test_bit_operations(kernels, rng):
    a = rng.integers(0, 2**32, 300, dtype=np.uint32)
    a[:3] = [0, 1, 0xFFFFFFFF]
    out = np.zeros_like(a)
    kernels.launch("bit_operations", [a, out, 300], 3, 128)

    def reference(x):
        pool = list(x.to_bytes(4, "little") + (0x89ABCDEF).to_bytes(4, "little"))
        permuted = sum(pool[0x7351 >> 4 * i & 7] << 8 * i for i in range(4))
        signed = x - 2**32 if x >= 2**31 else x
        funnel = ((0x12345678 << 32 | x) << (x & 31)) >> 32
        total = (
            bin(x).count("1")
            + 32
            - x.bit_length()
            + (x & -x).bit_length()
            + int(f"{x:032b}"[::-1], 2) % 5
            + permuted
            + funnel
            + (signed >> 3)
            + int(math.fmod(signed, 7))
        )
        return total % 2**32

    assert out.tolist() == [reference(int(x)) for x in a]


def test_shared_histogram(kernels, rng):
    keys = rng.integers(0, 1000, 2000).astype(np.int32)
    histogram, maximum = np.zeros(16, np.int32), np.zeros(1, np.int32)
    kernels.launch("shared_histogram", [keys, histogram, maximum, 2000], 1, (32, 8))
    assert np.array_equal(histogram, np.bincount(keys & 15, minlength=16))
    assert maximum[0] == keys[:256].max()


def test_local_array(kernels80, rng):
    x, index = rng.standard_normal(64, dtype=np.float32), rng.integers(0, 16, 64).astype(np.int32)
    y, table = np.zeros(64, np.float32), np.zeros(16, np.float32)
    kernels80.launch("local_table", [x, index, y], 1, 64)
    np.add.at(table, index, x)
    assert np.array_equal(y, table[index])


def test_module_variables():
    kernel = Kernel(ptx_of("kernels.cu"))
    count, out = np.zeros(1, np.int32), np.zeros(32, np.float32)
    for expected in (5, 6):
        kernel.launch("module_variables", [count, out], 1, 32)
        assert count[0] == expected
    assert out.tolist() == [1, 2, 3, 4] * 8


def test_struct_by_value(kernels80):
    out = np.zeros(6, np.float32)
    kernels80.launch("struct_by_value", [struct.pack("<3fid", 1, 2, 3, 10, 0.5), out], 1, 6)
    assert out.tolist() == [10.5, 20.5, 30.5] * 2


def test_recursion(kernels80):
    out = np.zeros(10, np.int32)
    kernels80.launch("recursion", [out], 1, 10)
    assert out.tolist() == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]


def test_early_exit(kernels80, rng):
    n = 1000
    x, out = rng.standard_normal(n, dtype=np.float32), np.zeros(n, np.float32)
    kernels80.launch("early_exit", [x, out, n], 1, 1024)
    positive = np.array([(x[i : i + 32] > 0).sum() for i in range(0, n, 32)]).repeat(32)[:n]
    np.testing.assert_allclose(out, x[::-1] + positive, rtol=1e-6)


def test_tile_reductions(kernels80, rng):
    x = rng.integers(0, 9, 64).astype(np.float32)
    out = np.zeros_like(x)
    kernels80.launch("tile_sums", [x, out], 1, 64)
    by_8 = x.reshape(-1, 8).sum(1).repeat(8)
    by_16 = x.reshape(-1, 16).sum(1).repeat(16)
    assert np.array_equal(out, by_8 + 1000 * by_16)


def test_named_barrier_with_count(kernels80, rng):
    x, out = rng.integers(0, 99, 32).astype(np.int32), np.zeros(32, np.int32)
    kernels80.launch("producer_consumer", [x, out], 1, 128, check_shared_init=True)
    assert np.array_equal(out, x[::-1])


def test_barrier_reductions(kernels80, rng):
    x = rng.integers(-100, 90, 96).astype(np.int32)
    out = np.zeros_like(x)
    kernels80.launch("count_in_block", [x, out], 1, 96)
    assert (out == (x > 0).sum() * 100 + 1).all()


def test_branch_table(kernels80, rng):
    selector = rng.integers(0, 3, 100).astype(np.int32)
    out, i = np.zeros_like(selector), np.arange(100)
    kernels80.launch("dense_switch", [selector, out, 100], 1, 128)
    assert np.array_equal(out, np.choose(selector, [i + 100, 3 * i, -i]))


def test_address_spaces(kernels80):
    out = np.zeros(3, np.int32)
    kernels80.launch("which_space", [np.zeros(2, np.float32), out], 1, 1)
    assert out.tolist() == [1, 2, 4]


def test_match(kernels80, rng):
    x = rng.integers(0, 4, 32).astype(np.int32)
    any_, all_ = np.zeros(32, np.uint32), np.zeros(32, np.int32)
    kernels80.launch("match_lanes", [x, any_, all_], 1, 32)
    assert any_.tolist() == [sum(1 << j for j in range(32) if x[j] == v) for v in x]
    assert all_.all()


def test_coalesced_groups(kernels80, rng):
    wants = rng.integers(0, 2, 256).astype(np.int32)
    counter, ticket = np.zeros(1, np.int32), np.full(256, -1, np.int32)
    kernels80.launch("aggregated_tickets", [wants, counter, ticket], 2, 128)
    assert counter[0] == wants.sum()
    assert sorted(ticket[wants == 1]) == list(range(wants.sum()))


def test_lanes_with_different_histories(kernels80, rng):
    x, out = rng.integers(0, 99, 32).astype(np.int32), np.zeros(32, np.int32)
    kernels80.launch("uneven_shuffles", [x, out], 1, 32)
    v = x.copy()
    v[:16] = x[:16] + x[np.arange(16) ^ 1]
    assert np.array_equal(out[:28], v[(np.arange(28) + 5) % 28])


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_spin_lock(kernels80, seed):
    lock, counter = np.zeros(1, np.int32), np.zeros(1, np.int32)
    kernels80.launch("spin_lock", [lock, counter], 3, 64, seed=seed)
    assert counter[0] == 192


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_blocks_of_a_cooperative_launch_wait_for_each_other(kernels80, seed):
    values, arrived = np.zeros(6, np.float32), np.zeros(1, np.uint32)
    kernels80.launch("rounds_of_sums", [values, arrived, 4], 3, 64, cooperative=True, seed=seed)
    assert values.tolist() == [27.0] * 3 + [9.0] * 3
    assert arrived[0] == 12


def launch_with_thread_sanitizer(ptx, entry, sizes, *numbers, cooperative=False):
    arrays = [np.zeros(n, np.float32) for n in sizes]
    kernel = Kernel(ptx, "thread", only=[entry])
    kernel.launch(entry, [*arrays, *numbers], 2, 64, cooperative=cooperative)


def test_barriers_of_a_grid_need_their_fences():
    ptx, call = ptx_of("kernels.cu"), ("rounds_of_sums", (4, 1), 3)
    launch_with_thread_sanitizer(ptx, *call, cooperative=True)
    fences = sites(ptx, "fence", "rounds_of_sums")
    assert len(fences) == 2
    for fence in fences:
        with pytest.raises(DataRaceError):
            launch_with_thread_sanitizer(drop(ptx, fence), *call, cooperative=True)


@pytest.mark.parametrize(
    ("entry", "sizes"), [("spin_lock", (1, 1)), ("last_block_sum", (128, 2, 1, 1))]
)
def test_fences_and_atomics_order_memory(entry, sizes):
    launch_with_thread_sanitizer(ptx_of("kernels.cu"), entry, sizes)


def test_lock_without_its_first_fence_is_a_race():
    ptx = ptx_of("kernels.cu")
    mutant = drop(ptx, sites(ptx, "fence", "spin_lock")[0])
    with pytest.raises(DataRaceError):
        launch_with_thread_sanitizer(mutant, "spin_lock", (1, 1))


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_last_block_pattern_in_any_order(kernels80, rng, seed):
    x = rng.integers(0, 9, 8 * 64).astype(np.float32)
    partial, arrived, total = (
        np.zeros(8, np.float32),
        np.zeros(1, np.uint32),
        np.zeros(1, np.float32),
    )
    kernels80.launch("last_block_sum", [x, partial, arrived, total], 8, 64, seed=seed)
    assert total[0] == x.sum()


def test_pointer_table(kernels80):
    entry = next(name for name in kernels80.entries if "write_through_pointers" in name)
    rows = [np.zeros(5, np.float32) for _ in range(3)]
    table = np.array([row.ctypes.data for row in rows], np.uint64)
    kernels80.launch(entry, [table, 5], 3, 32, reachable=rows)
    assert np.array_equal(np.stack(rows), np.arange(3)[:, None] * 100 + np.arange(5))


def test_half_atomics(kernels80, rng):
    x, total = rng.integers(0, 9, 32).astype(np.float32), np.zeros(2, np.float16)
    kernels80.launch("half_atomics", [x, total], 1, 32)
    assert total.tolist() == [x.sum(), -x.sum()]


def test_vector_atomics(rng):
    x = rng.integers(0, 9, (32, 4)).astype(np.float32)
    total, pair = np.zeros(4, np.float32), np.zeros(2, np.float32)
    kernel_of("kernels.cu", 90).launch("vector_atomics", [x, total, pair], 1, 32)
    assert np.array_equal(total, x.sum(0))
    assert pair.tolist() == [32, 64]


def test_elect():
    out = np.zeros(32, np.int32)
    kernel_of("kernels.cu", 90).launch("elected_lane", [out], 1, 32)
    assert out.tolist() == [1] + [0] * 7 + [17] + [16] * 23
