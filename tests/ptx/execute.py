"""Build translated PTX with g++ and run it on CPU arrays.

Without a sanitizer the kernel is a shared library called in this process. With one it is a separate
program (so Python itself need not run under the sanitizer): arrays are copied to it and back.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .cache import cache_directory, made_once
from .ptx_types import PtxError
from .translate import Entry, Parameter, translate

RUNTIME = Path(__file__).parent / "runtime"
COMMON_FLAGS = (
    "-std=c++17",
    "-w",
    "-ffp-contract=off",
    "-frounding-math",
    "-fno-strict-aliasing",
    "-fwrapv",
    "-fvisibility=hidden",
)
# Passes over all registers, which are many, are left out: they take a fourth of the time.
FAST_FLAGS = ("-Og", "-fno-forward-propagate", "-fno-dce", "-fno-dse", "-fno-split-wide-types")
LIBRARY_FLAGS = (*FAST_FLAGS, "-fPIC", "-shared", "-fno-gnu-unique")
SANITIZER_FLAGS = {
    "thread": (*FAST_FLAGS, "-g1", "-fsanitize=thread", "-DPTX_STANDALONE"),
    # -O1 takes ten times as long
    "address": ("-O0", "-g1", "-fsanitize=address", "-DPTX_STANDALONE"),
}
_SANITIZER_EXIT_CODE = 66
# Above this, arrays are not copied to a sanitizer's program nor given a record per byte.
_COPIED_BYTES_LIMIT = 1 << 30


class PtxCompileError(PtxError):
    """g++ could not compile the translated code."""


class LaunchError(PtxError):
    """A launch that a GPU would refuse, or a fault while the kernel ran."""


class SanitizerError(LaunchError):
    """A sanitizer report; `lines` are the PTX lines it names and `report` is its text."""

    def __init__(self, kind: str, report: str, file_name: str):
        self.report = report
        lines = re.findall(re.escape(file_name) + r":(\d+)", report)
        self.lines = sorted({int(line) for line in lines})
        super().__init__(f"{kind} at PTX lines {self.lines}\n{report[:3000]}")


class DataRaceError(SanitizerError):
    """Two threads access the same memory with no barrier between them."""


@dataclass
class LaunchStats:
    """What a launch executed, summed over all threads.

    Dictionaries map access widths in bytes to counts. Sectors are the distinct 32-byte pieces of
    global memory that each warp-level load or store touches; None unless they were asked for.
    """

    global_loads: dict[int, int] = field(default_factory=dict)
    global_stores: dict[int, int] = field(default_factory=dict)
    global_atomics: dict[int, int] = field(default_factory=dict)
    shared_accesses: dict[int, int] = field(default_factory=dict)
    instructions: int = 0  # of PTX, whether or not their predicate holds
    barriers: int = 0  # completed block barriers
    dropped: int = 0  # arrivals at the barrier that was left out
    # of float32 and float64, with or without an addition
    multiplications: dict[int, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    sectors_loaded: int | None = None
    sectors_stored: int | None = None

    @property
    def bytes_loaded(self) -> int:
        """Bytes of all global loads."""
        return sum(width * count for width, count in self.global_loads.items())

    @property
    def bytes_stored(self) -> int:
        """Bytes of all global stores, atomics not included."""
        return sum(width * count for width, count in self.global_stores.items())


# ---- ctypes mirrors of runtime/ptx_runtime.h

_WIDTHS = 6


class _Options(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint32)
        for name in (
            "check_bounds",
            "check_shared_init",
            "check_block_races",
            "count_sectors",
            "cooperative",
            "dropped_line",
            "shuffle",
            "seed",
        )
    ]


class _ArrayRange(ctypes.Structure):
    _fields_ = [("begin", ctypes.c_uint64), ("bytes", ctypes.c_uint64)]


class _Request(ctypes.Structure):
    _fields_ = [
        ("entry", ctypes.c_char_p),
        ("parameters", ctypes.c_char_p),
        ("first_block", ctypes.c_uint64),
        ("block_count", ctypes.c_uint64),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("dynamic_shared", ctypes.c_uint32),
        ("options", _Options),
        ("array_count", ctypes.c_uint32),
        ("arrays", ctypes.POINTER(_ArrayRange)),
    ]


class _Result(ctypes.Structure):
    _fields_ = [
        ("loads", ctypes.c_uint64 * _WIDTHS),
        ("stores", ctypes.c_uint64 * _WIDTHS),
        ("atomics", ctypes.c_uint64 * _WIDTHS),
        ("shared", ctypes.c_uint64 * _WIDTHS),
        ("instructions", ctypes.c_uint64),
        ("barriers", ctypes.c_uint64),
        ("dropped", ctypes.c_uint64),
        ("multiplications", ctypes.c_uint64 * _WIDTHS),
        ("sectors_loaded", ctypes.c_uint64),
        ("sectors_stored", ctypes.c_uint64),
        ("error", ctypes.c_char * 1024),
        ("warnings", ctypes.c_char * 1024),
    ]

    def stats(self, with_sectors: bool) -> LaunchStats:
        def by_width(counts: Any) -> dict[int, int]:
            return {1 << i: n for i, n in enumerate(counts) if n}

        return LaunchStats(
            by_width(self.loads),
            by_width(self.stores),
            by_width(self.atomics),
            by_width(self.shared),
            self.instructions,
            self.barriers,
            self.dropped,
            by_width(self.multiplications),
            self.warnings.decode(errors="replace").splitlines(),
            self.sectors_loaded if with_sectors else None,
            self.sectors_stored if with_sectors else None,
        )


# ---- building


def find_compiler() -> str:
    """Path of the C++ compiler: $CXX or g++."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise PtxCompileError("no C++ compiler: install g++ or set CXX")
    return compiler


