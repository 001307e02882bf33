"""Registers, stack, shared memory and memory traffic of every Triton kernel, kept in two tables.

python -m tests.triton.budget            measure all cases, write the tables, list shortcomings
python -m tests.triton.budget --check    measure all cases and list what differs from the tables
python -m tests.triton.budget prox usage    the same for some ops (with or without --check)

static_budget.csv has a row for each kernel of a case and each target it is compiled for: registers,
bytes of stack and of shared memory, and the widest load and store of global memory. A kernel that
a case launches with several combinations of constants is numbered from the second on.

byte_budget.csv has a row for each case as it is executed from its sm_80 PTX: `fewest` bytes if
every input is read once and every output written once, the bytes that `moved`, the bytes of the
32-byte `sectors` that warps touched, their `ratio` moved / fewest and its `limit`, the `widest`
access and the part of the bytes that it moved (`wide`). What PyTorch's own ops move between the
launches is left out.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel

from sparsedis_kernels.triton import tile
from tests import tables
from tests.ptx import driver
from tests.ptx.static_report import report_cubin
from tests.triton.budget_cases import CASES, OPS, Case, Sample

HERE = Path(__file__).parent
EXECUTED = 80
TARGETS = {f"sm_{n}": GPUTarget("cuda", n, 32) for n in (80, 90, 100, 120)}
TARGETS["gfx942"] = GPUTarget("hip", "gfx942", 64)
# A device is filled by more programs than this, of larger problems. With few, a program walks
# through many tasks also here, as it does there.
PROGRAMS = 8
PROCESSES = 2

Row = dict[str, Any]
TABLES = {  # name -> columns that identify a row
    "static_budget": ("kernel", "case", "dtype", "target"),
    "byte_budget": ("case", "dtype"),
}


# ---- execution


def execute(case: Case) -> tuple[list[driver.Launch], int]:
    """The launches of a case, and the fewest bytes that it can move."""
    sample = Sample(case.C, case.dtype)
    with (
        mock.patch.object(tile, "PROGRAMS", PROGRAMS),
        driver.executing(EXECUTED, count_sectors=True) as launches,
    ):
        written = OPS[case.op].call(sample)
    written = (written,) if isinstance(written, Tensor) else written
    return launches, sum(t.untyped_storage().nbytes() for t in (*sample.made, *written))


def traffic(case: Case, launches: list[driver.Launch], fewest: int) -> Row:
    """The case's row in byte_budget.csv."""
    moved: dict[int, int] = {}
    for stats in (launch.stats for launch in launches):
        for counts in (stats.global_loads, stats.global_stores, stats.global_atomics):
            for width, count in counts.items():
                moved[width] = moved.get(width, 0) + width * count
    total, widest, op = sum(moved.values()), max(moved), OPS[case.op]
    sectors = sum(s.stats.sectors_loaded + s.stats.sectors_stored for s in launches)
    return {
        "case": case.name,
        "dtype": case.dtype_name,
        "fewest": fewest,
        "moved": total,
        "sectors": 32 * sectors,
        "ratio": round(total / fewest, 3),
        "limit": op.limit,
        "widest": widest,
        "wide": round(moved[widest] / total, 3),
        "reason": op.reason,
    }


# ---- compilation


def specialisations(launches: Iterable[driver.Launch]) -> dict[str, CompiledKernel]:
    """What was compiled, by the kernel's name, numbered from the second of that name on."""
    distinct: dict[str, list[CompiledKernel]] = {}
    for compiled in (launch.compiled for launch in launches):
        same_name = distinct.setdefault(compiled.name, [])
        if all(compiled.hash != other.hash for other in same_name):
            same_name.append(compiled)
    return {
        f"{name} {k + 1}" if k else name: compiled
        for name, several in distinct.items()
        for k, compiled in enumerate(several)
    }


def resources(compiled: CompiledKernel, target: GPUTarget) -> Row:
    """Registers, stack, shared memory and access widths when compiled for another target."""
    hip = target.backend == "hip"
    names = ("num_warps", "num_stages") if hip else ("num_warps", "num_stages", "maxnreg")
    wanted = {name: getattr(compiled.metadata, name) for name in names}
    kernel = triton.compile(compiled.src, target=target, options=wanted)
    measured = _of_amdgcn(kernel.asm["amdgcn"]) if hip else _of_cubin(kernel)
    return measured | {"shared": kernel.metadata.shared}


def _of_cubin(kernel: CompiledKernel) -> Row:
    report = _report(kernel.asm["cubin"], kernel.name)
    return {
        "registers": report.registers,
        "stack": report.stack_bytes,
        "widest_load": max(report.widths("global loads"), default=0),
        "widest_store": max(report.widths("global stores"), default=0),
    }


