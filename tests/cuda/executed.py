"""CUDA kernels in the place of a backend: compiled to PTX, which is executed on the CPU.

Launches and the kernels' parameter come from the host code that launches them on a GPU.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsedis_kernels import backends
from tests.core.build import CSRC, build, fingerprint
from tests.core.exercise import load
from tests.ptx import Kernel
from tests.ptx.cache import cache_directory, made_once
from tests.ptx.cuda_compile import NvccNotFoundError, compile_ptx, find_nvcc
from tests.ptx.execute import LaunchStats
from tests.ptx.sparse_memory import sparse_tensor

THREADS = 128  # of a block, at most
NAMESPACE = "sparsedis_executed"
FLAGS = ("--expt-relaxed-constexpr",)
# Bytes of shared memory and blocks: little of either, so that blocks take several tasks.
MACHINE = (96 * 1024, 3)
LARGE = 2**30  # elements
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

    def make(output: Path) -> None:
        ptx = compile_ptx(CSRC / "cuda" / source, capability, defines=defines, flags=FLAGS)
        output.write_text(ptx)

    key = fingerprint([find_nvcc(), source, str(capability), *FLAGS])
    return made_once(cache_directory() / f"{key}.ptx", make).read_text()


SOURCES = (
    "heads_report.cu",
    "heads_fit.cu",
    "heads_backward.cu",
    "coupled_fit.cu",
    "coupled_backward.cu",
)


def source_of(name: str, capability: int) -> str:
    """The PTX that has a kernel."""
    for source in SOURCES:
        text = ptx_of(source, capability)
        if f"{name}_kernel" in text:
            return text
    raise KeyError(name)


@cache
def kernel_of(
    name: str, dtype: torch.dtype, capability: int, sanitize: str | None = None
) -> Kernel:
    """One kernel, built."""
    text = source_of(name, capability)
    return Kernel(text, only=[entry_of(text, name, dtype)], sanitize=sanitize)


def entry_of(ptx: str, name: str, dtype: torch.dtype) -> str:
    (entry,) = set(re.findall(rf"\.entry (\w*\d{name}_kernelI{CODES[dtype]}E\w*)", ptx))
    return entry


@cache
def jobs() -> ModuleType:
    """The module that plans launches."""
    return load(str(build("cuda", cache_directory(), "sparsedis_cuda_jobs")))


def numpy_of(tensors: Sequence[Tensor | None]) -> list[np.ndarray | None]:
    return [None if t is None else t.contiguous().numpy() for t in tensors]


@dataclass(frozen=True)
class Samples:
    """What SAMPLES_SCHEMA names, and the intercept."""

    z: Tensor
    y: Tensor
    offsets: Tensor | None
    sample_weight: Tensor | None
    loss: int
    fit_intercept: bool

    @property
    def T(self) -> int:  # noqa: N802 - the field's name
        return len(self.y) if self.offsets is None else len(self.offsets) - 1

    def arrays(self) -> list[np.ndarray | None]:
        return numpy_of([self.z, self.y, self.offsets, self.sample_weight])


@dataclass(frozen=True)
class Strengths:
    """l1, group, shared and ridge, as raw ops take them."""

    tensors: tuple[Tensor | None, ...]
    scale: list[float]
    nonneg: bool

    def arrays(self) -> list[np.ndarray | None]:
        return [None if t is None else t.numpy() for t in self.tensors]

    def penalty(self, arrays: list[np.ndarray | None]) -> dict[str, Any]:
        """The levels that are there: a number, or an array and its factor."""
        levels: dict[str, Any] = {"nonneg": True} if self.nonneg else {}
        names = ("l1", "group", "shared", "ridge")
        for name, array, scale in zip(names, arrays, self.scale, strict=True):
            if array is not None:
                levels[name] = (array, scale)
            elif scale:
                levels[name] = float(scale)
        return levels


class Planned(NamedTuple):
    """A launch as the host has planned it."""

    kernel: str
    grid: int
    threads: int  # of a block
    shared: int  # bytes


class Executor:
    """Executes jobs; keeps what every launch did.

    Args:
        capability: 80 or 90, what the kernels are compiled for.
        machine: bytes of shared memory of a block, blocks at a time.
        options: of the executor's launch (seed, ...), and sanitize, or sanitized: the kernels that
            run under the thread sanitizer, where others need not; drop: a kernel and the PTX line
            of a barrier that is left out of it; blocks: which of a grid run, its size -> (first,
            number).
    """

    def __init__(self, capability: int, machine: tuple[int, int] = MACHINE, **options: Any) -> None:
        self.capability, self.machine = capability, machine
        self.sanitize = options.pop("sanitize", None)
        self.sanitized = options.pop("sanitized", ())
        self.drop = options.pop("drop", ("", 0))
        self.blocks = options.pop("blocks", lambda grid: (0, grid))
        self.options = options
        self.kernels: dict[str, Kernel] = {}  # in the place of the sources', by name
        self.launches: list[tuple[str, LaunchStats]] = []
        self.planned: list[Planned] = []

    def report(self, samples: Samples, strengths: Strengths, weight: Tensor | None) -> Tensor:
        """The kernels of lambda_max (no weight) or duality_gap."""
        coupled = strengths.tensors[2] is not None or strengths.scale[2] != 0
        lone = coupled and weight is None
        value = unwritten((1 if lone else samples.T,), samples.z.dtype)
        given = [samples.arrays(), strengths.arrays(), numpy_of([value, weight])]
        value_array, weight_array = given[2]
        job = jobs().plan_report(
            *given[0], samples.loss, samples.fit_intercept, strengths.penalty(given[1]),
            self.machine, value_array, weight_array,
        )  # fmt: skip
        self.run(job, samples.z.dtype, [a for part in given for a in part])
        return value

    def fit(
        self, samples: Samples, strengths: Strengths, init: Tensor | None, tol: float, most: int
    ) -> tuple[Tensor, ...]:
        """The kernels of fit_heads."""
        T, z = samples.T, samples.z
        M, C = z.shape[-1], samples.y.shape[-1]
        floats = [unwritten(shape, z.dtype) for shape in ((T, M, C), (T, C), (T,))]
        counts = [torch.full((T,), -7, dtype=torch.int32) for _ in range(2)]
        given = [samples.arrays(), strengths.arrays(), numpy_of([init, *floats, *counts])]
        job = jobs().plan_fit(
            *given[0], samples.loss, samples.fit_intercept, strengths.penalty(given[1]),
            self.machine, given[2][0], tol, most, *given[2][1:],
        )  # fmt: skip
        self.run(job, z.dtype, [a for part in given for a in part])
        return (*floats, *counts)

    def backward(
        self, samples: Samples, strengths: Strengths, given: list[Tensor], needs: list[bool]
    ) -> tuple[Tensor, ...]:
        """The kernels of fit_heads_backward; given are weight, grad_weight and grad_bias."""
        T, z = samples.T, samples.z
        levels = [(T, z.shape[-1])] * 2 + [(z.shape[-1],), (T, z.shape[-1])]
        weight = samples.sample_weight
        shapes = [z.shape, samples.y.shape, (0,) if weight is None else weight.shape, *levels]
        grads = [
            unwritten(shape if need else (0,), z.dtype)
            for shape, need in zip(shapes, needs, strict=True)
        ]
        wanted = [g if need else None for g, need in zip(grads, needs, strict=True)]
        arrays = [samples.arrays(), strengths.arrays(), numpy_of(given), numpy_of(wanted)]
        job = jobs().plan_backward(
            *arrays[0], samples.loss, samples.fit_intercept, strengths.penalty(arrays[1]),
            self.machine, *arrays[2], arrays[3],
        )  # fmt: skip
        self.run(job, z.dtype, [a for part in arrays for a in part])
        return tuple(grads)

    def run(self, job: Any, dtype: torch.dtype, arrays: list[Any]) -> None:
        """Launch the kernels of a job, whose parameter points into the arrays."""
        workspace = aligned(job.workspace_bytes())
        parameter = job.parameter(workspace)
        reachable = [a for a in (*arrays, workspace) if a is not None]
        for name, grid, threads, shared, cooperative in job.launches():
            sanitize = "thread" if name in self.sanitized else self.sanitize
            checks = {} if sanitize else {"check_shared_init": True}
            kernel = self.kernels.get(name) or kernel_of(name, dtype, self.capability, sanitize)
            (entry,) = kernel.entries
            stats = kernel.launch(
                entry, [parameter], grid, threads, shared, reachable=reachable,
                cooperative=cooperative, drop_barrier=self.drop[1] if name == self.drop[0] else 0,
                blocks=self.blocks(grid),
                **{**checks, **self.options},
            )  # fmt: skip
            assert not stats.warnings, stats.warnings
            self.launches.append((name, stats))
            self.planned.append(Planned(name, grid, threads, shared))


def unwritten(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An output: no numbers, or zeros where these would take more memory than there is."""
    if math.prod(shape) > LARGE:
        return sparse_tensor(shape, dtype)
    return torch.full(shape, torch.nan, dtype=dtype)


