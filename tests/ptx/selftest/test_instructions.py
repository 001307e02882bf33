"""Instructions as the PTX ISA defines them, one at a time: needs no nvcc and no Triton."""

import numpy as np
import pytest
import torch

from tests.ptx.execute import DataRaceError, Kernel, LaunchError

LANES = np.arange(32)

MODULE = """
.version 8.6
.target sm_90
.address_size 64
.visible .entry k({parameters})
{{
.reg .b64 %rd<20>;
.reg .b32 %r<40>;
.reg .pred %p<8>;
.shared .align 16 .b8 tile[512];
mov.u32 %r1, %tid.x;
{body}
ret;
}}
"""


def run(body, arrays, sanitize=None, **options):
    """Run a body on one warp. Array i is at %rd{i}, the lane's 4 bytes of it at %rd1{i}."""
    loads = []
    for i in range(len(arrays)):
        loads.append(f"ld.param.u64 %rd{i}, [a{i}];")
        loads.append(f"mad.wide.u32 %rd1{i}, %r1, 4, %rd{i};")
    parameters = ", ".join(f".param .u64 a{i}" for i in range(len(arrays)))
    text = MODULE.format(parameters=parameters, body="\n".join([*loads, *body.splitlines()]))
    return Kernel(text, sanitize).launch("k", arrays, 1, 32, **options)


# ---- stmatrix

STORE = """
mov.u32 %r2, tile;
mad.lo.u32 %r3, %r1, 16, %r2;
{registers}
stmatrix.sync.aligned.m8n8.{form}.shared.b16 [%r3], {{{values}}};
{barrier}
ld.shared.v4.b32 {{%r20, %r21, %r22, %r23}}, [%r3];
mad.wide.u32 %rd2, %r1, 16, %rd0;
st.global.v4.b32 [%rd2], {{%r20, %r21, %r22, %r23}};
"""


def store_matrices(count, form, barrier="bar.warp.sync -1;", **options):
    """The tile after a store of lane * 2 + half + 64 * matrix, as (row, column) of 16 bits."""
    registers = []
    for matrix in range(count):
        low = f"mad.lo.u32 %r{10 + matrix}, %r1, 0x20002, {(1 << 16) + 0x400040 * matrix};"
        registers.append(low)
    body = STORE.format(
        registers="\n".join(registers),
        values=", ".join(f"%r{10 + i}" for i in range(count)),
        form=form,
        barrier=barrier,
    )
    out = np.full((32, 8), 0xFFFF, np.uint16)
    run(body, [out], **options)
    return out[: 8 * count].reshape(count, 8, 8)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_stmatrix(count):
    """Lane l holds row l / 4, columns 2 (l % 4) and the next; the low half is the first."""
    stored = store_matrices(count, f"x{count}")
    for matrix in range(count):
        for lane in range(32):
            for half in range(2):
                row, column = lane // 4, 2 * (lane % 4) + half
                assert stored[matrix, row, column] == 64 * matrix + 2 * lane + half


def test_transposed_stmatrix():
    assert np.array_equal(store_matrices(2, "x2.trans"), store_matrices(2, "x2").swapaxes(1, 2))


def test_stmatrix_writes_shared_memory_and_needs_a_barrier():
    assert store_matrices(4, "x4", check_shared_init=True).max() == 255
    with pytest.raises(DataRaceError):
        store_matrices(4, "x4", barrier="", sanitize="thread")
    store_matrices(4, "x4", sanitize="thread")


def test_stmatrix_needs_rows_on_sixteen_bytes():
    with pytest.raises(LaunchError, match="misaligned access"):
        run(
            "mov.u32 %r2, tile;\nmad.lo.u32 %r3, %r1, 8, %r2;\n"
            "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r3], {%r1};",
            [np.zeros(1)],
        )


# ---- comparison of packed halves

READ = """
ld.global.u32 %r2, [%rd10];
ld.global.u32 %r3, [%rd11];
ld.global.u32 %r4, [%rd12];
"""
COMPARE = """
setp.ne.u32 %p1, %r4, 0;
setp.{form} %p1|%p2, %r2, %r3{third};
selp.u32 %r5, 1, 0, %p1;
selp.u32 %r6, 2, 0, %p2;
or.b32 %r7, %r5, %r6;
st.global.u32 [%rd13 + {at}], %r7;
"""
ORDERED = {
    "eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge,
}  # fmt: skip