def _build(cpp: str, flags: Sequence[str], suffix: str) -> Path:
    """Compile C++ text, or return the earlier result for the same text, flags and runtime."""
    command = [find_compiler(), *COMMON_FLAGS, *flags]
    key = hashlib.sha256("\0".join(command).encode())
    for file in sorted(RUNTIME.iterdir()):
        key.update(file.read_bytes())
    runtime_key = key.hexdigest()[:24]
    key.update(cpp.encode())

    def make(output: Path) -> None:
        built = _built_runtime(command, runtime_key)
        includes = ["-I", str(built), "-I", str(RUNTIME)]
        with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
            source = Path(scratch) / "module.cpp"
            source.write_text(cpp)
            _compile([*command, *includes, str(source), str(built / "runtime.o")], output)

    return made_once(cache_directory() / (key.hexdigest()[:24] + suffix), make)


def _built_runtime(command: Sequence[str], key: str) -> Path:
    """A folder with what all modules share, compiled once: it halves the time that a module takes.

    The precompiled header lies where the compiler looks for ptx_runtime.h first. A compiler that
    cannot use it passes over it.
    """
    folder = cache_directory() / f"runtime-{key}"
    folder.mkdir(exist_ok=True)
    steps = {
        "ptx_runtime.h.gch": ["-x", "c++-header", str(RUNTIME / "ptx_runtime.h")],
        "runtime.o": ["-c", "-I", str(folder), "-I", str(RUNTIME), str(RUNTIME / "runtime.cpp")],
    }
    for name, arguments in steps.items():
        made_once(folder / name, partial(_compile, [*command, *arguments]))
    return folder


def _compile(command: Sequence[str], output: Path) -> None:
    run = subprocess.run([*command, "-o", str(output)], capture_output=True, text=True)
    if run.returncode:
        raise PtxCompileError(f"{command[0]} failed on translated PTX:\n{run.stderr[:4000]}")


# ---- arguments


@dataclass(frozen=True)
class _Memory:
    """Memory of one array argument."""

    begin: int
    size: int


def _span(address: int, item: int, shape: Sequence[int], strides: Sequence[int]) -> _Memory:
    if any(stride < 0 for stride in strides):
        raise LaunchError("array argument with a negative stride")
    if 0 in shape:
        return _Memory(address, 0)
    return _Memory(
        address, item + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    )


def _memory_of(value: Any) -> _Memory | None:
    """Memory of a numpy array or CPU tensor, or None for a scalar."""
    if isinstance(value, np.ndarray):
        return _span(value.ctypes.data, value.itemsize, value.shape, value.strides)
    if hasattr(value, "data_ptr"):
        if value.device.type != "cpu":
            raise LaunchError(f"tensor argument on {value.device}; move it to the CPU")
        item = value.element_size()
        return _span(
            value.data_ptr(), item, value.shape, [item * stride for stride in value.stride()]
        )
    return None


