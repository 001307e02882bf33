"""The one place from which kernels are launched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsedis_kernels.triton.tile import Problem, Tile

REGISTERS = 1 << 16  # of a multiprocessor, 32 bits each
MOST_REGISTERS = 255  # of a thread


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


def unspilt(warps: int) -> dict[str, int]:
    """A launch option for kernels that keep many values: as many registers as a thread can have.

    Of its own accord the assembler puts single values on the stack where that makes room for one
    more program on a multiprocessor.
    """
    if torch.version.hip:
        return {}
    return {"maxnreg": min(REGISTERS // (32 * warps), MOST_REGISTERS)}


def penalty_numbers(problem: Problem, scale: list[float]) -> dict[str, Any]:
    """The scales of the strengths l1, group and ridge of a problem, as its kernels take them."""
    return {
        "l1_scale": scale[0],
        "group_scale": scale[1],
        "ridge_scale": scale[3],
        "GROUPED": problem.strengths[1] is not None or scale[1] > 0,
    }


def launch_on_groups(
    kernel: Any, problem: Problem, *tensors: Tensor | None, **constants: Any
) -> None:
    """Run a kernel that handles every group on its own, unless there is none.

    Args:
        kernel: takes `tensors`, T, M, blocks, tasks, all strides and TILE.
        problem: sizes and strides.
        tensors: run-time arguments, None for absent ones.
        constants: further arguments, by name.
    """
    if problem.T * problem.M * problem.C == 0:
        return
    tile = problem.tile()
    blocks, tasks, chunks = problem.chunks(tile)
    launch(
        kernel, blocks * chunks, tile.warps, problem.like,
        *tensors, problem.T, problem.M, blocks, tasks, *problem.strides, TILE=tile, **constants,
    )  # fmt: skip


def launch_on_features(
    kernel: Any, problem: Problem, tile: Tile, *tensors: Tensor | None, **constants: Any
) -> None:
    """Run a kernel that handles all tasks of a few features in a program.

    Args:
        kernel: takes `tensors`, T, M, all strides, TILE and the forms of l1, group and ridge.
        problem: sizes and strides; its strengths are l1, group and ridge.
        tile: of the problem's features.
        tensors: run-time arguments, None for absent ones.
        constants: further arguments, by name.
    """
    forms = (problem.form(k) for k in range(3))
    l1, group, ridge = (form if form in ("number", "scalar") else "both" for form in forms)
    launch(
        kernel, -(-problem.M * tile.tasks // tile.filled), tile.warps, problem.like,
        *tensors, problem.T, problem.M, *problem.strides,
        TILE=tile, L1=l1, GROUP=group, RIDGE=ridge, **constants, **unspilt(tile.warps),
    )  # fmt: skip
