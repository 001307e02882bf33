"""Bytes and multiplications that the CUDA kernels execute, kept in a table.

python -m tests.cuda.work            execute all cases, write work.csv and print README's table
python -m tests.cuda.work --check    execute all cases and list what differs from it

Cases are heads in float32. `bytes` are those of global memory over inputs and outputs.
`multiplications` (with or without an addition) are compared with those of the algorithm: Gram
matrix, factor and solve of ridge; two products with the samples for a step, and two for a
certificate; conjugate gradients report no steps to count by. `shared_accesses` are loads and stores
of shared memory, `instructions` those of PTX, both of a task and over all threads. `blocks` are
those that a multiprocessor of an H100 holds, by registers and shared memory. `floor_ns` is an
estimate for a task, not a measurement: whatever takes longest with all multiprocessors busy, its
bytes at 3.0 TB/s, its multiply-adds at the datasheet's 67 TFLOP/s (float32) and 34 TFLOP/s
(float64), its instructions at four of a warp in a cycle, or its accesses at one of a warp.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

import sparsedis_kernels as sk
from tests import tables
from tests.cuda import budget
from tests.cuda.executed import Planned, executing
from tests.cuda.test_heads_report import targets
from tests.problems import heads_problem
from tests.tables import Row

TABLE = Path(__file__).with_name("work.csv")
TASKS = 2
PROCESSOR_BYTES = 228 * 1024  # of shared memory, on sm_90
SHARED_BYTES = 226 * 1024  # that a block may ask for: 227 KB without its scratch
MOST_BLOCKS = 32  # of a multiprocessor
STATIC_BYTES = 2048  # of a block: its scratch, and what the system keeps
BANDWIDTH, RATES = 3.0e12, {4: 67e12, 8: 34e12}
ISSUED = 33.5e12  # instructions of a thread in a second; an access takes as long as four


@dataclass(frozen=True)
class Case:
    """Sizes and penalty of some heads; `share` of lambda_max, or 0 for ridge."""

    n: int
    M: int
    C: int
    share: float
    loss: str = "squared"

    @property
    def name(self) -> str:
        penalty = f"group {self.share:g}" if self.share else "ridge"
        return f"{self.loss} {penalty} n={self.n} M={self.M} C={self.C}"

    @property
    def fits(self) -> bool:
        """Whether a block's shared memory takes the samples of a task."""
        return 4 * self.n * self.M <= SHARED_BYTES

    def counted(self, steps: int) -> float:
        """Multiplications of the fit of a task."""
        n, M, C = self.n, self.M, self.C
        if not self.share:
            small, large = min(n, M), max(n, M)
            solve = small**2 * large / 2 + small**3 / 6 + small**2 * C + n * M * C
            return 2 * n * M + solve + 2 * n * M * C
        certificates = 2  # at the start and at the end; as many between as the task asks for
        return (2 + 2 * 30) * n * M + 2 * n * M * C * (steps + certificates)


RIDGE = ((25, 64), (50, 64), (200, 64), (50, 128), (200, 128), (50, 512), (200, 512))
CASES = [
    *(Case(n, M, 5, 0) for n, M in RIDGE),
    *(Case(n, M, 5, 0.1) for n, M in ((25, 64), (50, 64), (50, 128), (200, 128), (50, 512))),
    *(Case(n, 128, 5, 0.01) for n in (50, 200)),
    Case(50, 64, 1, 0.01),
    Case(200, 128, 1, 0.01),
    Case(50, 512, 1, 0.1),
    *(Case(50, 64, 5, share, "multinomial") for share in (0.1, 0.01)),
]


