"""C++ for each PTX instruction; one module per group of instructions."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from ..ptx_types import PACKED_TYPES, Instruction, UnsupportedPtxError, c_type
from . import arithmetic, collectives, control, conversion, logic, memory  # noqa: F401 (fill the table)
from .registry import HANDLERS, Handler

if TYPE_CHECKING:
    from ..translate import FunctionTranslator

_PACKABLE = ("add", "sub", "mul", "fma", "min", "max", "neg", "abs", "ex2", "tanh")


def translate_instruction(fn: FunctionTranslator, ins: Instruction) -> str:
    """C++ statements of an instruction; raises UnsupportedPtxError if a part is not understood."""
    handler = HANDLERS.get(ins.opcode)
    if handler is None:
        raise UnsupportedPtxError(f"unknown instruction {ins.opcode}")
    packed = ins.modifiers[-1] if ins.modifiers and ins.modifiers[-1] in PACKED_TYPES else None
    if packed and ins.opcode in _PACKABLE:
        return _packed(fn, ins, handler, packed)
    code = handler(fn, ins)
    ins.refuse_unused()
    return code


def _packed(fn: FunctionTranslator, ins: Instruction, handler: Handler, packed_type: str) -> str:
    """Run a scalar handler on each element of f16x2, bf16x2 or f32x2 operands."""
    element, bits, whole = PACKED_TYPES[packed_type]
    temporary_type = f"u{bits}"
    code, results = [], []
    for position in range(2):
        scalar = copy.deepcopy(ins)
        scalar.modifiers[-1] = element
        fn.scopes.append(type(fn.scopes[0])())
        loads = []
        for index, operand in enumerate(ins.operands):
            variable = fn.unique_name("element")
            value = (
                f"({temporary_type})({fn.read(operand, whole)} >> {bits * position})"
                if index
                else "0"
            )
            loads.append((f"%{variable}", variable, f"{temporary_type} {variable} = {value};"))
        for name, variable, declaration in loads:
            fn.bind_temporary(name, variable, temporary_type)
            code.append(declaration)
        scalar.operands = [name for name, _, _ in loads]
        code.append("{ " + handler(fn, scalar) + " }")
        scalar.refuse_unused()
        fn.scopes.pop()
        results.append(loads[0][1])
    result = f"({c_type(whole)}){results[1]} << {bits} | {results[0]}"
    return " ".join(code) + " " + fn.write(ins.operands[0], result, whole)
