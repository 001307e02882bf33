"""Registers, stack, spills, shared memory and instruction mix of compiled kernels, without a GPU.

python -m tests.ptx.static_report kernel.cu 80 90 100      compile with nvcc, then report
python -m tests.ptx.static_report kernel.cubin
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .cuda_compile import NvccNotFoundError, compile_cubin, find_nvcc
from .ptx_types import PtxError

_GROUPS = {  # name -> SASS opcodes
    "global loads": r"LDG|LDGSTS|LD",
    "global stores": r"STG|ST",
    "shared loads": r"LDS|LDSM",
    "shared stores": r"STS|STSM",
    "local loads": r"LDL",
    "local stores": r"STL",
    "atomics": r"ATOM|ATOMG|ATOMS|RED|REDG",
    "matrix": r"[HIDQ]MMA|HGMMA|IGMMA|QGMMA|UTC\w*MMA",
    "float": r"FFMA2?|FADD2?|FMUL2?|MUFU|HFMA2|HADD2|HMUL2",
    "double": r"DFMA|DADD|DMUL",
    "barriers": r"BAR|WARPSYNC|SYNCS",
    "shuffles": r"SHFL|REDUX|VOTE",
}


@dataclass
class KernelReport:
    """Static properties of one kernel in a cubin."""

    name: str
    registers: int = 0
    stack_bytes: int = 0
    shared_bytes: int = 0  # static shared memory
    spill_store_bytes: int | None = None  # only known from the compiler's log
    spill_load_bytes: int | None = None
    opcodes: Counter[str] = field(default_factory=Counter)  # full SASS opcode -> count

    @property
    def instructions(self) -> int:
        """Number of instructions, padding not counted."""
        return sum(self.opcodes.values()) - self.opcodes["NOP"]

    def group(self, name: str) -> Counter[str]:
        """Opcodes of a group such as "global loads" or "matrix"."""
        pattern = re.compile(rf"(?:{_GROUPS[name]})(?:\.|$)")
        return Counter({op: n for op, n in self.opcodes.items() if pattern.match(op)})

    def widths(self, name: str) -> Counter[int]:
        """Access widths in bytes of a memory group, with instruction counts."""
        widths: Counter[int] = Counter()
        for opcode, count in self.group(name).items():
            widths[access_width(opcode)] += count
        return widths

    def describe(self) -> str:
        """A few lines of text."""
        spills = "unknown"
        if self.spill_store_bytes is not None:
            spills = f"{self.spill_store_bytes} B stores, {self.spill_load_bytes} B loads"
        lines = [
            f"{self.name}: {self.registers} registers, {self.stack_bytes} B stack, "
            f"spills {spills}, {self.shared_bytes} B static shared memory, "
            f"{self.instructions} instructions"
        ]
        for name in _GROUPS:
            if self.group(name):
                mix = ", ".join(f"{op} x{n}" for op, n in self.group(name).most_common())
                lines.append(f"    {name}: {mix}")
        return "\n".join(lines)


def access_width(opcode: str) -> int:
    """Bytes that one thread accesses with a SASS memory instruction."""
    parts = opcode.split(".")
    for part, width in (
        ("256", 32),
        ("128", 16),
        ("64", 8),
        ("U8", 1),
        ("S8", 1),
        ("U16", 2),
        ("S16", 2),
    ):
        if part in parts:
            return width
    return 4


@functools.cache
def find_tool(name: str) -> str:
    """cuobjdump or nvdisasm: from PATH, the CUDA toolkit, or the Triton wheel."""
    candidates = [shutil.which(name)]
    with contextlib.suppress(NvccNotFoundError):
        candidates.append(str(Path(find_nvcc()).resolve().parent / name))
    try:
        import triton.backends.nvidia as backend

        candidates.append(str(Path(backend.__file__).parent / "bin" / name))
    except ImportError:
        pass
    for candidate in candidates:
        if candidate and Path(candidate).exists():
            return candidate
    raise PtxError(f"{name} not found: it comes with the CUDA toolkit and with the Triton wheel")


def _run_tool(name: str, *arguments: str) -> str:
    run = subprocess.run([find_tool(name), *arguments], capture_output=True, text=True)
    if run.returncode:
        raise PtxError(f"{name}: {run.stderr[:1000]}")
    return run.stdout


def report_cubin(cubin: bytes, compiler_log: str = "") -> dict[str, KernelReport]:
    """Reports of the kernels in a cubin, from nvcc or Triton's asm["cubin"]."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _run_tool("cuobjdump", "-res-usage", file.name)
        sass = _run_tool("nvdisasm", "-c", file.name)
    reports = _read_usage(usage)
    _read_sass(sass, reports)
    _read_spills(compiler_log, reports)
    return reports


def report_source(
    source: str | Path, arch: str | int = 80, **compile_options
) -> dict[str, KernelReport]:
    """Compile a .cu file for one architecture and report its kernels."""
    compiled = compile_cubin(source, arch, **compile_options)
    return report_cubin(compiled.data, compiled.log)


def _read_usage(text: str) -> dict[str, KernelReport]:
    pattern = r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)"
    return {
        name: KernelReport(name, int(registers), int(stack), int(shared))
        for name, registers, stack, shared in re.findall(pattern, text)
    }


def _read_sass(text: str, reports: dict[str, KernelReport]) -> None:
    current = None
    for line in text.splitlines():
        section = re.match(r"\s*\.section\s+\.text\.([\w$]+)", line) or re.match(
            r"\.text\.([\w$]+):", line
        )
        if section:
            current = reports.get(section[1])
        instruction = re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", line)
        if instruction and current:
            current.opcodes[instruction[1]] += 1


def _read_spills(log: str, reports: dict[str, KernelReport]) -> None:
    pattern = (
        r"Function properties for (\S+)\s+\d+ bytes stack frame, "
        r"(\d+) bytes spill stores, (\d+) bytes"
    )
    for name, stores, loads in re.findall(pattern, log):
        if name in reports:
            reports[name].spill_store_bytes = int(stores)
            reports[name].spill_load_bytes = int(loads)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="static properties of CUDA kernels")
    parser.add_argument("file", type=Path, help=".cu or .cubin")
    parser.add_argument(
        "arch", nargs="*", default=["80"], help="architectures for a .cu file: 80 90a ..."
    )
    parser.add_argument(
        "-I", dest="include_dirs", action="append", default=[], help="include directory"
    )
    options = parser.parse_args()
    if options.file.suffix == ".cubin":
        for report in report_cubin(options.file.read_bytes()).values():
            print(report.describe())
        return
    for arch in options.arch:
        print(f"sm_{arch}")
        for report in report_source(options.file, arch, include_dirs=options.include_dirs).values():
            print(report.describe())


if __name__ == "__main__":
    main()