def _encode_scalar(value: Any, parameter: Parameter) -> bytes:
    size = parameter.size
    if isinstance(value, bytes):
        if len(value) != size:
            raise LaunchError(
                f"parameter {parameter.name} has {size} bytes, the argument {len(value)}"
            )
        return value
    if isinstance(value, (float, np.floating)) or parameter.type in ("f32", "f64"):
        formats = {2: "<e", 4: "<f", 8: "<d"}
        if size not in formats:
            raise LaunchError(f"parameter {parameter.name} of {size} bytes cannot take a number")
        return struct.pack(formats[size], float(value))
    if not isinstance(value, (int, np.integer, np.bool_)):
        raise LaunchError(f"parameter {parameter.name}: cannot pass {type(value).__name__}")
    number = int(value)
    if not -(1 << 8 * size - 1) <= number < 1 << 8 * size:
        raise LaunchError(f"parameter {parameter.name}: {number} does not fit in {size} bytes")
    return (number & (1 << 8 * size) - 1).to_bytes(size, "little")


@dataclass
class _Arguments:
    """Parameter block, memory of the arrays and where pointers to them are in the block."""

    block: bytes
    memory: list[_Memory]
    pointers: list[tuple[int, int]]  # offset in the block, address

    def regions(self) -> list[_Memory]:
        """The arrays with overlapping ones merged, so that aliasing survives a copy."""
        merged: list[_Memory] = []
        for memory in sorted(self.memory, key=lambda m: m.begin):
            if merged and memory.begin < merged[-1].begin + merged[-1].size:
                last = merged.pop()
                end = max(last.begin + last.size, memory.begin + memory.size)
                memory = _Memory(last.begin, end - last.begin)
            merged.append(memory)
        return merged


def _encode_arguments(entry: Entry, arguments: Sequence[Any]) -> _Arguments:
    if len(arguments) != len(entry.parameters):
        names = ", ".join(f"{p.name} ({p.size} bytes)" for p in entry.parameters)
        raise LaunchError(f"{entry.name} takes {len(entry.parameters)} arguments: {names}")
    block = bytearray(entry.parameter_bytes)
    encoded = _Arguments(b"", [], [])
    for parameter, value in zip(entry.parameters, arguments, strict=True):
        memory = _memory_of(value)
        if memory is not None:
            if parameter.size != 8:
                raise LaunchError(
                    f"parameter {parameter.name} is no pointer, the argument is an array"
                )
            encoded.memory.append(memory)
            encoded.pointers.append((parameter.offset, memory.begin))
            value = memory.begin
        block[parameter.offset : parameter.offset + parameter.size] = _encode_scalar(
            value, parameter
        )
    encoded.block = bytes(block)
    return encoded


def _refuse_huge(arguments: _Arguments) -> None:
    """A sanitizer works on copies; the check for races between blocks has records of every byte."""
    total = sum(memory.size for memory in arguments.memory)
    if total > _COPIED_BYTES_LIMIT:
        raise LaunchError(
            f"{total} bytes of arrays are too many for a sanitizer or check_block_races"
        )


def _three(shape: int | Sequence[int]) -> tuple[int, int, int]:
    shape = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
    if not 1 <= len(shape) <= 3 or min(shape) < 1:
        raise LaunchError(f"grid or block of shape {shape}")
    return ((*shape, 1, 1))[:3]


def _check_shape(entry: Entry, grid: tuple[int, ...], block: tuple[int, ...]) -> None:
    threads = block[0] * block[1] * block[2]
    if threads > 1024 or block[2] > 64:
        raise LaunchError(f"block {block} is larger than a GPU allows")
    if grid[0] >= 1 << 31 or grid[1] > 65535 or grid[2] > 65535:
        raise LaunchError(f"grid {grid} is larger than a GPU allows")
    if entry.max_threads is not None and threads > entry.max_threads:
        raise LaunchError(
            f"{entry.name} is compiled for {entry.max_threads} threads, the block has {threads}"
        )
    if entry.required_block is not None and block != entry.required_block:
        raise LaunchError(f"{entry.name} is compiled for block {entry.required_block}, not {block}")