def aligned(size: int, to: int = 256) -> np.ndarray:
    """Bytes that are no numbers, aligned as a GPU's memory is."""
    memory = np.full(size + to, 0xFF, np.uint8)
    start = -memory.ctypes.data % to
    return memory[start : start + size]


_library = torch.library.Library(NAMESPACE, "FRAGMENT")
_serving: list[Executor] = []


def _lambda_max(*args: Any) -> Tensor:
    *samples, l1, group, shared, scale, fit_intercept, nonneg = args
    strengths = Strengths((l1, group, shared, None), [*scale[:3], 0.0], nonneg)
    return _serving[-1].report(Samples(*samples, fit_intercept), strengths, None)


def _duality_gap(weight: Tensor, *args: Any) -> Tensor:
    *samples, l1, group, shared, ridge, scale, nonneg, fit_intercept = args
    strengths = Strengths((l1, group, shared, ridge), scale, nonneg)
    return _serving[-1].report(Samples(*samples, fit_intercept), strengths, weight)


def _fit_heads(*args: Any) -> tuple[Tensor, ...]:
    *samples, l1, group, shared, ridge, scale, nonneg, fit_intercept, init, tol, most = args
    strengths = Strengths((l1, group, shared, ridge), scale, nonneg)
    return _serving[-1].fit(Samples(*samples, fit_intercept), strengths, init, tol, most)


def _fit_heads_backward(grad_weight: Tensor, grad_bias: Tensor, weight: Tensor, *args: Any) -> Any:
    *samples, l1, group, shared, ridge, scale, nonneg, fit_intercept, needs = args
    strengths = Strengths((l1, group, shared, ridge), scale, nonneg)
    given = [weight, grad_weight, grad_bias]
    return _serving[-1].backward(Samples(*samples, fit_intercept), strengths, given, needs)


for _name, _serve in {
    "lambda_max": _lambda_max,
    "duality_gap": _duality_gap,
    "fit_heads": _fit_heads,
    "fit_heads_backward": _fit_heads_backward,
}.items():
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
