"""Ridge heads of many tasks on one design, which differ in their targets alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch

from sparsedis_kernels.bench.case import Bar, Case, Job, Provider, bytes_of, close_to
from sparsedis_kernels.bench.heads import Fit, ours
from sparsedis_kernels.bench.peers import himalaya, linalg
from sparsedis_kernels.bench.problems import heads_problem
from sparsedis_kernels.penalty import Penalty

STRENGTH = 0.1
TASKS, FEW = 1000, 100
SIZES = [(200, 128, 5), (50, 512, 5)]
FACTOR = 1.0  # as fast as the best of them: one product with all targets leaves little to gain


def cases(op: str, device_type: str, quick: bool) -> Iterator[Case]:
    """Few tasks, and unless `quick` many of both sizes."""
    yield one_design_case(FEW, *SIZES[0])
    for size in () if quick else SIZES:
        yield one_design_case(TASKS, *size)


def one_design_case(T: int, n: int, M: int, C: int) -> Case:
    """The fit of ridge heads."""

    def setup(device: torch.device) -> Job:
        fit = one_design(device, T, n, M, C)
        exact = ours(fit.double(), backend="reference")()
        moved = bytes_of(fit.z, fit.y) + 4 * T * M * C
        return Job(fit, close_to(exact, 1e-3), moved, operator_flops(n, M, T * C))

    providers: dict[str, Provider] = {
        "ours": ours,
        "reference": partial(ours, backend="reference"),
        "torch cholesky": linalg.one_factor,
        "torch operator": linalg.one_operator,
    }
    peers: dict[str, Provider] = {
        "himalaya": himalaya.ridge,
        "himalaya kernel": himalaya.kernel_ridge,
    }
    bars = (Bar(FACTOR, ("torch cholesky", "torch operator", *peers)),)
    where = ("one_design", f"ridge n={n}", (T, M, C), "forward")
    return Case(*where, setup, providers, peers, bars)


def one_design(device: torch.device, T: int, n: int, M: int, C: int) -> Fit:
    """The same samples in every run."""
    torch.manual_seed(0)
    samples = heads_problem(1, n, M, T * C, dtype=torch.float32)
    y = samples.y[0].unflatten(1, (T, C)).transpose(0, 1).contiguous()
    return Fit(samples.z[0].to(device), y.to(device), Penalty(ridge=STRENGTH), tol=1e-4)


def operator_flops(n: int, M: int, targets: int) -> int:
    """Operations: Gram triangle and factor of the smaller side, operator, its product."""
    side, other = min(n, M), max(n, M)
    operator = side * side * other + side**3 / 3 + 2 * side * side * other
    return math.ceil(operator + 2 * n * M * targets)
