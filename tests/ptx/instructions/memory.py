"""Loads, stores, addresses, atomics and asynchronous copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ptx_types import PACKED_TYPES, Instruction, UnsupportedPtxError, c_type, size_of
from .registry import handles

if TYPE_CHECKING:
    from ..translate import FunctionTranslator

# Modifiers of memory instructions that do not change what a single thread reads or writes.
_MEMORY_HINTS = (
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "nc",
    "weak",
    "volatile",
    "relaxed",
    "mmio",
    "cta",
    "gpu",
    "sys",
    "cluster",
    "unified",
)
_MEMORY_HINT_PREFIXES = ("L1::", "L2::", "level::")


# ---- data movement


def _take_memory_hints(ins: Instruction) -> None:
    while ins.take(*_MEMORY_HINTS):
        pass
    hints = ins.take_prefixed(*_MEMORY_HINT_PREFIXES)
    if "L2::cache_hint" in hints:
        ins.operands.pop()  # the cache policy


def _take_space(ins: Instruction) -> str:
    """Space of a memory instruction as an enumerator of the runtime."""
    name = ins.take(
        "global", "shared", "shared::cta", "local", "const", "param", "param::entry", "param::func"
    )
    if name is None:
        return "generic"
    base = name.split("::")[0]
    return {"const": "constant", "param": "parameter"}.get(base, base)


def _typed_address(fn: FunctionTranslator, operand: str, space: str) -> str:
    address = fn.address(operand)
    if space == "parameter" and fn.has_narrow_base(operand):
        return f"((u64)parameters + {address})"
    return f"shared_to_generic({address})" if space == "shared" else address


def _take_vector_width(ins: Instruction, operands: list[str]) -> None:
    width = ins.take("v2", "v4", "v8")
    if width and int(width[1:]) != len(operands):
        raise UnsupportedPtxError("vector width")


def touches_global(ins: Instruction) -> bool:
    """Whether it loads or stores global memory, as far as the text tells; atomics left out."""
    spaces = {m.split("::")[0] for m in ins.modifiers}
    if ins.opcode == "cp":
        return "global" in spaces
    return ins.opcode in ("ld", "ldu", "st") and not spaces & {"shared", "local", "const", "param"}


@handles("ld", "ldu")
def _load(fn: FunctionTranslator, ins: Instruction) -> str:
    type_, space = ins.take_type(), _take_space(ins)
    ordered = ins.take("acquire")
    _take_memory_hints(ins)
    targets = fn.vector(ins.operands[0]) or [ins.operands[0]]
    _take_vector_width(ins, targets)
    address = _typed_address(fn, ins.operands[1], space)
    shape = f"<{c_type(type_)}, {len(targets)}>"
    code = f"u64 at = {address}; auto q = load{shape}(at, Space::{space}, {ins.line}); "
    code += " ".join(fn.write(t, f"q.v[{i}]", type_) for i, t in enumerate(targets))
    return code + (" order_acquire((void*)at);" if ordered else "")


@handles("st")
def _store(fn: FunctionTranslator, ins: Instruction) -> str:
    type_, space = ins.take_type(), _take_space(ins)
    ordered = ins.take("release")
    _take_memory_hints(ins)
    sources = fn.vector(ins.operands[1]) or [ins.operands[1]]
    _take_vector_width(ins, sources)
    address = _typed_address(fn, ins.operands[0], space)
    shape = f"<{c_type(type_)}, {len(sources)}>"
    values = ", ".join(fn.read(s, type_) for s in sources)
    release = "order_release((void*)at); " if ordered else ""
    return (
        f"u64 at = {address}; Vector{shape} q{{{{{values}}}}}; {release}"
        f"store{shape}(at, q, Space::{space}, {ins.line});"
    )


@handles("mov")
def _move(fn: FunctionTranslator, ins: Instruction) -> str:
    type_ = ins.take_type()
    if type_ in PACKED_TYPES:
        type_ = PACKED_TYPES[type_][2]
    target, source = ins.operands
    targets, sources = fn.vector(target), fn.vector(source)
    if sources:
        bits = 8 * size_of(type_) // len(sources)
        parts = [
            f"({c_type(type_)})({fn.read(s, f'b{bits}')}) << {bits * i}"
            for i, s in enumerate(sources)
        ]
        return fn.write(target, " | ".join(parts), type_)
    if targets:
        bits = 8 * size_of(type_) // len(targets)
        writes = [fn.write(t, f"q >> {bits * i}", f"b{bits}") for i, t in enumerate(targets)]
        return f"auto q = {fn.read(source, f'b{8 * size_of(type_)}')}; " + " ".join(writes)
    offset = fn.parameter_offset(source) if size_of(type_) == 4 else None
    return fn.write(target, fn.read(source, type_) if offset is None else str(offset), type_)


@handles("cvta")
def _convert_address(fn: FunctionTranslator, ins: Instruction) -> str:
    type_, to_space, space = ins.take_type(), ins.take("to"), _take_space(ins)
    value = fn.read(ins.operands[1], type_)
    if space == "shared":
        value = f"generic_to_shared({value})" if to_space else f"shared_to_generic({value})"
    return fn.write(ins.operands[0], value, type_)


@handles("isspacep")
def _is_space(fn: FunctionTranslator, ins: Instruction) -> str:
    space = ins.take_required("global", "shared", "shared::cta", "local").split("::")[0]
    return fn.write(ins.operands[0], f"in_{space}({fn.read(ins.operands[1], 'u64')})", "pred")


@handles("prefetch", "prefetchu", "applypriority")
def _cache_hint(fn: FunctionTranslator, ins: Instruction) -> str:
    ins.modifiers.clear()
    return ""


@handles("createpolicy")
def _create_policy(fn: FunctionTranslator, ins: Instruction) -> str:
    """A policy is an opaque number that only the cache reads."""
    ins.modifiers.clear()
    return fn.write(ins.operands[0], "0", "b64")


# ---- atomics

_ATOMICS = ("add", "exch", "cas", "min", "max", "and", "or", "xor", "inc", "dec")


@handles("atom", "red")
def _atomic(fn: FunctionTranslator, ins: Instruction) -> str:
    operation, type_, space = ins.take_required(*_ATOMICS), ins.take_type(), _take_space(ins)
    operation += "_" if operation in ("and", "or", "xor") else ""
    ordered = "true" if ins.take("acquire", "release", "acq_rel") else "false"
    ins.take("noftz")
    _take_memory_hints(ins)
    target = ins.operands[0] if ins.opcode == "atom" else None
    address, value, *swap = ins.operands[1:] if target else ins.operands
    if space not in ("global", "shared", "generic"):
        raise UnsupportedPtxError(f"atomic on {space} memory")
    base = f"u64 at = {_typed_address(fn, address, space)}; "
    tail = f"Space::{space}, {ordered}, {ins.line}"
    if ins.take("v2", "v4", "v8") or type_ in PACKED_TYPES:
        return base + _atomic_elements(fn, target, value, type_, operation, tail)
    c = c_type(type_)
    swap_value = fn.read(swap[0], type_) if swap else f"{c}()"
    call = f"atomic<{c}>(Atomic::{operation}, at, {fn.read(value, type_)}, {swap_value}, {tail})"
    return base + (fn.write(target, call, type_) if target else f"{call};")


def _atomic_elements(
    fn: FunctionTranslator, target: str | None, value: str, type_: str, operation: str, tail: str
) -> str:
    """Vector and packed atomics are atomic per element."""
    element, bits, whole = PACKED_TYPES.get(type_, (type_, 0, type_))
    c = c_type(element)
    per_register = 2 if bits else 1
    values = fn.vector(value) or [value]
    targets = (fn.vector(target) or [target]) if target else []
    code = f"{c} old[{len(values) * per_register}]; "
    for i, register in enumerate(values):
        for part in range(per_register):
            operand = fn.read(register, whole)
            if bits:
                operand = f"read_as<{c}>((u{bits})({operand} >> {bits * part}))"
            index = i * per_register + part
            arguments = f"at + {index} * sizeof({c}), {operand}, {c}(), {tail}"
            code += f"old[{index}] = atomic<{c}>(Atomic::{operation}, {arguments}); "
    for i, register in enumerate(targets):
        if bits:
            pair = f"({c_type(whole)})old[{2 * i + 1}].bits << {bits} | old[{2 * i}].bits"
            code += fn.write(register, pair, whole) + " "
        else:
            code += fn.write(register, f"old[{i}]", element) + " "
    return code


# ---- asynchronous copies


@handles("cp")
def _copy_async(fn: FunctionTranslator, ins: Instruction) -> str:
    ins.take_required("async")
    action = ins.take("commit_group", "wait_group", "wait_all", "ca", "cg")
    if action == "commit_group":
        return "async_commit();"
    if action == "wait_group":
        return f"async_wait_group({ins.operands[0]});"
    if action == "wait_all":
        return "async_wait_all();"
    if action is None:
        raise UnsupportedPtxError("only cp.async of 4, 8 or 16 bytes")
    ins.take_required("shared", "shared::cta")
    ins.take_required("global")
    _take_memory_hints(ins)
    to, source = f"shared_to_generic({fn.address(ins.operands[0])})", fn.address(ins.operands[1])
    size = ins.operands[2]
    source_size = fn.read(ins.operands[3], "u32") if len(ins.operands) > 3 else size
    return f"async_copy({to}, {source}, {size}, {source_size}, {ins.line});"
