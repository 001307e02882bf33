"""Registers, stack and shared memory of every CUDA kernel, kept in a table.

python -m tests.cuda.budget            compile for all targets and write static_budget.csv
python -m tests.cuda.budget --check    compile for all targets and list what differs from it

`blocks` are those that a multiprocessor's registers hold at a time; shared memory, which a launch
asks for by the sizes of its tasks, can make them fewer.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from tests import tables
from tests.core.build import CSRC
from tests.cuda.executed import FLAGS, SOURCES, THREADS
from tests.ptx.static_report import report_source
from tests.tables import Row

TABLE = Path(__file__).with_name("static_budget.csv")
TARGETS = (80, 86, 89, 90, 100, 120)
WARP = 32
REGISTERS, GRANULE = 65536, 256  # of a multiprocessor, and what a warp takes them by
DTYPES = {"f": "float32", "d": "float64"}


def measure(source: str, target: int) -> list[Row]:
    """A row for each kernel of a file of csrc/cuda."""
    options = {"defines": {"SPARSEDIS_ISA": "cuda"}, "flags": FLAGS, "ptx": TARGETS[0]}
    reports = report_source(CSRC / "cuda" / source, target, **options)
    return [row_of(entry, target, report) for entry, report in sorted(reports.items())]


def row_of(entry: str, target: int, report: Any) -> Row:
    """The row of a kernel, by its mangled name."""
    name, code = re.findall(r"\d([a-z_]+)_kernelI([fd])E", entry)[0]
    row = {
        "kernel": name,
        "dtype": DTYPES[code],
        "target": f"sm_{target}",
        "registers": report.registers,
        "stack": report.stack_bytes,
        "spilled": report.spill_store_bytes + report.spill_load_bytes,
        "blocks": blocks_held(report.registers),
    }
    return {column: str(value) for column, value in row.items()}


def blocks_held(registers: int, threads: int = THREADS) -> int:
    """Blocks of so many threads whose registers a multiprocessor holds."""
    warp = -(-WARP * registers // GRANULE) * GRANULE
    return REGISTERS // (warp * threads // WARP)


def read() -> list[Row]:
    """The table."""
    return tables.read(TABLE)


def main() -> None:
    """Measure all kernels for all targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    rows = [row for source in SOURCES for target in TARGETS for row in measure(source, target)]
    if check:
        tables.check(TABLE, rows)
    tables.write(TABLE, rows)


if __name__ == "__main__":
    main()
