"""Every block barrier of the CUDA kernels left out once, and whether the thread sanitizer notices.

python -m tests.cuda.barriers [KERNEL ...]    try these kernels, or all, and write barriers.csv

A barrier is `needed` where leaving it out is a data race, a deadlock or another fault on one of the
problems. One that is `spare` was left out on all problems that reach it, and other barriers ordered
the same accesses: inlining puts the barrier that ends one step beside the one that begins the next.
Where common problems do not reach a barrier, special ones are tried. `unreached` ones lie on paths
that none takes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
# Samples, features and outputs of a task: few of each, which are tried off the chip, too; more
# weights than a block has threads; more than a warp takes.
SMALL, MEDIUM, LARGE = (9, 5, 3), (20, 70, 9), (20, 100, 9)
MANY_OUTPUTS = (4, 2, 65)  # more than half of a block's threads
TASKS = 3


@dataclass(frozen=True)
class Problem:
    """What the kernels of an op are given."""

    samples: Samples
    loss: str
    kind: str
    shared_bytes: int
    fit_intercept: bool = True

    @property
    def y(self) -> Tensor:
        return targets(self.loss, self.samples.y)

    def penalty(self) -> sk.Penalty:
        return HEAD_PENALTIES[self.kind].scaled(0.02)

    @property
    def options(self) -> dict[str, Any]:
        """Of the public ops."""
        how = {"loss": self.loss, "fit_intercept": self.fit_intercept, "backend": "cuda"}
        return {**self.samples.keywords(), **how}


def report_at_zero(p: Problem) -> None:
    """lambda_max."""
    sk.lambda_max(p.samples.z, p.y, p.penalty(), **p.options)


def report(p: Problem) -> None:
    """duality_gap, of some weights."""
    z, y = p.samples.z, p.y
    weight = torch.cos(torch.arange(len(y) * z.shape[-1] * y.shape[-1], dtype=DTYPE))
    weight = weight.view(len(y), z.shape[-1], y.shape[-1]) / 10
    sk.duality_gap(z, y, weight, p.penalty(), **p.options)


def fit(p: Problem) -> None:
    """fit_heads, from weights that are not zero, as far as its second certificate."""
    z, y = p.samples.z, p.y
    init = torch.full((len(y), z.shape[-1], y.shape[-1]), 0.01, dtype=DTYPE)
    stop: dict[str, Any] = {"tol": 1e-12, "max_iter": 11, "on_error": "flag"}
    sk.fit_heads(z, y, p.penalty(), init=init, **stop, **p.options)


@cache
def solved(p: Problem) -> tuple[Tensor, list[Tensor], list[str]]:
    inputs, names = inputs_of(p.samples, HEAD_PENALTIES[p.kind], p.loss)
    if p.samples.sample_weight is not None:
        inputs[2] = p.samples.sample_weight
    return solve(inputs, names, loss=p.loss, on_error="flag"), inputs, names


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
    most: tuple[int, int, int] = MEDIUM


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
    "fit_proximal": Op(fit, ("sparse_group_ridge",), most=LARGE),
    "fit_heads_backward": Op(
        backward, ("sparse_group_ridge", "ridge"), samples=one_design, most=LARGE
    ),
    "add_sums": Op(backward, ("sparse_group_ridge",), samples=one_design, most=LARGE),
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


def common(op: Op) -> Iterator[Problem]:
    """Problems of every size, loss and kind of penalty."""
    for size, shared_bytes in ((SMALL, MACHINE[0]), (op.most, MACHINE[0]), (SMALL, 0)):
        samples = op.samples(TASKS, *size)
        for loss, kind in product(op.losses, op.kinds):
            yield Problem(samples, loss, kind, shared_bytes)


def special(op: Op) -> Iterator[Problem]:
    """Problems of many outputs, of odd tasks, and of those without an intercept."""
    many, odd = op.samples(TASKS, *MANY_OUTPUTS), odd_samples(op)
    for loss, kind in product(op.losses, op.kinds):
        yield Problem(many, loss, kind, MACHINE[0])
        for fit_intercept in (True, False):
            yield Problem(odd, loss, kind, MACHINE[0], fit_intercept)


def odd_samples(op: Op) -> Samples:
    """A task that is not finite, one without weight, one without targets; if tasks have designs of
    their own, one whose matrix rounding makes indefinite, too.
    """
    n = SMALL[0]
    samples = op.samples(TASKS + 1, *SMALL)
    samples.y[0, 0, 0] = torch.nan
    samples.y[2] = 0
    weight = torch.ones(TASKS + 1, n, dtype=DTYPE)
    weight[1] = 0
    if samples.z.dim() == 3:
        samples.z[3] = 1e12 * samples.z[3, :, :1]
    return replace(samples, sample_weight=weight)


def arrivals(kernel: str, line: int, problem: Problem, **options: Any) -> int:
    """How often threads pass the barrier of a PTX line, which is left out."""
    given = {"drop": (kernel, line), **options}
    with executing(CAPABILITY, (problem.shared_bytes, BLOCKS), **given) as executor:
        OPS[kernel].run(problem)
    return sum(stats.dropped for name, stats in executor.launches if name == kernel)


def outcome(kernel: str, line: int, tried: list[Problem]) -> str:
    """What becomes of a kernel on some problems without the barrier of a PTX line."""
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
    tried, others = list(common(OPS[kernel])), list(special(OPS[kernel]))
    outcomes = []
    for line in lines(kernel):
        found = outcome(kernel, line, tried)
        outcomes.append(outcome(kernel, line, others) if found == "unreached" else found)
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
