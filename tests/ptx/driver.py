"""A Triton driver whose device is this machine's CPU: Triton's own launcher runs the PTX it made.

with driver.executing(capability=80) as launches:
    kernel[grid](cpu_tensor, ...)
launches[-1].stats
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel
from triton.runtime import driver as triton_driver

from .execute import LaunchStats
from .triton_run import run_compiled, runtime_arguments


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel."""

    compiled: Any
    stats: LaunchStats


class _Driver:
    """What Triton asks of a driver before it launches; a device's number is its capability."""

    utils = SimpleNamespace(unload_module=lambda module: None)

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def map_python_to_cpp_type(self, type_: str) -> str:
        return type_


@contextmanager
def executing(capability: int = 80, **options: Any) -> Iterator[list[Launch]]:
    """Execute every Triton launch inside on CPU tensors, compiled for one capability.

    options go to Kernel.launch (check_bounds, count_sectors, seed, ...), or `sanitize` to Kernel;
    a function is called with the grid. Yields the list to which every launch is appended.
    """
    launches: list[Launch] = []

    def load(compiled: CompiledKernel) -> None:
        def run(x, y, z, stream, function, packed, metadata, enter, leave, *bound):
            args, grid = runtime_arguments(compiled.src.signature, bound), (x, y, z)
            chosen = {k: o(grid) if callable(o) else o for k, o in options.items()}
            launches.append(Launch(compiled, run_compiled(compiled, grid, args, **chosen)))

        compiled.function, compiled._run = 0, run

    # A kernel that an earlier block loaded would go on appending to that block's list.
    run = property(lambda compiled: load(compiled) or compiled._run)
    active = triton_driver._active
    with (
        mock.patch.object(CompiledKernel, "run", run),
        mock.patch.object(CompiledKernel, "_init_handles", load),
    ):
        triton_driver.set_active(_Driver(capability))
        try:
            yield launches
        finally:
            triton_driver._active = active
