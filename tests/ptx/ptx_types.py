"""PTX types, the instruction record and the error every unsupported construct raises."""

from __future__ import annotations

import re
from dataclasses import dataclass


class PtxError(Exception):
    """Base class of the errors of this package."""


class UnsupportedPtxError(PtxError):
    """PTX that the translator does not understand; the message names the PTX line."""


# PTX type -> (C++ type, bytes)
TYPES: dict[str, tuple[str, int]] = {
    "pred": ("bool", 1),
    "b8": ("u8", 1),
    "u8": ("u8", 1),
    "s8": ("s8", 1),
    "b16": ("u16", 2),
    "u16": ("u16", 2),
    "s16": ("s16", 2),
    "f16": ("f16", 2),
    "bf16": ("bf16", 2),
    "b32": ("u32", 4),
    "u32": ("u32", 4),
    "s32": ("s32", 4),
    "f32": ("f32", 4),
    "b64": ("u64", 8),
    "u64": ("u64", 8),
    "s64": ("s64", 8),
    "f64": ("f64", 8),
}

# Packed type -> (element type, element bits, type of the whole)
PACKED_TYPES: dict[str, tuple[str, int, str]] = {
    "f16x2": ("f16", 16, "b32"),
    "bf16x2": ("bf16", 16, "b32"),
    "f32x2": ("f32", 32, "b64"),
}

HALF_TYPES = ("f16", "bf16")
FLOAT_TYPES = ("f16", "bf16", "f32", "f64")

ROUNDING_MODES = {
    "rn": "FE_TONEAREST",
    "rz": "FE_TOWARDZERO",
    "rm": "FE_DOWNWARD",
    "rp": "FE_UPWARD",
}


def c_type(ptx_type: str) -> str:
    """C++ type in which a PTX type is computed."""
    return TYPES[ptx_type][0]


def size_of(ptx_type: str) -> int:
    """Size of a PTX type in bytes."""
    return TYPES[ptx_type][1]


def register_type(ptx_type: str) -> str:
    """C++ type of a register: raw bits, at least 16 of them, or bool for predicates."""
    if ptx_type == "pred":
        return "bool"
    return {1: "u16", 2: "u16", 4: "u32", 8: "u64"}[size_of(ptx_type)]


def unsigned(ptx_type: str) -> str:
    """The unsigned type of the same size."""
    return f"u{8 * size_of(ptx_type)}"


def identifier(ptx_name: str) -> str:
    """A C++ identifier for a PTX name."""
    replacements = {"%": "", "$": "S", ".": "_d"}
    return "v_" + re.sub(r"[^A-Za-z0-9_]", lambda m: replacements.get(m[0], "_"), ptx_name)


@dataclass
class Instruction:
    """One PTX instruction. Handlers take the modifiers they understand; the rest is refused."""

    opcode: str
    modifiers: list[str]
    operands: list[str]
    line: int
    rest: str = ""  # operand text, not split

    def take(self, *names: str) -> str | None:
        """Remove and return the first modifier that is one of `names`."""
        for modifier in self.modifiers:
            if modifier in names:
                self.modifiers.remove(modifier)
                return modifier
        return None

    def take_required(self, *names: str) -> str:
        """Like take(), but refuses the instruction if none of `names` is there."""
        modifier = self.take(*names)
        if modifier is None:
            raise UnsupportedPtxError(f"needs one of .{', .'.join(names)}")
        return modifier

    def take_type(self) -> str:
        """Remove and return the last modifier that is a type."""
        for modifier in reversed(self.modifiers):
            if modifier in TYPES or modifier in PACKED_TYPES:
                self.modifiers.remove(modifier)
                return modifier
        raise UnsupportedPtxError("no type modifier")

    def take_rounding(self) -> str | None:
        """Remove and return the rounding mode (rn, rz, rm, rp)."""
        return self.take(*ROUNDING_MODES)

    def take_prefixed(self, *prefixes: str) -> list[str]:
        """Remove and return all modifiers that start with one of `prefixes`."""
        found = [m for m in self.modifiers if m.startswith(prefixes)]
        self.modifiers = [m for m in self.modifiers if m not in found]
        return found

    def refuse_unused(self) -> None:
        """Raise if a modifier was not understood."""
        if self.modifiers:
            raise UnsupportedPtxError(
                f"modifier .{self.modifiers[0]} of {self.opcode} is not supported"
            )


def split_operands(text: str) -> list[str]:
    """Split at commas that are outside brackets."""
    parts, depth, current = [], 0, ""
    for char in text:
        depth += (char in "{[(") - (char in "}])")
        if char == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += char
    if current.strip():
        parts.append(current.strip())
    return parts
