"""The one place from which kernels are launched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def launch(
    kernel: Any, programs: int, warps: int, like: Tensor, *args: Any, **constants: Any
) -> None:
    """Run a Triton kernel on the device of `like`, on its current stream.

    Args:
        kernel: a function under `triton.jit`.
        programs: size of the one-dimensional grid.
        warps: warps of a program.
        like: a tensor on the device.
        args: run-time arguments.
        constants: compile-time arguments.
    """
    with torch.cuda.device_of(like):
        kernel[(programs,)](*args, num_warps=warps, **constants)
