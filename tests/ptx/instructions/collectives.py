"""Warp collectives: shuffle, vote, match, redux, elect and matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ptx_types import Instruction, UnsupportedPtxError, c_type
from .registry import handles

if TYPE_CHECKING:
    from ..translate import FunctionTranslator


# ---- warp collectives


def _value_and_predicate(fn: FunctionTranslator, ins: Instruction, type_: str) -> str:
    """Write q and ok to `d|p` or `d`."""
    targets = ins.operands[0].split("|")
    code = fn.write(targets[0], "q", type_)
    return code + (" " + fn.write(targets[1], "ok", "pred") if len(targets) > 1 else "")


@handles("shfl")
def _shuffle(fn: FunctionTranslator, ins: Instruction) -> str:
    ins.take_required("sync")
    type_, mode = ins.take_type(), ins.take_required("up", "down", "bfly", "idx")
    value, lane, clamp, mask = (fn.read(o, "b32") for o in ins.operands[1:5])
    call = f"shuffle(Shuffle::{mode}, {value}, {lane}, {clamp}, {mask}, &ok, {ins.line})"
    return f"bool ok; u32 q = {call}; " + _value_and_predicate(fn, ins, type_)


@handles("vote")
def _vote(fn: FunctionTranslator, ins: Instruction) -> str:
    ins.take_required("sync")
    type_, mode = ins.take_type(), ins.take_required("all", "any", "uni", "ballot")
    predicate, mask = fn.read(ins.operands[1], "pred"), fn.read(ins.operands[2], "u32")
    result = {
        "ballot": "q",
        "any": "q != 0",
        "all": "q == self().group",
        "uni": "q == 0 || q == self().group",
    }[mode]
    return f"u32 q = ballot({predicate}, {mask}, {ins.line}); " + fn.write(
        ins.operands[0], result, type_
    )


@handles("match")
def _match(fn: FunctionTranslator, ins: Instruction) -> str:
    mode = ins.take_required("any", "all")
    ins.take_required("sync")
    type_ = ins.take_type()
    value, mask = fn.read(ins.operands[1], type_), fn.read(ins.operands[2], "u32")
    code = f"u32 q = match_any({value}, {mask}, {ins.line}); "
    if mode == "all":
        code += "bool ok = q == self().group; if (!ok) q = 0; "
    return code + _value_and_predicate(fn, ins, "b32")


@handles("redux")
def _redux(fn: FunctionTranslator, ins: Instruction) -> str:
    ins.take_required("sync")
    type_, operation = ins.take_type(), ins.take_required("add", "min", "max", "and", "or", "xor")
    if type_ == "f32":
        raise UnsupportedPtxError("redux on f32")
    operation += "_" if operation in ("and", "or", "xor") else ""
    value, mask = fn.read(ins.operands[1], type_), fn.read(ins.operands[2], "u32")
    call = f"redux<{c_type(type_)}>(Redux::{operation}, {value}, {mask}, {ins.line})"
    return fn.write(ins.operands[0], call, type_)


@handles("activemask")
def _active_mask(fn: FunctionTranslator, ins: Instruction) -> str:
    return fn.write(ins.operands[0], f"active_mask({ins.line})", ins.take_type())


@handles("elect")
def _elect(fn: FunctionTranslator, ins: Instruction) -> str:
    ins.take_required("sync")
    code = f"bool ok; u32 q = elect({fn.read(ins.operands[1], 'u32')}, &ok, {ins.line}); "
    return code + _value_and_predicate(fn, ins, "b32")


# ---- matrices


def _matrix_form(ins: Instruction) -> tuple[int, str]:
    """Number of 8x8 matrices, and whether they are transposed, in C++."""
    for modifier in ("sync", "aligned", "m8n8", "b16"):
        ins.take_required(modifier)
    ins.take_required("shared", "shared::cta")
    count = int(ins.take_required("x1", "x2", "x4")[1])
    return count, "true" if ins.take("trans") else "false"


@handles("ldmatrix")
def _load_matrix(fn: FunctionTranslator, ins: Instruction) -> str:
    count, transpose = _matrix_form(ins)
    targets = fn.vector(ins.operands[0]) or []
    address = f"shared_to_generic({fn.address(ins.operands[1])})"
    writes = " ".join(fn.write(t, f"q[{i}]", "b32") for i, t in enumerate(targets))
    return f"u32 q[4]; load_matrices({address}, {count}, {transpose}, q, {ins.line}); {writes}"


@handles("stmatrix")
def _store_matrix(fn: FunctionTranslator, ins: Instruction) -> str:
    count, transpose = _matrix_form(ins)
    address = f"shared_to_generic({fn.address(ins.operands[0])})"
    values = ", ".join(fn.read(s, "b32") for s in fn.vector(ins.operands[1]) or [])
    call = f"store_matrices({address}, {count}, {transpose}, q, {ins.line});"
    return f"u32 q[{count}] = {{{values}}}; {call}"


_MMA_OPERANDS = {  # input type -> C++ operand class, sizes of K
    "f16": ("F16Operand", (8, 16)),
    "bf16": ("Bf16Operand", (8, 16)),
    "tf32": ("Tf32Operand", (4, 8)),
}


@handles("mma")
def _mma(fn: FunctionTranslator, ins: Instruction) -> str:
    for modifier in ("sync", "aligned", "row", "col"):
        ins.take_required(modifier)
    shape, *types = ins.modifiers
    ins.modifiers = []
    d, a, b, c = (fn.vector(o) or [o] for o in ins.operands)
    if shape == "m8n8k4" and types == ["f64"] * 4:
        return _mma_f64(fn, ins, d, a, b, c)
    k = int(shape.split("k")[1])
    operand, sizes = _MMA_OPERANDS.get(types[1] if len(types) == 4 else "", ("", ()))
    if (
        not shape.startswith("m16n8k")
        or k not in sizes
        or types != ["f32", types[1], types[1], "f32"]
    ):
        raise UnsupportedPtxError(f"mma {shape} {' '.join(types)}")
    arrays = "".join(
        f"{t} {name}[] = {{{', '.join(fn.read(x, p) for x in registers)}}}; "
        for name, registers, t, p in (
            ("qa", a, "u32", "b32"),
            ("qb", b, "u32", "b32"),
            ("qc", c, "f32", "f32"),
        )
    )
    writes = " ".join(fn.write(t, f"qd[{i}]", "f32") for i, t in enumerate(d))
    return f"{arrays}f32 qd[4]; mma_16x8<{operand}, {k}>(qd, qa, qb, qc, {ins.line}); {writes}"


def _mma_f64(
    fn: FunctionTranslator, ins: Instruction, d: list[str], a: list[str], b: list[str], c: list[str]
) -> str:
    values = ", ".join(fn.read(x, "f64") for x in c)
    writes = " ".join(fn.write(t, f"qd[{i}]", "f64") for i, t in enumerate(d))
    a_value, b_value = fn.read(a[0], "f64"), fn.read(b[0], "f64")
    call = f"mma_8x8x4_f64(qd, {a_value}, {b_value}, qc, {ins.line})"
    return f"f64 qc[] = {{{values}}}, qd[2]; {call}; {writes}"