def packed(dtype):
    """Two arrays of 32 pairs of halves, half of them equal, some NaN, infinite and zero."""
    a, b = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    b[::2] = a[::2]
    a[:6] = torch.tensor([0.0, -0.0, torch.inf, torch.nan, 1.0, torch.nan])
    b[:6] = torch.tensor([-0.0, 0.0, torch.inf, 1.0, torch.nan, torch.nan])
    return a, b


def compare(forms, a, b, third="", c=None):
    """What each form finds: (forms, 64). c is the predicate %p1 before."""
    words = [x.view(torch.int32).numpy() for x in (a, b)]
    c, out = np.zeros(32, np.int32) if c is None else c, np.zeros((len(forms), 32), np.int32)
    compares = [COMPARE.format(form=f, third=third, at=128 * i) for i, f in enumerate(forms)]
    run(READ + "".join(compares), [*words, c, out])
    return torch.from_numpy(np.stack([out & 1, out >> 1], 2).reshape(len(forms), 64) != 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16x2", "bf16x2"])
def test_packed_comparison(dtype):
    """The low halves set the first predicate, the high halves the second."""
    a, b = packed(dtype)
    nan = a.isnan() | b.isnan()
    expected = {name: op(a, b) & ~nan for name, op in ORDERED.items()}
    expected |= {f"{name}u": op(a, b) | nan for name, op in ORDERED.items()}
    expected |= {"num": ~nan, "nan": nan}
    type_ = {torch.float16: "f16x2", torch.bfloat16: "bf16x2"}[dtype]
    results = compare([f"{name}.{type_}" for name in expected], a, b)
    for name, result in zip(expected, results, strict=True):
        assert torch.equal(result, expected[name]), name


def test_packed_comparison_combined_with_a_predicate_that_it_overwrites():
    a, b = packed(torch.bfloat16)
    c = np.random.default_rng(0).integers(0, 2, 32, dtype=np.int32)
    less, other = a < b, torch.from_numpy(c.repeat(2) != 0)
    results = compare([f"lt.{op}.bf16x2" for op in ("and", "or", "xor")], a, b, ", %p1", c)
    assert torch.equal(results, torch.stack([less & other, less | other, less ^ other]))


def test_packed_comparison_flushes_subnormals():
    a, b = torch.full((64,), 1e-6).half(), torch.zeros(64).half()
    kept, flushed = compare(["gt.f16x2", "gt.ftz.f16x2"], a, b)
    assert kept.all()
    assert not flushed.any()


# ---- addresses of parameters


def test_parameter_at_an_address_in_a_register():
    """A register may hold the address of a parameter, in 32 bits or in 64."""
    out, other = np.zeros(32, np.int32), np.arange(32, dtype=np.int32)
    body = """
mov.b32 %r2, a0;
ld.param.u64 %rd3, [%r2+8];
mov.b64 %rd4, a1;
ld.param.u64 %rd5, [%rd4];
sub.u64 %rd6, %rd3, %rd5;
cvt.u32.u64 %r4, %rd6;
mad.wide.u32 %rd7, %r1, 4, %rd3;
ld.global.u32 %r3, [%rd7];
add.u32 %r5, %r3, %r4;
st.global.u32 [%rd10], %r5;
"""
    run(body, [out, other])
    assert np.array_equal(out, other)


# ---- what is counted


def test_instructions_of_a_loop_and_behind_a_predicate():
    body = """
    mov.u32 %r2, 0;
    again:
    add.u32 %r2, %r2, 1;
    setp.le.u32 %p1, %r2, %r1;
    @%p1 bra again;
    setp.eq.u32 %p2, %r1, 5;
    @%p2 mov.u32 %r2, 0;
    st.global.u32 [%rd10], %r2;
    """
    out = np.zeros(32, np.int32)
    stats = run(body, [out])
    assert np.array_equal(out, np.where(LANES == 5, 0, LANES + 1))
    straight = 3 + 1 + 3 + 1  # up to the loop, before it, after it, and the end
    assert stats.instructions == 32 * straight + 3 * sum(LANES + 1)


def test_accesses_to_shared_memory():
    body = """
    mov.u32 %r3, tile;
    mad.lo.u32 %r4, %r1, 16, %r3;
    st.shared.v4.u32 [%r4], {%r1, %r1, %r1, %r1};
    ld.shared.u32 %r5, [%r4];
    ld.shared.u32 %r6, [%r4+4];
    """
    stats = run(body, [])
    assert stats.shared_accesses == {16: 32, 4: 64}
    assert stats.global_loads == {}
