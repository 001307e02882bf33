"""Translate PTX text (from nvcc or Triton) to C++ for the runtime in runtime/.

One C++ function is made per PTX function. Registers become local variables that hold raw bits,
labels stay labels and branches become goto. Instructions are translated in instructions/.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from . import instructions
from .ptx_types import (
    FLOAT_TYPES,
    HALF_TYPES,
    TYPES,
    Instruction,
    PtxError,
    UnsupportedPtxError,
    c_type,
    identifier,
    register_type,
    size_of,
    split_operands,
)

LOCAL_BYTES_LIMIT = 128 << 10  # half of a fiber's stack

SPECIAL_REGISTERS = {
    "%laneid": "self().lane()",
    "%warpid": "self().warp()",
    "%nwarpid": "((machine.thread_count + 31) / 32)",
    "%lanemask_eq": "(1u << self().lane())",
    "%lanemask_lt": "((1u << self().lane()) - 1)",
    "%lanemask_le": "(((1u << self().lane()) - 1) | 1u << self().lane())",
    "%lanemask_gt": "(~((1u << self().lane()) - 1) & ~(1u << self().lane()))",
    "%lanemask_ge": "(~((1u << self().lane()) - 1))",
    "%dynamic_smem_size": "machine.dynamic_shared_bytes",
    "%total_smem_size": "machine.shared_bytes",
    "%cluster_ctarank": "0u",
    "%cluster_nctarank": "1u",
    "WARP_SZ": "32u",
}
for _axis in "xyz":
    SPECIAL_REGISTERS |= {
        f"%tid.{_axis}": f"self().index.{_axis}",
        f"%ntid.{_axis}": f"machine.block.{_axis}",
        f"%ctaid.{_axis}": f"running->index.{_axis}",
        f"%nctaid.{_axis}": f"machine.grid.{_axis}",
    }

_FUNCTION = re.compile(r"((?:\.(?:visible|weak|extern|common)\s+)*)\.(entry|func)\b")
_SIGNATURE = re.compile(
    r"\s*(?:\.attribute\([^)]*\)\s*)?(\([^()]*\))?\s*([\w$]+)\s*(\(([^()]*)\))?"
)
_MODULE_VARIABLE = re.compile(
    r"((?:\.(?:visible|extern|weak|common)\s+)*)\.(global|const|shared)\s+"
    r"(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$.]+)\s*((?:\[\d*\]\s*)*)(?:=\s*(.*))?$",
    re.S,
)
_BODY_VARIABLE = re.compile(
    r"\.(local|param|shared)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$.]+)\s*(?:\[(\d+)\])?$"
)
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+"
    r"(?:\.ptr\s*(?:\.(?:global|shared|const|local)\s*)?(?:\.align\s+\d+\s*)?)?"
    r"([\w$]+)\s*(?:\[(\d+)\])?$",
    re.S,
)
_LABEL = re.compile(r"([\w$]+):(?!:)")


@dataclass(frozen=True)
class Parameter:
    """A kernel parameter and its place in the parameter block."""

    name: str
    type: str
    offset: int
    size: int


@dataclass
class Entry:
    """A kernel of the module."""

    name: str
    parameters: list[Parameter]
    parameter_bytes: int
    max_threads: int | None = None  # .maxntid
    required_block: tuple[int, ...] | None = None  # .reqntid


@dataclass
class Translation:
    """C++ text of a module, its kernels, and why others were refused."""

    cpp: str
    entries: dict[str, Entry]
    refused: dict[str, UnsupportedPtxError]

    def entry(self, name: str) -> Entry:
        """The kernel of that name; raises if it was refused or does not exist."""
        if name in self.refused:
            raise self.refused[name]
        if name not in self.entries:
            known = ", ".join([*self.entries, *self.refused])
            raise PtxError(f"no kernel {name!r} in this module; it has: {known}")
        return self.entries[name]


def translate(
    ptx: str, file_name: str = "kernel.ptx", only: Sequence[str] | None = None
) -> Translation:
    """Translate a PTX module, or only some of its kernels.

    A kernel that cannot be translated is listed in `refused`.
    """
    return _Module(ptx, file_name).translate(only)


def _strip_comments_and_debug(ptx: str) -> str:
    """Blank out what does not matter, keeping line numbers."""
    ptx = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), ptx, flags=re.S)
    ptx = re.sub(r"//[^\n]*", "", ptx)
    ptx = re.sub(r"^\s*\.section\b.*\Z", "", ptx, flags=re.M | re.S)
    return re.sub(r"^[ \t]*\.(loc|file)\b[^\n]*", "", ptx, flags=re.M)


def _closing_brace(text: str, opening: int) -> int:
    depth = 0
    for position in range(opening, len(text)):
        depth += (text[position] == "{") - (text[position] == "}")
        if depth == 0:
            return position
    raise UnsupportedPtxError("unbalanced braces")


def _align(offset: int, alignment: int) -> int:
    return (offset + alignment - 1) // alignment * alignment


@dataclass
class _FunctionText:
    kind: str
    name: str
    result: str
    parameters: str
    directives: str
    body: str
    line: int


class _SharedLayout:
    """Offsets of shared variables; the dynamic part lies behind the static one."""

    def __init__(self) -> None:
        self.offsets: dict[str, int] = {}
        self.dynamic_names: set[str] = set()
        self.dynamic_alignment = 1
        self._static_bytes = 0

    @property
    def size(self) -> int:
        """Static bytes, padded for the dynamic part if there is one."""
        return _align(self._static_bytes, self.dynamic_alignment)

    def add(self, name: str, alignment: int, size: int) -> None:
        self.offsets[name] = _align(self._static_bytes, alignment)
        self._static_bytes = self.offsets[name] + size

    def add_dynamic(self, name: str, alignment: int) -> None:
        self.dynamic_names.add(name)
        self.dynamic_alignment = max(self.dynamic_alignment, alignment)

    def add_declarations(self, body: str) -> None:
        """Add the variables declared in a function body."""
        pattern = r"\.shared\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$.]+)\s*(?:\[(\d+)\])?\s*;"
        for alignment, type_, name, count in re.findall(pattern, body):
            self.add(name, int(alignment or size_of(type_)), size_of(type_) * int(count or 1))

    def address(self, name: str) -> str | None:
        """C++ expression of a variable's offset, or None if it is not shared."""
        if name in self.dynamic_names:
            return "dynamic_shared_offset()"
        return f"{self.offsets[name]}ull" if name in self.offsets else None


