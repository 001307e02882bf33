"""CUDA kernels in the place of a backend: compiled to PTX, which is executed on the CPU.

Launches and the kernels' parameter come from the host code that launches them on a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsedis_kernels import backends
from tests.core.build import CSRC, build
from tests.core.exercise import load
from tests.ptx import Kernel
from tests.ptx.cuda_compile import NvccNotFoundError, compile_ptx, find_nvcc
from tests.ptx.execute import LaunchStats, cache_directory

THREADS = 128
NAMESPACE = "sparsedis_executed"
FLAGS = ("--expt-relaxed-constexpr",)
# Bytes of shared memory and blocks: little of either, so that blocks take several tasks.
MACHINE = (96 * 1024, 3)
CODES = {torch.float32: "f", torch.float64: "d"}


def require_nvcc() -> None:
    """Skip the test where there is no CUDA compiler."""
    try:
        find_nvcc()
    except NvccNotFoundError as error:
        pytest.skip(str(error))


@cache
def ptx_of(source: str, capability: int) -> str:
    """PTX of a file of csrc/cuda."""
    defines = {"SPARSEDIS_ISA": "cuda"}
    return compile_ptx(CSRC / "cuda" / source, capability, defines=defines, flags=FLAGS)


@cache
def kernel_of(
    name: str, dtype: torch.dtype, capability: int, sanitize: str | None = None
) -> Kernel:
    """One kernel, built."""
    text = ptx_of("heads_report.cu", capability)
    return Kernel(text, only=[entry_of(text, name, dtype)], sanitize=sanitize)


def entry_of(ptx: str, name: str, dtype: torch.dtype) -> str:
    (entry,) = set(re.findall(rf"\.entry (\w*\d{name}_kernelI{CODES[dtype]}E\w*)", ptx))
    return entry


@cache
def jobs() -> ModuleType:
    """The module that plans launches."""
    return load(str(build("cuda", cache_directory(), "sparsedis_cuda_jobs")))


class Executor:
    """Executes jobs; keeps what every launch did.

    Args:
        capability: 80 or 90, what the kernels are compiled for.
        machine: bytes of shared memory of a block, blocks at a time.
        options: of the executor's launch (seed, ...), and sanitize.
    """

    def __init__(self, capability: int, machine: tuple[int, int] = MACHINE, **options: Any) -> None:
        self.capability, self.machine = capability, machine
        self.sanitize = options.pop("sanitize", None)
        checks = {} if self.sanitize else {"check_shared_init": True}
        self.options = {**checks, **options}
        self.launches: list[tuple[str, LaunchStats]] = []
        self.planned: list[tuple[str, int, int]] = []  # kernel, grid, bytes of shared memory

    def report(self, value: Tensor, weight: Tensor | None, *args: Any) -> Tensor:
        """Fill `value` by the kernels of lambda_max (no weight) or duality_gap."""
        z, y, offsets, sample_weight, loss, levels, scale, nonneg, fit_intercept = args
        arrays = [
            None if a is None else a.contiguous().numpy() for a in (z, y, offsets, sample_weight)
        ]
        penalty: dict[str, Any] = {"nonneg": True} if nonneg else {}
        for name, level, by in zip(("l1", "group", "shared", "ridge"), levels, scale, strict=True):
            if level is not None:
                penalty[name] = (level.numpy(), by)
            elif by:
                penalty[name] = float(by)
        w = None if weight is None else weight.contiguous().numpy()
        make = jobs().ReportFloat if z.dtype == torch.float32 else jobs().ReportDouble
        job = make(
            arrays[0], arrays[1], penalty, value.numpy(), weight=w, offsets=arrays[2],
            sample_weight=arrays[3], loss=loss, fit_intercept=fit_intercept, machine=self.machine,
        )  # fmt: skip
        given = [level.numpy() for level in levels if level is not None]
        self.run(job, z.dtype, [*arrays, w, value.numpy(), *given])
        return value

    def run(self, job: Any, dtype: torch.dtype, arrays: list[Any]) -> None:
        """Launch the kernels of a job, whose parameter points into the arrays."""
        workspace = aligned(job.workspace_bytes())
        parameter = job.parameter(workspace)
        reachable = [a for a in (*arrays, workspace) if a is not None]
        for name, grid, shared in job.launches():
            kernel = kernel_of(name, dtype, self.capability, self.sanitize)
            (entry,) = kernel.entries
            stats = kernel.launch(
                entry, [parameter], grid, THREADS, shared, reachable=reachable, **self.options
            )
            assert not stats.warnings
            self.launches.append((name, stats))
            self.planned.append((name, grid, shared))


def aligned(size: int, to: int = 256) -> np.ndarray:
    """Bytes that are no numbers, aligned as a GPU's memory is."""
    memory = np.full(size + to, 0xFF, np.uint8)
    start = -memory.ctypes.data % to
    return memory[start : start + size]


_library = torch.library.Library(NAMESPACE, "FRAGMENT")
_serving: list[Executor] = []


def _lambda_max(z: Tensor, y: Tensor, offsets: Any, sample_weight: Any, loss: int, l1: Any,
                group: Any, shared: Any, scale: list[float], fit_intercept: bool,
                nonneg: bool) -> Tensor:  # fmt: skip
    T = y.shape[0] if offsets is None else len(offsets) - 1
    value = z.new_full((1 if shared is not None or scale[2] else T,), torch.nan)
    strengths, scale = (l1, group, shared, None), [*scale[:3], 0.0]
    samples = (z, y, offsets, sample_weight, loss)
    return _serving[-1].report(value, None, *samples, strengths, scale, nonneg, fit_intercept)


def _duality_gap(weight: Tensor, z: Tensor, y: Tensor, offsets: Any, sample_weight: Any, loss: int,
                 l1: Any, group: Any, shared: Any, ridge: Any, scale: list[float], nonneg: bool,
                 fit_intercept: bool) -> Tensor:  # fmt: skip
    value, strengths = z.new_full((len(weight),), torch.nan), (l1, group, shared, ridge)
    samples = (z, y, offsets, sample_weight, loss)
    return _serving[-1].report(value, weight, *samples, strengths, scale, nonneg, fit_intercept)


for _name, _serve in {"lambda_max": _lambda_max, "duality_gap": _duality_gap}.items():
    _schema = str(getattr(torch.ops.sparsedis, _name).default._schema)
    _library.define(_schema.removeprefix("sparsedis::"))
    _library.impl(_name, _serve, "CPU")


@contextmanager
def executing(
    capability: int, machine: tuple[int, int] = MACHINE, **options: Any
) -> Iterator[Executor]:
    """Let `backend="cuda"` serve CPU tensors by executed PTX; yields what executes it."""
    require_nvcc()
    known, executor = backends.namespace, Executor(capability, machine, **options)

    def namespace(op: str, device: torch.device, backend: str | None) -> str:
        return NAMESPACE if backend == "cuda" else known(op, device, backend)

    _serving.append(executor)
    try:
        with mock.patch.object(backends, "namespace", namespace):
            yield executor
    finally:
        _serving.pop()
