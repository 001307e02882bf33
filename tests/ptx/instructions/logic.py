"""Bit operations, comparison and selection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ptx_types import FLOAT_TYPES, HALF_TYPES, Instruction, UnsupportedPtxError, c_type
from .registry import flushed, handles

if TYPE_CHECKING:
    from ..translate import FunctionTranslator


# ---- bits


@handles("and", "or", "xor")
def _bitwise(fn: FunctionTranslator, ins: Instruction) -> str:
    type_, sign = ins.take_type(), {"and": "&", "or": "|", "xor": "^"}[ins.opcode]
    a, b = (fn.read(o, type_) for o in ins.operands[1:])
    return fn.write(ins.operands[0], f"{a} {sign} {b}", type_)


@handles("not", "cnot")
def _complement(fn: FunctionTranslator, ins: Instruction) -> str:
    type_ = ins.take_type()
    sign = "~" if ins.opcode == "not" and type_ != "pred" else "!"
    return fn.write(ins.operands[0], f"{sign}{fn.read(ins.operands[1], type_)}", type_)


@handles("shl", "shr")
def _shift(fn: FunctionTranslator, ins: Instruction) -> str:
    type_, function = ins.take_type(), {"shl": "shift_left", "shr": "shift_right"}[ins.opcode]
    value, count = fn.read(ins.operands[1], type_), fn.read(ins.operands[2], "u32")
    return fn.write(ins.operands[0], f"{function}<{c_type(type_)}>({value}, {count})", type_)


@handles("shf")
def _funnel_shift(fn: FunctionTranslator, ins: Instruction) -> str:
    type_, direction = ins.take_type(), {"l": "left", "r": "right"}[ins.take_required("l", "r")]
    low, high, count = (fn.read(o, "u32") for o in ins.operands[1:])
    wraps = ins.take_required("wrap", "clamp") == "wrap"
    count = f"({count} & 31)" if wraps else f"smaller(32u, {count})"
    return fn.write(ins.operands[0], f"funnel_{direction}({low}, {high}, {count})", type_)


@handles("lop3")
def _lop3(fn: FunctionTranslator, ins: Instruction) -> str:
    type_ = ins.take_type()
    a, b, c = (fn.read(o, "b32") for o in ins.operands[1:4])
    return fn.write(ins.operands[0], f"lop3({a}, {b}, {c}, {ins.operands[4]})", type_)


@handles("prmt")
def _permute(fn: FunctionTranslator, ins: Instruction) -> str:
    type_ = ins.take_type()
    a, b, selector = (fn.read(o, "b32") for o in ins.operands[1:])
    return fn.write(ins.operands[0], f"permute_bytes({a}, {b}, {selector})", type_)


@handles("bfe")
def _extract(fn: FunctionTranslator, ins: Instruction) -> str:
    type_ = ins.take_type()
    value = fn.read(ins.operands[1], type_)
    position, length = (fn.read(o, "u32") for o in ins.operands[2:])
    return fn.write(
        ins.operands[0], f"extract_bits<{c_type(type_)}>({value}, {position}, {length})", type_
    )


@handles("bfi")
def _insert(fn: FunctionTranslator, ins: Instruction) -> str:
    type_ = ins.take_type()
    bits, base = (fn.read(o, type_) for o in ins.operands[1:3])
    position, length = (fn.read(o, "u32") for o in ins.operands[3:])
    value = f"insert_bits<{c_type(type_)}>({bits}, {base}, {position}, {length})"
    return fn.write(ins.operands[0], value, type_)


@handles("bfind", "brev", "clz", "popc")
def _count_bits(fn: FunctionTranslator, ins: Instruction) -> str:
    type_ = ins.take_type()
    value = fn.read(ins.operands[1], type_)
    if ins.opcode == "brev":
        return fn.write(ins.operands[0], f"reverse_bits<{c_type(type_)}>({value})", type_)
    as_shift = "true" if ins.take("shiftamt") else "false"
    expressions = {
        "bfind": f"find_leading_bit<{c_type(type_)}>({value}, {as_shift})",
        "clz": f"leading_zeros({value})",
        "popc": f"__builtin_popcountll({value})",
    }
    return fn.write(ins.operands[0], expressions[ins.opcode], "u32")


# ---- comparison and selection

_COMPARISONS = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "lo": "<",
    "ls": "<=",
    "hi": ">",
    "hs": ">=",
}
_UNORDERED = tuple(f"{name}u" for name in ("eq", "ne", "lt", "le", "gt", "ge"))


def _comparison(fn: FunctionTranslator, ins: Instruction, type_: str) -> tuple[str, str]:
    """Declarations of x and y, and the C++ condition that compares them."""
    name = ins.take_required(*_COMPARISONS, *_UNORDERED, "num", "nan")
    cast = "(f32)" if type_ in HALF_TYPES else ""
    x, y = (cast + flushed(ins, fn.read(o, type_)) for o in ins.operands[1:3])
    ins.take("ftz")
    declarations = f"auto x = {x}; auto y = {y}; "
    if name in ("num", "nan"):
        return declarations, "(x == x && y == y)" if name == "num" else "(x != x || y != y)"
    if name in _UNORDERED:
        return declarations, f"(x {_COMPARISONS[name[:-1]]} y || x != x || y != y)"
    if name == "ne" and type_ in FLOAT_TYPES:
        return declarations, "(x != y && x == x && y == y)"
    return declarations, f"(x {_COMPARISONS[name]} y)"


@handles("setp")
def _set_predicate(fn: FunctionTranslator, ins: Instruction) -> str:
    declarations, condition = _comparison(fn, ins, ins.take_type())
    combine = {"and": " & ", "or": " | ", "xor": " ^ ", None: ""}[ins.take("and", "or", "xor")]
    other = f"{combine}{fn.read(ins.operands[3], 'pred')}" if combine else ""
    targets = ins.operands[0].split("|")
    code = f"{declarations}bool yes = {condition}{other}, no = !{condition}{other}; "
    return code + " ".join(
        fn.write(t, v, "pred") for t, v in zip(targets, ("yes", "no"), strict=False)
    )


@handles("set")
def _set(fn: FunctionTranslator, ins: Instruction) -> str:
    source, target = ins.take_type(), ins.take_type()
    if target not in ("u32", "s32", "f32"):
        raise UnsupportedPtxError("destination type")
    declarations, condition = _comparison(fn, ins, source)
    values = "1.0f : 0.0f" if target == "f32" else "~0u : 0u"
    return declarations + fn.write(ins.operands[0], f"{condition} ? {values}", target)


@handles("selp")
def _select(fn: FunctionTranslator, ins: Instruction) -> str:
    type_ = ins.take_type()
    a, b = (fn.read(o, type_) for o in ins.operands[1:3])
    return fn.write(ins.operands[0], f"{fn.read(ins.operands[3], 'pred')} ? {a} : {b}", type_)


@handles("slct")
def _select_by_sign(fn: FunctionTranslator, ins: Instruction) -> str:
    condition, type_ = ins.take_type(), ins.take_type()
    a, b = (fn.read(o, type_) for o in ins.operands[1:3])
    sign = flushed(ins, fn.read(ins.operands[3], condition))
    ins.take("ftz")
    return fn.write(ins.operands[0], f"{sign} >= 0 ? {a} : {b}", type_)