class _Module:
    """State of one translation: module variables, shared memory layout, functions."""

    def __init__(self, ptx: str, file_name: str):
        self.file_name = file_name
        self.text = _strip_comments_and_debug(ptx)
        self.variables: dict[str, str] = {}
        self.variable_code: list[str] = []
        self.shared = _SharedLayout()  # of module variables and of functions that kernels call
        self.functions: list[_FunctionText] = []

    def translate(self, only: Sequence[str] | None) -> Translation:
        self._read_top_level()
        if only is not None:
            self.functions = [f for f in self.functions if f.kind == "func" or f.name in only]
        for function in self.functions:
            if function.kind == "func":
                self.shared.add_declarations(function.body)
        translated, refused = self._translate_functions()
        entries = {f.text.name: f.entry() for f in translated if f.text.kind == "entry"}
        return Translation(self._assemble(translated), entries, refused)

    # ---- reading the text

    def _read_top_level(self) -> None:
        position, text = 0, self.text
        while True:
            position = re.compile(r"\s*").match(text, position).end()
            if position >= len(text):
                break
            if _FUNCTION.match(text, position):
                position = self._read_function(position)
                continue
            one_line = text.startswith((".version", ".target", ".address_size"), position)
            end = text.find("\n" if one_line else ";", position)
            if end < 0:
                raise UnsupportedPtxError(f"line {self._line(position)}: unfinished statement")
            statement = text[position:end].strip()
            if statement and not one_line and not statement.startswith((".pragma", ".alias")):
                self._read_variable(statement, self._line(position))
            position = end + 1

    def _line(self, position: int) -> int:
        return self.text.count("\n", 0, position) + 1

    def _read_function(self, position: int) -> int:
        """Store a function definition (prototypes are skipped); returns where it ends."""
        kind = _FUNCTION.match(self.text, position)
        signature = _SIGNATURE.match(self.text, kind.end())
        if not signature:
            raise UnsupportedPtxError(f"line {self._line(position)}: function header")
        opening = self.text.find("{", signature.end())
        semicolon = self.text.find(";", signature.end())
        if semicolon >= 0 and (opening < 0 or semicolon < opening):
            return semicolon + 1
        closing = _closing_brace(self.text, opening)
        self.functions.append(
            _FunctionText(
                kind=kind[2],
                name=signature[2],
                result=(signature[1] or "").strip("() \n"),
                parameters=signature[4] or "",
                directives=self.text[signature.end() : opening],
                body=self.text[opening + 1 : closing],
                line=self._line(opening),
            )
        )
        return closing + 1

    def _read_variable(self, statement: str, line: int) -> None:
        match = _MODULE_VARIABLE.match(statement)
        if not match or match[4] not in TYPES:
            raise UnsupportedPtxError(f"line {line}: module statement: {statement[:100]}")
        linkage, space, alignment, type_, name, dimensions, initialiser = match.groups()
        count = 1
        for dimension in re.findall(r"\[(\d*)\]", dimensions):
            count *= int(dimension or 0)
        alignment = int(alignment or size_of(type_))
        if space == "shared" and "extern" in linkage:
            self.shared.add_dynamic(name, alignment)
        elif space == "shared":
            self.shared.add(name, alignment, size_of(type_) * count)
        elif "extern" in linkage:
            raise UnsupportedPtxError(f"line {line}: external variable {name}")
        else:
            self._define_variable(name, type_, alignment, max(count, 1), initialiser, line)

    def _define_variable(
        self, name: str, type_: str, alignment: int, count: int, initialiser: str | None, line: int
    ) -> None:
        values = [
            self._literal(v, type_, line)
            for v in split_operands((initialiser or "").strip("{} \n"))
        ]
        variable = identifier(name)
        element = register_type(type_) if size_of(type_) > 1 else "u8"
        self.variables[name] = variable
        self.variable_code.append(
            f"alignas({max(alignment, 16)}) static {element} "
            f"{variable}[{count}] = {{{', '.join(values)}}};\n"
            f"static ModuleVariable range_{variable}({variable}, sizeof {variable});"
        )

    def _literal(self, text: str, type_: str, line: int) -> str:
        if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
            return f"0x{text[2:]}u"
        if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
            return f"0x{text[2:]}ull"
        if re.fullmatch(r"-?(\d+|0x[0-9a-fA-F]+)U?", text):
            mask = (1 << 8 * size_of(type_)) - 1
            return hex(int(text.rstrip("U"), 0) & mask)
        raise UnsupportedPtxError(f"line {line}: initialiser {text[:40]}")

    # ---- functions

    def _translate_functions(
        self,
    ) -> tuple[list[FunctionTranslator], dict[str, UnsupportedPtxError]]:
        defined = {f.name for f in self.functions if f.kind == "func"}
        translated: list[FunctionTranslator] = []
        refused: dict[str, UnsupportedPtxError] = {}
        for text in self.functions:
            function = self._translate_function(text, defined)
            if isinstance(function, UnsupportedPtxError):
                refused[text.name] = function
            else:
                translated.append(function)
        while True:  # refuse the callers of refused functions too
            callers = [f for f in translated if f.callees & refused.keys()]
            if not callers:
                break
            for function in callers:
                refused[function.text.name] = refused[(function.callees & refused.keys()).pop()]
                translated.remove(function)
        entry_names = {f.name for f in self.functions if f.kind == "entry"}
        return translated, {name: error for name, error in refused.items() if name in entry_names}

    def _translate_function(
        self, text: _FunctionText, defined: set[str]
    ) -> FunctionTranslator | UnsupportedPtxError:
        """The translated function, or why it is refused."""
        try:
            function = FunctionTranslator(self, text, defined)
            function.translate()
        except UnsupportedPtxError as error:
            return error
        return function

    def _assemble(self, functions: list[FunctionTranslator]) -> str:
        entries = [f for f in functions if f.text.kind == "entry"]
        table = "".join(
            f'  {{"{f.text.name}", {f.cpp_name}, {f.shared.size}u}},\n' for f in entries
        )
        parts = ['#include "ptx_runtime.h"', "using namespace ptx;", *self.variable_code]
        parts += [f"{f.cpp_signature};" for f in functions]
        parts += [f.cpp for f in functions]
        parts.append(
            f'#line 1 "entries"\nnamespace ptx {{\nconst Entry module_entries[] = {{\n{table}'
            f"  {{nullptr, nullptr, 0}}}};\nconst u32 module_entry_count = {len(entries)};\n}}\n"
        )
        return "\n".join(parts)


