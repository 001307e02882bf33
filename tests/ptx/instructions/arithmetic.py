"""Arithmetic on floating point numbers and integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ptx_types import (
    FLOAT_TYPES,
    HALF_TYPES,
    ROUNDING_MODES,
    Instruction,
    UnsupportedPtxError,
    c_type,
    size_of,
    unsigned,
)
from .registry import flushed, handles, write_float

if TYPE_CHECKING:
    from ..translate import FunctionTranslator


# ---- floating point arithmetic

_FORMULAS = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "multiply({0}, {1})",
    "div": "{0} / {1}",
    "fma": "multiply_add({0}, {1}, {2})",
    "mad": "multiply_add({0}, {1}, {2})",
    "sqrt": "std::sqrt({0})",
    "rcp": "1 / {0}",
}
_HALF_FORMULAS = {
    "add": "(f32){0} + (f32){1}",
    "sub": "(f32){0} - (f32){1}",
    "mul": "(f32){0} * (f32){1}",
    "fma": "fma_half((f32){0}, (f32){1}, (f32){2})",
    "mad": "fma_half((f32){0}, (f32){1}, (f32){2})",
}
_FUNCTIONS = {
    "ex2": "std::exp2({0})",
    "lg2": "std::log2({0})",
    "sin": "std::sin({0})",
    "cos": "std::cos({0})",
    "tanh": "std::tanh({0})",
    "rsqrt": "1 / std::sqrt({0})",
}


def _float_arithmetic(fn: FunctionTranslator, ins: Instruction, type_: str) -> str:
    rounding = ins.take_rounding()
    ins.take("approx", "full")
    if ins.opcode in ("add", "mul", "sub", "fma"):
        ins.take("noftz")
    values = [flushed(ins, fn.read(o, type_)) for o in ins.operands[1:]]
    if type_ in HALF_TYPES:
        if rounding not in (None, "rn") or ins.opcode not in _HALF_FORMULAS:
            raise UnsupportedPtxError("half precision form")
        return write_float(fn, ins, _HALF_FORMULAS[ins.opcode].format(*values), type_)
    if rounding in (None, "rn"):
        return write_float(fn, ins, _FORMULAS[ins.opcode].format(*values), type_)
    c, name = c_type(type_), "fma" if ins.opcode == "mad" else ins.opcode
    arguments = (values + [f"({c})0"] * 2)[:3]
    call = f"rounded_{name}<{c}>({ROUNDING_MODES[rounding]}, {', '.join(arguments)})"
    return write_float(fn, ins, call, type_)


@handles("fma", "sqrt", "rcp")
def _float_only(fn: FunctionTranslator, ins: Instruction) -> str:
    return _float_arithmetic(fn, ins, ins.take_type())


@handles("ex2", "lg2", "sin", "cos", "tanh", "rsqrt")
def _float_function(fn: FunctionTranslator, ins: Instruction) -> str:
    """Approximations of the hardware are computed with the C library."""
    type_ = ins.take_type()
    ins.take("approx")
    value = flushed(ins, fn.read(ins.operands[1], type_))
    value = f"(f32){value}" if type_ in HALF_TYPES else value
    return write_float(fn, ins, _FUNCTIONS[ins.opcode].format(value), type_)


@handles("copysign")
def _copy_sign(fn: FunctionTranslator, ins: Instruction) -> str:
    type_ = ins.take_type()
    target, sign, magnitude = ins.operands
    return fn.write(
        target, f"std::copysign({fn.read(magnitude, type_)}, {fn.read(sign, type_)})", type_
    )


@handles("testp")
def _test_property(fn: FunctionTranslator, ins: Instruction) -> str:
    type_ = ins.take_type()
    x = fn.read(ins.operands[1], type_)
    tests = {
        "finite": f"std::isfinite({x})",
        "infinite": f"std::isinf({x})",
        "number": f"!std::isnan({x})",
        "notanumber": f"std::isnan({x})",
        "normal": f"std::isnormal({x})",
        "subnormal": f"std::fpclassify({x}) == FP_SUBNORMAL",
    }
    return fn.write(ins.operands[0], tests[ins.take_required(*tests)], "pred")


# ---- arithmetic on integers or floats


def _wide(type_: str) -> str:
    return "unsigned __int128" if size_of(type_) == 8 else "u64"


def _with_carry(fn: FunctionTranslator, ins: Instruction, type_: str, expression: str) -> str:
    code = f"auto q = {expression}; " + fn.write(ins.operands[0], "q", type_)
    return code + (f" carry = (q >> {8 * size_of(type_)}) & 1;" if ins.take("cc") else "")


@handles("add", "sub")
def _add(fn: FunctionTranslator, ins: Instruction) -> str:
    type_ = ins.take_type()
    if type_ in FLOAT_TYPES:
        return _float_arithmetic(fn, ins, type_)
    if "cc" in ins.modifiers:
        return _add_carry(fn, ins, type_)
    sign = "+" if ins.opcode == "add" else "-"
    if ins.take("sat"):
        a, b = (fn.read(o, type_) for o in ins.operands[1:])
        wide = f"(s64){a} {sign} (s64){b}"
        return fn.write(ins.operands[0], f"saturate_integer<{c_type(type_)}>({wide})", type_)
    a, b = (fn.read(o, unsigned(type_)) for o in ins.operands[1:])
    return fn.write(ins.operands[0], f"{a} {sign} {b}", type_)


@handles("addc", "subc")
def _add_with_carry(fn: FunctionTranslator, ins: Instruction) -> str:
    return _add_carry(fn, ins, ins.take_type())


def _add_carry(fn: FunctionTranslator, ins: Instruction, type_: str) -> str:
    sign, wide, u = "+" if ins.opcode.startswith("add") else "-", _wide(type_), unsigned(type_)
    carry_in = f" {sign} (int)carry" if ins.opcode.endswith("c") else ""
    a, b = fn.read(ins.operands[1], u), fn.read(ins.operands[2], u)
    return _with_carry(fn, ins, type_, f"({wide}){a} {sign} ({wide}){b}{carry_in}")


def _product(fn: FunctionTranslator, ins: Instruction, type_: str) -> tuple[str, str]:
    """Product by .lo, .hi or .wide, and its type."""
    a, b = (fn.read(o, type_) for o in ins.operands[1:3])
    part = ins.take("lo", "hi", "wide")
    if part == "wide":
        double = type_[0] + str(16 * size_of(type_))
        return f"({c_type(double)})({c_type(double)}){a} * ({c_type(double)}){b}", double
    if part == "hi":
        return f"multiply_high<{c_type(type_)}>({a}, {b})", type_
    if part != "lo":
        raise UnsupportedPtxError("needs .lo, .hi or .wide")
    return f"({c_type(type_)})((u64){a} * (u64){b})", type_


@handles("mul")
def _multiply(fn: FunctionTranslator, ins: Instruction) -> str:
    type_ = ins.take_type()
    if type_ in FLOAT_TYPES:
        return _float_arithmetic(fn, ins, type_)
    product, result_type = _product(fn, ins, type_)
    return fn.write(ins.operands[0], product, result_type)


@handles("mad", "madc")
def _multiply_add(fn: FunctionTranslator, ins: Instruction) -> str:
    type_ = ins.take_type()
    if type_ in FLOAT_TYPES:
        return _float_arithmetic(fn, ins, type_)
    product, result_type = _product(fn, ins, type_)
    u = unsigned(result_type)
    addend = fn.read(ins.operands[3], u)
    if ins.opcode == "mad" and "cc" not in ins.modifiers:
        return fn.write(ins.operands[0], f"({c_type(u)})({product}) + {addend}", result_type)
    wide = _wide(result_type)
    carry_in = " + (int)carry" if ins.opcode == "madc" else ""
    total = f"({wide})({c_type(u)})({product}) + ({wide}){addend}{carry_in}"
    return _with_carry(fn, ins, result_type, total)


@handles("div", "rem")
def _divide(fn: FunctionTranslator, ins: Instruction) -> str:
    type_ = ins.take_type()
    if type_ in FLOAT_TYPES:
        return _float_arithmetic(fn, ins, type_)
    function = "divide" if ins.opcode == "div" else "remainder"
    a, b = (fn.read(o, type_) for o in ins.operands[1:])
    return fn.write(ins.operands[0], f"{function}<{c_type(type_)}>({a}, {b})", type_)


@handles("neg")
def _negate(fn: FunctionTranslator, ins: Instruction) -> str:
    type_ = ins.take_type()
    if type_ in FLOAT_TYPES:
        value = flushed(ins, fn.read(ins.operands[1], type_))
        return write_float(fn, ins, f"-(f32){value}" if type_ in HALF_TYPES else f"-{value}", type_)
    return fn.write(ins.operands[0], f"0 - {fn.read(ins.operands[1], unsigned(type_))}", type_)


@handles("abs")
def _absolute(fn: FunctionTranslator, ins: Instruction) -> str:
    type_ = ins.take_type()
    if type_ in FLOAT_TYPES:
        value = flushed(ins, fn.read(ins.operands[1], type_))
        value = f"(f32){value}" if type_ in HALF_TYPES else value
        return write_float(fn, ins, f"std::fabs({value})", type_)
    value = fn.read(ins.operands[1], type_)
    return fn.write(ins.operands[0], f"{value} < 0 ? 0 - {value} : {value}", type_)


@handles("min", "max")
def _minimum(fn: FunctionTranslator, ins: Instruction) -> str:
    type_ = ins.take_type()
    if type_ not in FLOAT_TYPES:
        a, b = (fn.read(o, type_) for o in ins.operands[1:])
        function = {"min": "smaller", "max": "larger"}[ins.opcode]
        return fn.write(ins.operands[0], f"{function}<{c_type(type_)}>({a}, {b})", type_)
    c = "f64" if type_ == "f64" else "f32"
    values = [f"({c}){flushed(ins, fn.read(o, type_))}" for o in ins.operands[1:]]
    result = values[0]
    for value in values[1:]:
        result = f"float_{ins.opcode}<{c}>({result}, {value})"
    if ins.take("NaN"):
        any_nan = " || ".join(f"std::isnan({v})" for v in values)
        result = f"({any_nan}) ? ({c})NAN : {result}"
    return write_float(fn, ins, result, type_)
