"""Control flow, barriers and fences."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..ptx_types import Instruction, UnsupportedPtxError, identifier
from .registry import handles

if TYPE_CHECKING:
    from ..translate import FunctionTranslator


# ---- control flow


@handles("bra")
def _branch(fn: FunctionTranslator, ins: Instruction) -> str:
    ins.take("uni")
    return fn.jump(ins.operands[0])


@handles("brx")
def _branch_indexed(fn: FunctionTranslator, ins: Instruction) -> str:
    ins.take_required("idx")
    ins.take("uni")
    index, table = ins.operands
    cases = "".join(
        f"case {i}: {fn.jump(label)} " for i, label in enumerate(fn.branch_table(table))
    )
    default = f'default: fail({ins.line}, "branch index out of range");'
    return f"switch ({fn.read(index, 'u32')}) {{ {cases}{default} }}"


@handles("ret", "exit")
def _return(fn: FunctionTranslator, ins: Instruction) -> str:
    ins.take("uni")
    if ins.opcode == "exit" and fn.text.kind != "entry":
        raise UnsupportedPtxError("exit inside a function")
    return "goto end_of_function;"


@handles("trap", "brkpt")
def _trap(fn: FunctionTranslator, ins: Instruction) -> str:
    return f'fail({ins.line}, "trap");'


@handles("call")
def _call(fn: FunctionTranslator, ins: Instruction) -> str:
    ins.take("uni")
    match = re.fullmatch(r"(?:\((.*?)\)\s*,\s*)?([\w$]+)\s*(?:,\s*\((.*?)\))?", ins.rest)
    if not match:
        raise UnsupportedPtxError("indirect call")
    names = [
        n.strip() for group in (match[1], match[3]) for n in (group or "").split(",") if n.strip()
    ]
    buffers = [fn.parameter_buffer(n) for n in names]
    if match[2] == "__assertfail":
        message, file, line = buffers[:3]
        return f"device_assert_failed(*(u64*){message}, *(u64*){file}, *(u32*){line}, {ins.line});"
    if match[2] not in fn.defined_functions:
        raise UnsupportedPtxError(f"call of external function {match[2]}")
    fn.callees.add(match[2])
    return f"function_{identifier(match[2])}({', '.join(buffers)});"


# ---- synchronisation


@handles("bar", "barrier")
def _barrier(fn: FunctionTranslator, ins: Instruction) -> str:
    aligned = "true" if ins.opcode == "bar" or "aligned" in ins.modifiers else "false"
    ins.take("aligned")
    ins.take("cta")
    if ins.take("warp"):
        ins.take_required("sync")
        return f"warp_barrier({fn.read(ins.operands[0], 'u32')}, {ins.line});"
    kind = ins.take_required("sync", "arrive", "red")
    if kind == "red":
        return _barrier_reduction(fn, ins, aligned)
    number = fn.read(ins.operands[0], "u32")
    count = fn.read(ins.operands[1], "u32") if len(ins.operands) > 1 else "0"
    if kind == "arrive":
        return f"arrive_at_barrier({number}, {count}, false, {ins.line});"
    return f"block_barrier({number}, {count}, false, {aligned}, {ins.line});"


def _barrier_reduction(fn: FunctionTranslator, ins: Instruction, aligned: str) -> str:
    operation = ins.take_required("and", "or", "popc")
    type_ = ins.take_type()
    target, number_operand, *count_operand, predicate_operand = ins.operands
    number, predicate = fn.read(number_operand, "u32"), fn.read(predicate_operand, "pred")
    count = fn.read(count_operand[0], "u32") if count_operand else "0"
    call = f"block_barrier({number}, {count}, {predicate}, {aligned}, {ins.line})"
    result = {"and": "result_and", "or": "result_or", "popc": "result_count"}[operation]
    return fn.write(target, f"{call}.{result}", type_)


@handles("membar", "fence")
def _fence(fn: FunctionTranslator, ins: Instruction) -> str:
    ins.take("sc", "acq_rel", "acquire", "release")
    ins.take("cta", "gpu", "sys", "gl", "cluster")
    return "fence();"


@handles("nanosleep")
def _sleep(fn: FunctionTranslator, ins: Instruction) -> str:
    ins.take_type()
    return "yield_thread();"


@handles("griddepcontrol")
def _grid_dependency(fn: FunctionTranslator, ins: Instruction) -> str:
    """Programmatic dependent launch: nothing else runs, so there is nothing to wait for."""
    ins.take("wait", "launch_dependents")
    return ""