@dataclass
class _Scope:
    """Names declared between a pair of braces."""

    suffix: str = ""
    registers: dict[str, tuple[str, str]] = field(
        default_factory=dict
    )  # name -> (C++ variable, type)
    families: dict[str, str] = field(default_factory=dict)  # prefix of %r<10> -> C++ type
    labels: dict[str, str] = field(default_factory=dict)
    branch_targets: dict[str, list[str]] = field(default_factory=dict)


def _is_float_of(held: str, type_: str) -> bool:
    """Whether `type_` is a float that fills a register of C++ type `held`."""
    return type_ in ("f32", "f64") and held in TYPES and size_of(held) == size_of(type_)


class FunctionTranslator:
    """Translates one function; offers instructions.py access to operands."""

    def __init__(self, module: _Module, text: _FunctionText, defined_functions: set[str]):
        self.module = module
        self.text = text
        self.defined_functions = defined_functions
        self.callees: set[str] = set()
        self.shared = copy.deepcopy(module.shared)
        if text.kind == "entry":
            self.shared.add_declarations(text.body)
        self.scopes = [_Scope()]
        self.declarations: list[str] = []
        self.code: list[str] = []
        self.memory: dict[
            str, str
        ] = {}  # .param and .local names -> C++ expression of their address
        self.local_bytes = 0
        self.unique = 0
        self.labels_seen: set[str] = set()
        self.counter: int | None = None  # the line of code that counts a basic block
        self.instructions = 0  # of it, so far
        self.parameters = self._read_parameters()
        self.cpp_name = ("entry_" if text.kind == "entry" else "function_") + identifier(text.name)

    @property
    def cpp_signature(self) -> str:
        if self.text.kind == "entry":
            return f"static void {self.cpp_name}(const char* parameters)"
        arguments = ", ".join(f"char* {identifier(p.name)}" for p in self.parameters)
        return f"static void {self.cpp_name}({arguments})"

    @property
    def cpp(self) -> str:
        lines = [
            *self.declarations,
            "bool carry = false;",
            "(void)carry;",
            *self.code,
            "end_of_function:;",
        ]
        if self.text.kind == "entry":
            lines.append("async_exit();")
        return f"{self.cpp_signature} {{\n" + "\n".join(f"  {line}" for line in lines) + "\n}"

    def entry(self) -> Entry:
        """Description of a kernel for the launcher."""
        size = self.parameters[-1].offset + self.parameters[-1].size if self.parameters else 0
        entry = Entry(self.text.name, self.parameters, size)
        for name, values in re.findall(r"\.(maxntid|reqntid)\s+([\d,\s]+)", self.text.directives):
            shape = tuple(int(v) for v in values.replace(",", " ").split())
            if name == "reqntid":
                entry.required_block = ((*shape, 1, 1))[:3]
            else:
                entry.max_threads = shape[0] * ((*shape, 1, 1))[1] * ((*shape, 1, 1))[2]
        return entry

    def _read_parameters(self) -> list[Parameter]:
        parameters, offset = [], 0
        for text in split_operands(self.text.result) + split_operands(self.text.parameters):
            match = _PARAMETER.match(text)
            if not match or match[2] not in TYPES:
                raise UnsupportedPtxError(f"{self.text.name}: parameter {text}")
            size = size_of(match[2]) * int(match[4] or 1)
            offset = _align(offset, int(match[1] or size_of(match[2])))
            parameters.append(Parameter(match[3], match[2], offset, size))
            is_entry = self.text.kind == "entry"
            self.memory[match[3]] = f"(parameters + {offset})" if is_entry else identifier(match[3])
            offset += size
        return parameters

    # ---- walking the body

    def translate(self) -> None:
        """Fill `code` and `declarations`; raises UnsupportedPtxError with the PTX line."""
        body, position, line = self.text.body, 0, self.text.line
        self._declare_labels("{" + body + "}", 0)
        while position < len(body):
            start = position
            char = body[position]
            if char == "{":
                self._open_scope(body, position)
            elif char == "}":
                self.scopes.pop()
            elif _LABEL.match(body, position):
                position = self._read_label(body, position, line) - 1
            elif not char.isspace() and char != ";":
                position = self._statement_end(body, position)
                self._translate_statement(" ".join(body[start:position].split()), line)
            position += 1
            line += body.count("\n", start, position)
        self._end_block()

    def _end_block(self) -> None:
        """Have what has been translated since the last jump or label counted when it starts."""
        if self.counter is not None:
            self.code[self.counter] = f"count_instructions({self.instructions});"
        self.counter, self.instructions = None, 0

    def _open_scope(self, body: str, position: int) -> None:
        self.unique += 1
        self.scopes.append(_Scope(suffix=f"_{self.unique}"))
        self._declare_labels(body, position)

    def _declare_labels(self, text: str, opening: int) -> None:
        scope = self.scopes[-1]
        inside = text[opening : _closing_brace(text, opening)]
        for name in re.findall(r"(?:^|[\s;{}])([\w$]+):(?!:)", inside):
            scope.labels[name] = f"label{scope.suffix}_{identifier(name)}"

    def _read_label(self, body: str, position: int, line: int) -> int:
        """A jump target, or the name of a branch table; returns where the statement ends."""
        match = _LABEL.match(body, position)
        table_pattern = re.compile(r"\s*\.(branchtargets|callprototype|calltargets)\b([^;]*);")
        table = table_pattern.match(body, match.end())
        if not table:
            self._end_block()
            self.code.append(f"{self.label(match[1])}:;")
            self.labels_seen.add(self.label(match[1]))
            return match.end()
        if table[1] != "branchtargets":
            raise UnsupportedPtxError(f"{self.text.name} line {line}: .{table[1]} (indirect call)")
        self.scopes[-1].branch_targets[match[1]] = split_operands(table[2])
        return table.end()

    @staticmethod
    def _statement_end(body: str, position: int) -> int:
        depth = 0
        while body[position] != ";" or depth:
            depth += (body[position] == "{") - (body[position] == "}")
            position += 1
        return position

    def _translate_statement(self, statement: str, line: int) -> None:
        try:
            if statement.startswith("."):
                self._translate_directive(statement)
            else:
                self._translate_instruction(statement, line)
        except UnsupportedPtxError as error:
            where = f"{self.text.name} line {line}: {statement[:160]}"
            raise UnsupportedPtxError(f"{where}: {error}") from None

    def _translate_directive(self, statement: str) -> None:
        registers = re.match(r"\.reg\s*\.(\w+)\s+(.*)$", statement)
        variable = _BODY_VARIABLE.match(statement)
        if registers and registers[1] in TYPES:
            for name in registers[2].split(","):
                self._declare_register(name.strip(), register_type(registers[1]))
        elif variable and variable[3] in TYPES:
            self._declare_memory(*variable.groups())
        elif not statement.startswith(".pragma"):
            raise UnsupportedPtxError("directive")

    def _declare_register(self, name: str, type_: str) -> None:
        family = re.match(r"(.*)<\d+>$", name)
        if family:
            self.scopes[-1].families[family[1]] = type_
            return
        self.unique += 1
        variable = f"{identifier(name)}_{self.unique}"
        self.scopes[-1].registers[name] = (variable, type_)
        self.declarations.append(f"{type_} {variable} = 0;")

    def _declare_memory(
        self, space: str, alignment: str, type_: str, name: str, count: str
    ) -> None:
        if space == "shared":
            return  # already in the layout
        size = size_of(type_) * int(count or 1)
        self.local_bytes += size
        if self.local_bytes > LOCAL_BYTES_LIMIT:
            raise UnsupportedPtxError(f"more than {LOCAL_BYTES_LIMIT} bytes of local memory")
        self.unique += 1
        variable = f"{identifier(name)}_{self.unique}"
        self.memory[name] = variable
        self.declarations.append(
            f"alignas({max(int(alignment or 1), 16)}) char {variable}[{size}];"
        )

    def _translate_instruction(self, statement: str, line: int) -> None:
        guard = ""
        guarded = re.match(r"@(!?)\s*(%?[\w$]+)\s+(.*)$", statement)
        if guarded:
            guard = f"if ({guarded[1]}{self.read(guarded[2], 'pred')}) "
            statement = guarded[3]
        opcode, _, rest = statement.partition(" ")
        opcode, *modifiers = opcode.split(".")
        instruction = Instruction(opcode, modifiers, split_operands(rest), line, rest)
        if self.counter is None:
            self.counter = len(self.code)
            self.code.append("")
        self.instructions += 1
        masked = guard and instructions.memory.touches_global(instruction)
        code = instructions.translate_instruction(self, instruction)
        self.code.append(f'\n#line {line} "{self.module.file_name}"')
        otherwise = f" else masked_access({line});" if masked else ""
        self.code.append(f"{guard}{{ {code} }}{otherwise}")
        if opcode in ("bra", "brx", "ret", "exit"):
            self._end_block()

    # ---- operands, for instructions.py

    def unique_name(self, prefix: str) -> str:
        """A C++ name not used before in this function."""
        self.unique += 1
        return f"{prefix}_{self.unique}"

    def _find_register(self, name: str) -> tuple[str, str] | None:
        for scope in reversed(self.scopes):
            if name in scope.registers:
                return scope.registers[name]
        numbered = re.match(r"(.*?)\d+$", name)
        for scope in reversed(self.scopes):
            if numbered and numbered[1] in scope.families:
                type_ = scope.families[numbered[1]]
                scope.registers[name] = (identifier(name) + scope.suffix, type_)
                self.declarations.append(f"{type_} {identifier(name)}{scope.suffix} = 0;")
                return scope.registers[name]
        return None

    def _register(self, name: str) -> tuple[str, str]:
        register = self._find_register(name)
        if register is None:
            raise UnsupportedPtxError(f"register {name}")
        return register

    def read(self, operand: str, type_: str) -> str:
        """C++ expression of an operand's value as `type_`."""
        operand, c = operand.strip(), c_type(type_)
        if operand.startswith("!"):
            return f"(!{self.read(operand[1:], type_)})"
        if operand.startswith("-%"):
            return f"({c})(-{self.read(operand[1:], type_)})"
        if operand in SPECIAL_REGISTERS:
            return f"read_as<{c}>({SPECIAL_REGISTERS[operand]})"
        register = self._find_register(operand)
        if register:
            return self._read_register(*register, type_)
        if operand.startswith("%"):
            raise UnsupportedPtxError(f"register {operand}")
        literal = self._read_literal(operand, type_)
        return literal if literal else f"read_as<{c}>((u64)({self.symbol(operand)}))"

    @staticmethod
    def _read_register(register: str, held: str, type_: str) -> str:
        """A register's bits as `type_`; builtins, as functions take g++ three times as long."""
        c = c_type(type_)
        if c == held:
            return register
        if type_ not in FLOAT_TYPES:
            return f"({c}){register}"
        if _is_float_of(held, type_):
            return f"__builtin_bit_cast({c}, {register})"
        return f"read_as<{c}>({register})"

    @staticmethod
    def _read_literal(operand: str, type_: str) -> str | None:
        c = c_type(type_)
        single = re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", operand)
        double = re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", operand)
        integer = re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", operand)
        if single or double:
            bits = f"0x{single[1]}u" if single else f"0x{double[1]}ull"
            value = f"read_as<{'f32' if single else 'f64'}>({bits})"
            return f"({c}){value}" if type_ in ("f32", "f64") else f"({c}){bits}"
        if integer and type_ in HALF_TYPES:
            return f"read_as<{c}>((u16){int(operand.rstrip('U'), 0) & 0xFFFF}u)"
        if integer:
            return f"({c}){operand.rstrip('U')}" + ("ll" if operand.startswith("-") else "ull")
        if re.fullmatch(r"-?\d+\.\d*([eE][+-]?\d+)?", operand) and type_ in ("f32", "f64"):
            return f"({c}){operand}"
        return None

    def write(self, target: str, value: str, type_: str) -> str:
        """C++ statement that writes a value of `type_` to a register."""
        target = target.strip()
        if target == "_":
            return f"(void)({value});"
        (register, held), c = self._register(target), c_type(type_)
        value = f"({c})({value})"
        if type_ not in FLOAT_TYPES:
            return f"{register} = {value};"
        if _is_float_of(held, type_):
            return f"{register} = __builtin_bit_cast({held}, {value});"
        return f"write_as<{c}>({register}, {value});"

    def vector(self, operand: str) -> list[str] | None:
        """Elements of `{a, b}`, or None if the operand is no vector."""
        operand = operand.strip()
        return [x.strip() for x in operand[1:-1].split(",")] if operand.startswith("{") else None

    def symbol(self, text: str) -> str:
        """C++ expression of a symbol's address, with an optional offset."""
        match = re.fullmatch(r"([\w$.]+)\s*(?:\+\s*(-?\w+))?", text.strip())
        if not match:
            raise UnsupportedPtxError(f"operand {text}")
        name, offset = match[1], match[2] or "0"
        shared_address = self.shared.address(name)
        if shared_address:
            return f"{shared_address} + {offset}"
        if name in self.memory:
            return f"(u64){self.memory[name]} + {offset}"
        if name in self.module.variables:
            return f"(u64){self.module.variables[name]} + {offset}"
        raise UnsupportedPtxError(f"symbol {name}")

    def address(self, operand: str) -> str:
        """C++ expression of `[register + offset]`, `[symbol + offset]` or `[number]`."""
        inside = operand.strip()[1:-1].strip()
        match = re.fullmatch(r"(%?[\w$.]+)\s*(?:\+\s*(-?\w+))?", inside)
        if match and self._find_register(match[1]):
            base = self._register(match[1])[0]
            return f"(read_as<u64>({base}) + (u64)(s64)({match[2] or 0}))"
        if re.fullmatch(r"-?\d+", inside):
            return f"(u64)({inside}ll)"
        return f"({self.symbol(inside)})"

    def parameter_offset(self, name: str) -> int | None:
        """Where a kernel parameter lies in the parameter block: its address in 32 bits."""
        if self.text.kind != "entry":
            return None
        return next((p.offset for p in self.parameters if p.name == name.strip()), None)

    def has_narrow_base(self, operand: str) -> bool:
        """Whether `[register + offset]` holds its address in 32 bits."""
        register = self._find_register(operand.strip()[1:-1].split("+")[0].strip())
        return register is not None and register[1] == "u32"

    def parameter_buffer(self, name: str) -> str:
        """C++ expression of a .param variable passed in a call."""
        if name not in self.memory:
            raise UnsupportedPtxError(f"parameter {name}")
        return f"(char*){self.memory[name]}"

    def label(self, name: str) -> str:
        """C++ label of a PTX label."""
        for scope in reversed(self.scopes):
            if name in scope.labels:
                return scope.labels[name]
        raise UnsupportedPtxError(f"label {name}")

    def jump(self, name: str) -> str:
        """C++ goto; a jump backwards lets other threads run from time to time."""
        label = self.label(name)
        return ("loop_tick(); " if label in self.labels_seen else "") + f"goto {label};"

    def branch_table(self, name: str) -> list[str]:
        """Labels of a .branchtargets table."""
        for scope in reversed(self.scopes):
            if name in scope.branch_targets:
                return scope.branch_targets[name]
        raise UnsupportedPtxError(f"branch table {name}")

    def bind_temporary(self, name: str, variable: str, type_: str) -> None:
        """Make a C++ variable readable as a PTX register of the innermost scope."""
        self.scopes[-1].registers[name] = (variable, type_)