def _blocks_to_run(grid: tuple[int, ...], blocks: tuple[int, int] | None) -> tuple[int, int]:
    """First block and number of blocks, by their linear index in the grid (x fastest)."""
    total = grid[0] * grid[1] * grid[2]
    first, count = blocks or (0, total)
    if first < 0 or count < 1 or first + count > total:
        raise LaunchError(f"blocks {first} to {first + count} of a grid of {total}")
    return first, count


# ---- running


class Kernel:
    """A PTX module that can be executed on this machine.

    `sanitize="thread"` finds missing barriers, `"address"` overruns of local arrays; both run each
    launch in a separate program. `file_name` is how sanitizer reports call the PTX. `only` names
    the entries to translate, which makes building a large module faster.
    """

    def __init__(
        self,
        ptx_text: str,
        sanitize: str | None = None,
        file_name: str = "kernel.ptx",
        only: Sequence[str] | None = None,
    ):
        if sanitize not in (None, *SANITIZER_FLAGS):
            raise ValueError(f"sanitize must be None, 'thread' or 'address', not {sanitize!r}")
        self.ptx = ptx_text
        self.sanitize = sanitize
        self.file_name = file_name
        self.translation = translate(ptx_text, file_name, only)
        if not self.translation.entries and self.translation.refused:
            raise next(iter(self.translation.refused.values()))
        self._library: ctypes.PyDLL | None = None

    @property
    def entries(self) -> list[str]:
        """Names of the kernels that can be launched."""
        return list(self.translation.entries)

    def build(self) -> Path:
        """Compile the module (cached); returns the library or, with a sanitizer, the program."""
        if self.sanitize is None:
            return _build(self.translation.cpp, LIBRARY_FLAGS, ".so")
        return _build(self.translation.cpp, SANITIZER_FLAGS[self.sanitize], f".{self.sanitize}")

    def launch(
        self,
        entry: str,
        args: Sequence[Any],
        grid: int | Sequence[int],
        block: int | Sequence[int],
        dynamic_shared: int = 0,
        check_bounds: bool = True,
        *,
        check_shared_init: bool = False,
        check_block_races: bool = False,
        seed: int | None = None,
        reachable: Sequence[Any] = (),
        blocks: tuple[int, int] | None = None,
        count_sectors: bool = False,
        cooperative: bool = False,
        drop_barrier: int = 0,
    ) -> LaunchStats:
        """Run a kernel and return what it executed; raises LaunchError on a fault.

        args: numpy arrays or CPU tensors for pointers, numbers, or bytes for structs, in PTX order.
        check_bounds: global accesses must lie in an array of `args` or `reachable`, or in a module
            variable.
        check_shared_init: reading shared memory that nobody wrote is an error.
        check_block_races: plain accesses of two blocks to one byte, at least one a store, are an
            error.
        seed: run blocks and threads in a random order.
        reachable: further arrays, to which the kernel finds pointers in structs or in memory; a
            sanitizer's program, whose arrays are copies, is given those in structs alone.
        blocks: first and number of the blocks to run, by linear index (x fastest); others are left
            out, so that the end of an enormous grid can be tried alone.
        count_sectors: count the sectors that warps touch (slow).
        cooperative: all blocks run at the same time, so that they can wait for each other. Goes
            without `check_block_races` and `count_sectors`, which tell blocks apart by their end.
        drop_barrier: PTX line of a block barrier at which no thread waits.
        """
        description = self.translation.entry(entry)
        grid3, block3 = _three(grid), _three(block)
        _check_shape(description, grid3, block3)
        arguments = _encode_arguments(description, args)
        if self.sanitize and count_sectors:
            raise LaunchError("counting sectors does not work under a sanitizer")
        if cooperative and (count_sectors or check_block_races):
            raise LaunchError("blocks of a cooperative launch do not end one after another")
        arguments.memory += [m for m in map(_memory_of, reachable) if m is not None]
        if self.sanitize and reachable:
            arguments.pointers += _pointers_in(arguments)
        if self.sanitize or check_block_races:
            _refuse_huge(arguments)
        request = _Request()
        request.grid, request.block = grid3, block3
        request.first_block, request.block_count = _blocks_to_run(grid3, blocks)
        request.dynamic_shared = dynamic_shared
        checks = (check_bounds, check_shared_init, check_block_races, count_sectors, cooperative)
        options = (*checks, drop_barrier, seed is not None, seed or 0)
        request.options = _Options(*options)
        if self.sanitize is None:
            result = self._run_here(entry, request, arguments)
        else:
            result = self._run_sanitized(entry, request, arguments)
        if result.error:
            raise LaunchError(result.error.decode(errors="replace"))
        return result.stats(count_sectors)

    def _run_here(self, entry: str, request: _Request, arguments: _Arguments) -> _Result:
        if self._library is None:
            self._library = ctypes.PyDLL(str(self.build()))  # holds the GIL: one launch at a time
            self._library.ptx_launch.restype = None
        regions = arguments.memory
        arrays = (_ArrayRange * max(1, len(regions)))(*[(m.begin, m.size) for m in regions])
        request.entry, request.parameters = entry.encode(), arguments.block + b"\0"
        request.array_count, request.arrays = len(regions), arrays
        result = _Result()
        self._library.ptx_launch(ctypes.byref(request), ctypes.byref(result))
        return result

    def _run_sanitized(self, entry: str, request: _Request, arguments: _Arguments) -> _Result:
        regions = arguments.regions()
        with tempfile.TemporaryDirectory(dir=cache_directory()) as scratch:
            launch_file, result_file = Path(scratch) / "launch", Path(scratch) / "result"
            launch_file.write_bytes(_serialise(entry, request, arguments, regions))
            run = _run_program([str(self.build()), str(launch_file), str(result_file)])
            if run.returncode not in (0, _SANITIZER_EXIT_CODE) or not result_file.exists():
                self._raise_report(run)
            data = result_file.read_bytes()
        result = _Result.from_buffer_copy(data)
        position = ctypes.sizeof(_Result)
        for region in regions:
            ctypes.memmove(region.begin, data[position : position + region.size], region.size)
            position += region.size
        if run.returncode and not result.error:
            self._raise_report(run)
        return result

    def _raise_report(self, run: subprocess.CompletedProcess[str]) -> None:
        if "ThreadSanitizer: data race" in run.stderr:
            raise DataRaceError("data race", run.stderr, self.file_name)
        if "Sanitizer" in run.stderr:
            raise SanitizerError(f"{self.sanitize} sanitizer report", run.stderr, self.file_name)
        raise LaunchError(f"the program ended with code {run.returncode}: {run.stderr[:2000]}")


