"""cvt: conversion between types."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ptx_types import (
    FLOAT_TYPES,
    HALF_TYPES,
    PACKED_TYPES,
    ROUNDING_MODES,
    Instruction,
    UnsupportedPtxError,
    c_type,
    size_of,
)
from .registry import flushed, handles, write_float

if TYPE_CHECKING:
    from ..translate import FunctionTranslator


# ---- conversion

_INTEGER_ROUNDING = {f"{mode}i": constant for mode, constant in ROUNDING_MODES.items()}


@handles("cvt")
def _convert(fn: FunctionTranslator, ins: Instruction) -> str:
    if "tf32" in ins.modifiers:
        return _convert_to_tf32(fn, ins)
    source, target = ins.take_type(), ins.take_type()
    if target in PACKED_TYPES:
        return _convert_to_packed(fn, ins, source, target)
    to_float, from_float = target in FLOAT_TYPES, source in FLOAT_TYPES
    if from_float and to_float:
        return _convert_float(fn, ins, source, target)
    if from_float:
        return _convert_to_integer(fn, ins, source, target)
    if to_float:
        return _convert_from_integer(fn, ins, source, target)
    value = fn.read(ins.operands[1], source)
    if ins.take("sat"):
        value = f"saturate_integer<{c_type(target)}>({value})"
    return fn.write(ins.operands[0], value, target)


def _convert_to_tf32(fn: FunctionTranslator, ins: Instruction) -> str:
    ins.take("tf32")
    if ins.take_type() != "f32":
        raise UnsupportedPtxError("source type")
    ties_to_even = "true" if ins.take_required("rna", "rn") == "rn" else "false"
    bits = fn.read(ins.operands[1], "b32")
    return fn.write(ins.operands[0], f"round_to_tf32({bits}, {ties_to_even})", "b32")


def _convert_to_packed(fn: FunctionTranslator, ins: Instruction, source: str, target: str) -> str:
    if source != "f32" or target == "f32x2" or ins.take_rounding() != "rn":
        raise UnsupportedPtxError("packed conversion")
    element = c_type(PACKED_TYPES[target][0])
    high, low = (flushed(ins, fn.read(o, "f32")) for o in ins.operands[1:3])
    ins.take("ftz")
    if ins.take("relu"):
        high, low = f"relu({high})", f"relu({low})"
    pair = fn.write(ins.operands[0], "(u32)high.bits << 16 | low.bits", "b32")
    return f"{element} high({high}), low({low}); {pair}"


def _float_source(fn: FunctionTranslator, ins: Instruction, source: str) -> str:
    value = flushed(ins, fn.read(ins.operands[1], source))
    return f"(f32){value}" if source in HALF_TYPES else value


def _convert_float(fn: FunctionTranslator, ins: Instruction, source: str, target: str) -> str:
    value = _float_source(fn, ins, source)
    to_integer, rounding = ins.take(*_INTEGER_ROUNDING), ins.take_rounding()
    if to_integer:
        value = f"round_to_integer({value}, {_INTEGER_ROUNDING[to_integer]})"
    elif rounding not in (None, "rn"):
        if target in HALF_TYPES:
            raise UnsupportedPtxError("directed rounding to half")
        value = f"rounded_convert<{c_type(target)}>({ROUNDING_MODES[rounding]}, (f64){value})"
    return write_float(fn, ins, value, target)


def _convert_to_integer(fn: FunctionTranslator, ins: Instruction, source: str, target: str) -> str:
    value = _float_source(fn, ins, source)
    ins.take("ftz")
    ins.take("sat")  # the conversion clamps in any case
    mode = _INTEGER_ROUNDING[ins.take_required(*_INTEGER_ROUNDING)]
    rounded = f"round_to_integer({value}, {mode})"
    return fn.write(ins.operands[0], f"float_to_integer<{c_type(target)}>({rounded})", target)


def _convert_from_integer(
    fn: FunctionTranslator, ins: Instruction, source: str, target: str
) -> str:
    value, rounding = fn.read(ins.operands[1], source), ins.take_rounding()
    if target in HALF_TYPES:
        if size_of(source) == 8 or rounding != "rn":
            raise UnsupportedPtxError("integer to half conversion")
        return write_float(fn, ins, f"(f64){value}", target)
    if rounding not in (None, "rn"):
        types = f"{c_type(target)}, {c_type(source)}"
        value = f"rounded_convert<{types}>({ROUNDING_MODES[rounding]}, {value})"
    return write_float(fn, ins, value, target)
