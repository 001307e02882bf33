"""Table of instruction handlers and what several of them share.

A handler receives the function translator (for operands) and the instruction, takes the modifiers
it understands and returns C++ statements. A modifier that nobody took makes the instruction
unsupported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..ptx_types import Instruction, c_type

if TYPE_CHECKING:
    from ..translate import FunctionTranslator

Handler = Callable[["FunctionTranslator", Instruction], str]

HANDLERS: dict[str, Handler] = {}


def handles(*opcodes: str) -> Callable[[Handler], Handler]:
    """Decorator: the function translates these opcodes."""

    def register(handler: Handler) -> Handler:
        for opcode in opcodes:
            HANDLERS[opcode] = handler
        return handler

    return register


def flushed(ins: Instruction, value: str) -> str:
    """An input value, with subnormals flushed if the instruction has .ftz."""
    return f"flush_subnormal({value})" if "ftz" in ins.modifiers else value


def write_float(fn: FunctionTranslator, ins: Instruction, value: str, type_: str) -> str:
    """Apply .relu, .sat and .ftz to a result, then write it."""
    c = c_type(type_)
    value = f"({c})({value})"
    if ins.take("relu"):
        value = f"({c})relu((f32){value})"
    if ins.take("sat"):
        value = f"({c})saturate<{'f64' if type_ == 'f64' else 'f32'}>({value})"
    if ins.take("ftz"):
        value = f"flush_subnormal({value})"
    return fn.write(ins.operands[0], value, type_)
