"""Bit operations, comparison and selection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ptx_types import (
    FLOAT_TYPES,
    HALF_TYPES,
    PACKED_TYPES,
    Instruction,
    UnsupportedPtxError,
    c_type,
)
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


def _compared(fn: FunctionTranslator, ins: Instruction, type_: str, position: int = 0) -> str:
    """Declarations of x and y, the sources or, of a packed type, one element of each."""
    element, bits, whole = PACKED_TYPES.get(type_, (type_, 0, type_))
    values = [fn.read(o, whole) for o in ins.operands[1:3]]
    if bits:
        values = [
            f"read_as<{c_type(element)}>((u{bits})({v} >> {bits * position}))" for v in values
        ]
    cast = "(f32)" if element in HALF_TYPES else ""
    x, y = (cast + flushed(ins, v) for v in values)
    return f"auto x = {x}; auto y = {y};"


def _condition(ins: Instruction, type_: str) -> str:
    """The C++ condition that compares x and y."""
    name = ins.take_required(*_COMPARISONS, *_UNORDERED, "num", "nan")
    ins.take("ftz")
    if name in ("num", "nan"):
        return "(x == x && y == y)" if name == "num" else "(x != x || y != y)"
    if name in _UNORDERED:
        return f"(x {_COMPARISONS[name[:-1]]} y || x != x || y != y)"
    if name == "ne" and type_ in (*FLOAT_TYPES, *PACKED_TYPES):
        return "(x != y && x == x && y == y)"
    return f"(x {_COMPARISONS[name]} y)"


@handles("setp")
def _set_predicate(fn: FunctionTranslator, ins: Instruction) -> str:
    """The second predicate is the opposite of the first or, of a packed type, the high half's."""
    type_, targets = ins.take_type(), ins.operands[0].split("|")
    values = [_compared(fn, ins, type_, position) for position in range(len(targets))]
    condition = _condition(ins, type_)
    second = condition if type_ in PACKED_TYPES else f"!{condition}"
    combine = {"and": " & ", "or": " | ", "xor": " ^ ", None: ""}[ins.take("and", "or", "xor")]
    other = f"{combine}{fn.read(ins.operands[3], 'pred')}" if combine else ""
    code = "bool q[2]; "
    for i, result in zip(range(len(targets)), (condition, second), strict=False):
        code += f"{{ {values[i]} q[{i}] = {result}{other}; }} "
    return code + " ".join(fn.write(t, f"q[{i}]", "pred") for i, t in enumerate(targets))


@handles("set")
def _set(fn: FunctionTranslator, ins: Instruction) -> str:
    source, target = ins.take_type(), ins.take_type()
    if target not in ("u32", "s32", "f32"):
        raise UnsupportedPtxError("destination type")
    values, condition = _compared(fn, ins, source), _condition(ins, source)
    choices = "1.0f : 0.0f" if target == "f32" else "~0u : 0u"
    return f"{values} {fn.write(ins.operands[0], f'{condition} ? {choices}', target)}"


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