@functools.cache  # cases share kernels
def _report(cubin: bytes, name: str) -> Any:
    return report_cubin(cubin)[name]


_AMD_WIDTHS = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "short": 2, "byte": 1}


def _of_amdgcn(assembly: str) -> Row:
    def field(name: str) -> int:
        return int(re.search(rf"\.{name}: +(\d+)", assembly)[1])

    def widest(kind: str) -> int:
        pattern = rf"\b(?:global|buffer|flat)_{kind}_[us]?({'|'.join(_AMD_WIDTHS)})"
        return max((_AMD_WIDTHS[size] for size in re.findall(pattern, assembly)), default=0)

    return {
        "registers": field("vgpr_count"),
        "stack": field("private_segment_fixed_size"),
        "widest_load": widest("load"),
        "widest_store": widest("store"),
    }


# ---- tables


def measure(key: tuple[str, str], targets: Iterable[str] = tuple(TARGETS)) -> dict[str, list[Row]]:
    """The rows of one case, by table."""
    case = CASES[key]
    launches, fewest = execute(case)
    static = [
        {"kernel": name, "case": case.name, "dtype": case.dtype_name, "target": target}
        | resources(compiled, TARGETS[target])
        for name, compiled in specialisations(launches).items()
        for target in targets
    ]
    return {"static_budget": static, "byte_budget": [traffic(case, launches, fewest)]}


def measure_all(keys: Iterable[tuple[str, str]]) -> dict[str, list[Row]]:
    """The rows of several cases, by table, in the order of the cases."""
    tables: dict[str, list[Row]] = {name: [] for name in TABLES}
    with multiprocessing.get_context("spawn").Pool(PROCESSES, torch.set_num_threads, (1,)) as pool:
        for rows in pool.imap(measure, keys):
            for name, table in tables.items():
                table += rows[name]
    return tables


def read(name: str) -> list[Row]:
    """A committed table; numbers are numbers."""
    return [{k: _number(v) for k, v in row.items()} for row in tables.read(_path(name))]


def _path(name: str) -> Path:
    return HERE / f"{name}.csv"


def _number(text: str) -> float | str:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else text


def write(name: str, measured: list[Row]) -> None:
    """Put rows into a committed table, in the order of the cases; those of other cases stay."""
    order = {key: place for place, key in enumerate(CASES)}
    new = {_case_of(row) for row in measured}
    kept = [row for row in tables.read(_path(name)) if _case_of(row) in order.keys() - new]
    tables.write(_path(name), sorted(kept + measured, key=lambda row: order[_case_of(row)]))


def _case_of(row: Row) -> tuple[str, str]:
    return row["case"], row["dtype"]


def key_of(name: str, row: Row) -> tuple[str, ...]:
    """What identifies a row of a table."""
    return tuple(row[column] for column in TABLES[name])


def differences(name: str, measured: list[Row], committed: list[Row]) -> Iterator[str]:
    """Rows that are measured otherwise than committed, but for the slack of `_agrees`."""
    known = {key_of(name, row): row for row in committed}
    for row in measured:
        key = key_of(name, row)
        for column, value in row.items():
            old = known.get(key, {}).get(column)
            if old is None or not _agrees(column, value, old):
                yield f"{name}: {', '.join(key)}: {column} is {value}, was {old}"


def _agrees(column: str, value: Any, old: Any) -> bool:
    """Compilers differ in registers by a few; less stack and shared memory is welcome."""
    if column == "registers":
        return abs(value - old) <= max(8, 0.15 * old)
    return value <= old if column in ("stack", "shared") else value == old


def shortcomings(static: list[Row], traffic: list[Row]) -> Iterator[str]:
    """What a kernel's author should look at."""
    for row in static:
        if row["stack"]:
            yield f"{', '.join(key_of('static_budget', row))}: {row['stack']} bytes of stack"
    for row in traffic:
        where = ", ".join(key_of("byte_budget", row))
        if row["ratio"] > row["limit"]:
            yield f"{where}: moves {row['ratio']} times the fewest bytes, limit {row['limit']}"
        if row["sectors"] > 1.2 * row["moved"]:
            yield f"{where}: touches {row['sectors'] / row['moved']:.2f} times the bytes it moves"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="registers and memory traffic of Triton kernels")
    parser.add_argument("--check", action="store_true", help="compare with the tables")
    parser.add_argument("ops", nargs="*", help="of these ops only")
    options = parser.parse_args()
    tables = measure_all([k for k, c in CASES.items() if not options.ops or c.op in options.ops])
    if options.check:
        found = [d for name, rows in tables.items() for d in differences(name, rows, read(name))]
        sys.exit("\n".join(found) or None)
    for name, rows in tables.items():
        write(name, rows)
    print("\n".join(shortcomings(*tables.values())), file=sys.stderr)


if __name__ == "__main__":
    main()