def _pointers_in(arguments: _Arguments) -> list[tuple[int, int]]:
    """Offset and value of the words of struct parameters that point into an array."""
    known = {offset for offset, _ in arguments.pointers}
    words = struct.iter_unpack("<Q", arguments.block[: len(arguments.block) // 8 * 8])
    return [
        (8 * k, address)
        for k, (address,) in enumerate(words)
        if 8 * k not in known
        and any(m.begin <= address < m.begin + m.size for m in arguments.memory)
    ]


def _serialise(
    entry: str, request: _Request, arguments: _Arguments, regions: list[_Memory]
) -> bytes:
    """The launch file read by runtime/standalone.h."""

    def block(data: bytes) -> bytes:
        return struct.pack("<Q", len(data)) + data

    parts = [
        bytes(request),
        block(entry.encode()),
        block(arguments.block),
        struct.pack("<Q", len(regions)),
    ]
    parts += [block(ctypes.string_at(region.begin, region.size)) for region in regions]
    parts.append(struct.pack("<Q", len(arguments.pointers)))
    for offset, address in arguments.pointers:
        index = max(i for i, region in enumerate(regions) if region.begin <= address)
        parts.append(struct.pack("<QQQ", offset, index, address - regions[index].begin))
    return b"".join(parts)


def _run_program(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    given = os.environ.get("TSAN_OPTIONS", "")
    environment["TSAN_OPTIONS"] = f"{given}:history_size=4:exitcode={_SANITIZER_EXIT_CODE}"
    environment["ASAN_OPTIONS"] = (
        f"detect_leaks=0:detect_stack_use_after_return=0:exitcode={_SANITIZER_EXIT_CODE}"
    )
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "unexpected memory mapping" in run.stderr and shutil.which("setarch"):
        # ThreadSanitizer of older g++ does not work with much address randomisation.
        command = ["setarch", os.uname().machine, "-R", *command]
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
    return run