def measure(case: Case) -> list[Row]:
    """A row for the fit and one for its gradient."""
    torch.manual_seed(0)
    samples = heads_problem(TASKS, case.n, case.M, case.C, dtype=torch.float32)
    y = targets(case.loss, samples.y)
    penalty = sk.Penalty(ridge=0.1)
    if case.share:
        group = sk.Penalty(group=1.0)
        largest = sk.lambda_max(samples.z, y, group, loss=case.loss)
        penalty = group.scaled(case.share * float(largest.min()))
    z = samples.z.requires_grad_()
    with executing(90, (SHARED_BYTES, TASKS)) as executor:
        fitted = sk.fit_heads(z, y, penalty, loss=case.loss, backend="cuda")
        fitted.weight.sum().backward()
    fit = [z, y, fitted.weight, fitted.bias, fitted.gap, fitted.n_iter, fitted.converged]
    gradient = [z, y, fitted.weight, fitted.weight, fitted.bias, z]
    moved = [4 * sum(t.numel() for t in arrays) for arrays in (fit, gradient)]
    steps = [int(k) for k in fitted.n_iter]
    counted = [sum(map(case.counted, steps)), None]
    rows = []
    for k, ((kernel, stats), planned) in enumerate(
        zip(executor.launches, executor.planned, strict=True)
    ):
        executed = stats.multiplications
        ratio = counted[k] and f"{sum(executed.values()) / counted[k]:.2f}"
        total = stats.bytes_loaded + stats.bytes_stored
        accesses = sum(stats.shared_accesses.values())
        seconds = (
            total / BANDWIDTH,
            sum(2 * count / RATES[width] for width, count in executed.items()),
            stats.instructions / ISSUED,
            4 * accesses / ISSUED,
        )
        row = {
            "case": case.name,
            "kernel": kernel,
            "steps": max(steps) if k == 0 else "",
            "threads": planned.threads,
            "shared": planned.shared,
            "blocks": blocks_of(planned),
            "bytes": f"{total / moved[k]:.2f}",
            "float32": executed.get(4, 0) // TASKS,
            "float64": executed.get(8, 0) // TASKS,
            "counted": ratio or "",
            "shared_accesses": accesses // TASKS,
            "instructions": stats.instructions // TASKS,
            "floor_ns": f"{1e9 / TASKS * max(seconds):.1f}",
        }
        rows.append({column: str(value) for column, value in row.items()})
    return rows


def blocks_of(planned: Planned) -> int:
    """Blocks that a multiprocessor of an H100 holds at a time."""
    (row,) = [
        row for row in budget.read()
        if (row["kernel"], row["dtype"], row["target"]) == (planned.kernel, "float32", "sm_90")
    ]  # fmt: skip
    held = budget.blocks_held(int(row["registers"]), planned.threads)
    return min(held, PROCESSOR_BYTES // (planned.shared + STATIC_BYTES), MOST_BLOCKS)


def read() -> list[Row]:
    """The table."""
    return tables.read(TABLE)


def instructions_of(row: Row) -> float:
    """Instructions for a multiplication."""
    return int(row["instructions"]) / (int(row["float32"]) + int(row["float64"]))


def markdown(rows: list[Row]) -> str:
    """README's table: a line for each fit and its gradient."""
    lines = [
        "| heads | kernel | steps | blocks a multiprocessor | bytes / fewest "
        "| multiplications / counted | instructions / multiplications | fit, estimate "
        "| gradient, estimate |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for fit, gradient in zip(rows[::2], rows[1::2], strict=True):
        cells = [
            fit["case"], f"`{fit['kernel']}`", fit["steps"],
            f"{fit['blocks']}, of the gradient {gradient['blocks']}",
            " and ".join(row["bytes"] for row in (fit, gradient)), fit["counted"],
            " and ".join(f"{instructions_of(row):.1f}" for row in (fit, gradient)),
            f"{float(fit['floor_ns']):.0f} ns", f"{float(gradient['floor_ns']):.0f} ns",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Execute all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    rows = [row for case in CASES for row in measure(case)]
    if check:
        tables.check(TABLE, rows)
    tables.write(TABLE, rows)
    print(markdown(rows))


if __name__ == "__main__":
    main()
