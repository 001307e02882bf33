"""Every block barrier of the CUDA kernels left out once, and whether the thread sanitizer notices.

python -m tests.cuda.barriers [KERNEL ...]    try these kernels, or all, and write barriers.csv

A barrier is `needed` where leaving it out is a data race, a deadlock or another fault on one of the
problems. One that is `spare` was left out on all problems that reach it, and other barriers ordered
the same accesses: inlining puts the barrier that ends one step beside the one that begins the next.
`unreached` ones lie on paths that no problem takes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sparsedis_kernels as sk
from tests import tables
from tests.cuda.executed import MACHINE, NAMESPACE, entry_of, executing, kernel_of, source_of
from tests.cuda.test_heads_backward import gradients, inputs_of, solve
from tests.cuda.test_heads_report import LOSSES, targets
from tests.problems import HEAD_PENALTIES, Samples, heads_problem, one_design
from tests.ptx.execute import LaunchError
from tests.ptx.mutate import sites
from tests.tables import Row

TABLE = Path(__file__).with_name("barriers.csv")
CAPABILITY, DTYPE, BLOCKS = 80, torch.float64, 2
# Samples, features and outputs of three tasks, and bytes of shared memory: few of each, more than a
# block has threads, and arrays off the chip.
SIZES = [(9, 5, 3, MACHINE[0]), (20, 70, 9, MACHINE[0]), (9, 5, 3, 0)]


@dataclass(frozen=True)
class Problem:
    """What the kernels of an op are given."""

    samples: Samples
    loss: str
    kind: str
    shared_bytes: int

    @property
    def y(self) -> Tensor:
        return targets(self.loss, self.samples.y)

    def penalty(self) -> sk.Penalty:
        return HEAD_PENALTIES[self.kind].scaled(0.02)


def report_at_zero(p: Problem) -> None:
    """lambda_max."""
    sk.lambda_max(p.samples.z, p.y, p.penalty(), loss=p.loss, backend="cuda")


def report(p: Problem) -> None:
    """duality_gap, of some weights."""
    z, y = p.samples.z, p.y
    weight = torch.cos(torch.arange(len(y) * z.shape[-1] * y.shape[-1], dtype=DTYPE))
    weight = weight.view(len(y), z.shape[-1], y.shape[-1]) / 10
    sk.duality_gap(z, y, weight, p.penalty(), loss=p.loss, backend="cuda")


def fit(p: Problem) -> None:
    """fit_heads, from weights that are not zero, as far as its second certificate."""
    z, y = p.samples.z, p.y
    init = torch.full((len(y), z.shape[-1], y.shape[-1]), 0.01, dtype=DTYPE)
    sk.fit_heads(
        z, y, p.penalty(), loss=p.loss, init=init, tol=1e-12, max_iter=11, on_error="flag",
        backend="cuda",
    )  # fmt: skip


@cache
def solved(p: Problem) -> tuple[Tensor, list[Tensor], list[str]]:
    inputs, names = inputs_of(p.samples, HEAD_PENALTIES[p.kind], p.loss)
    return solve(inputs, names, loss=p.loss), inputs, names


def backward(p: Problem) -> None:
    """The gradient of fit_heads."""
    gradients(NAMESPACE, *solved(p), loss=p.loss)


@dataclass(frozen=True)
class Op:
    """How to run a kernel."""

    run: Callable[[Problem], None]
    kinds: tuple[str, ...]
    losses: tuple[str, ...] = tuple(LOSSES)
    samples: Callable[..., Samples] = heads_problem


OPS = {
    "lambda_max": Op(report_at_zero, ("sparse_group_ridge",)),
    "duality_gap": Op(report, ("sparse_group_ridge",)),
    "coupled_pull": Op(report, ("nested_ridge",)),
    "feature_stretch": Op(report, ("nested",)),
    "coupled_loss": Op(report, ("nested_ridge",)),
    "feature_value": Op(report, ("nested_ridge",)),
    "coupled_gap": Op(report, ("nested_ridge",)),
    "coupled_lambda_max": Op(report_at_zero, ("nested_ridge",)),
    "fit_ridge": Op(fit, ("ridge",), ("squared",)),
    "fit_proximal": Op(fit, ("sparse_group_ridge",)),
    "fit_heads_backward": Op(backward, ("sparse_group_ridge", "ridge"), samples=one_design),
    "add_sums": Op(backward, ("sparse_group_ridge",), samples=one_design),
    "coupled_start": Op(fit, ("nested_ridge",)),
    "coupled_steps": Op(fit, ("nested_ridge",)),
    "coupled_write": Op(fit, ("nested_ridge",)),
    "adjoint_load": Op(backward, ("nested_ridge",)),
    "adjoint_norms": Op(backward, ("nested_ridge",)),
    "adjoint_start": Op(backward, ("nested_ridge",)),
    "adjoint_solve": Op(backward, ("nested_ridge",)),
    "adjoint_write": Op(backward, ("nested_ridge",), samples=one_design),
    "adjoint_shared": Op(backward, ("nested_ridge",)),
    "adjoint_sums": Op(backward, ("nested_ridge",), samples=one_design),
}


def problems(op: Op) -> Iterator[Problem]:
    """Of every size, loss and kind of penalty."""
    for n, M, C, shared_bytes in SIZES:
        samples = op.samples(3, n, M, C)
        for loss, kind in product(op.losses, op.kinds):
            yield Problem(samples, loss, kind, shared_bytes)


def arrivals(kernel: str, line: int, problem: Problem, **options: Any) -> int:
    """How often threads pass the barrier of a PTX line, which is left out."""
    given = {"drop": (kernel, line), **options}
    with executing(CAPABILITY, (problem.shared_bytes, BLOCKS), **given) as executor:
        OPS[kernel].run(problem)
    return sum(stats.dropped for name, stats in executor.launches if name == kernel)


def outcome(kernel: str, line: int, tried: list[Problem]) -> str:
    """What becomes of a kernel without the barrier of a PTX line."""
    found = "unreached"
    try:
        for problem in tried:
            # At first without the sanitizer, which takes ten times as long.
            if arrivals(kernel, line, problem):
                found = "spare"
                arrivals(kernel, line, problem, sanitized=[kernel])
    except (LaunchError, AssertionError):  # what the executor asserts of every launch
        return "needed"
    return found


def lines(kernel: str) -> list[int]:
    """The PTX lines of a kernel's barriers."""
    ptx = source_of(kernel, CAPABILITY)
    return [site.line for site in sites(ptx, "barrier", entry_of(ptx, kernel, DTYPE))]


def measure(kernel: str) -> Row:
    """A kernel's row: how many barriers of each kind it has."""
    tried = list(problems(OPS[kernel]))
    outcomes = [outcome(kernel, line, tried) for line in lines(kernel)]
    counts = {kind: str(outcomes.count(kind)) for kind in ("needed", "spare", "unreached")}
    return {"kernel": kernel, "barriers": str(len(outcomes)), **counts}


def read() -> dict[str, Row]:
    """The table, by kernel."""
    return {row["kernel"]: row for row in tables.read(TABLE)}


def main() -> None:
    """Try kernels and put their rows into the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernels", nargs="*", metavar="KERNEL")
    os.environ["TSAN_OPTIONS"] = "halt_on_error=1"  # one race is enough
    for kernel in parser.parse_args().kernels or OPS:
        kernel_of(kernel, DTYPE, CAPABILITY, "thread").build()
        measured = measure(kernel)
        print(*measured.values(), flush=True)
        rows = {**read(), kernel: measured}
        tables.write(TABLE, [rows[name] for name in OPS if name in rows])


if __name__ == "__main__":
    main()
