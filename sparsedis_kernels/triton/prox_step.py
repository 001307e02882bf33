"""Launches the optimiser steps that end in the prox: many tensors in few launches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from sparsedis_kernels.arrays import narrow, widened
from sparsedis_kernels.reference.prox_step import Levels, gradients_summed, levels_of, times
from sparsedis_kernels.triton.kernels.prox_step import (
    coupled_prox_adamw_kernel,
    coupled_prox_sgd_kernel,
    prox_adamw_kernel,
    prox_sgd_kernel,
)
from sparsedis_kernels.triton.launch import launch, launch_on_features, penalty_numbers
from sparsedis_kernels.triton.prox import prox_, shared_level
from sparsedis_kernels.triton.tile import ITERATES, Problem

# Tensors of a launch: a kernel for each of these numbers. 64 with five pointers and two integers
# each stay within the 4 KiB of arguments that every device takes.
TABLE_SIZES = (1, 8, 64)
NO_PROGRAM = 1 << 31


@dataclass(frozen=True)
class Update:
    """One weight of a step: its arrays (the weight first), strengths and step counter."""

    problem: Problem
    step: Tensor

    @property
    def kind(self) -> Any:
        """What tensors of one launch have in common; a tensor that goes alone is its own kind."""
        problem = self.problem
        if problem.T > 1 or not problem.dense or any(s is not None for s in problem.strengths):
            return id(self)
        dtypes = tuple(a and a.data.dtype for a in problem.arrays)
        return problem.tile(), dtypes


def prox_sgd_(
    weights: list[Tensor], grads: list[Tensor], momentum_buffers: list[Tensor],
    steps: list[Tensor], l1: list[Tensor], group: list[Tensor], shared: list[Tensor],
    ridge: list[Tensor], scale: list[float], nonneg: bool, lr: float, momentum: float,
    nesterov: bool, weight_decay: float,
) -> None:  # fmt: skip
    """`sparsedis_kernels.reference.prox_sgd_`."""
    torch._foreach_add_(steps, 1)
    buffers: list[Tensor | None] = [*momentum_buffers] or [None] * len(weights)
    arrays, levels = (weights, grads, buffers), (l1, group, shared, ridge)
    numbers = {
        "lr": lr, "momentum": momentum, "decay": weight_decay,
        "NESTEROV": nesterov, "NONNEG": nonneg,
    }  # fmt: skip
    if shared or scale[2] > 0:
        for i, each in enumerate(zip(*arrays, strict=True)):
            _coupled_sgd(each, steps[i], levels_of(i, *levels), scale, numbers)
    else:
        updates = _updates(arrays, steps, levels, scale)
        _launch(prox_sgd_kernel, updates, scale, PROX=True, **numbers)


def _coupled_sgd(
    arrays: Sequence[Any], step: Tensor, levels: Levels, scale: list[float],
    numbers: dict[str, Any],
) -> None:  # fmt: skip
    """A step of one weight with the shared level: in one kernel if its tasks fit, else in two."""
    w, grad, buffer = arrays
    problem = Problem.of(w.shape, arrays, _without_shared(levels))
    uniform = problem.is_shared(2)
    if w.numel() == 0:
        return
    if tile := problem.tile_of_features(kept=3 if uniform else ITERATES):
        launch_on_features(
            coupled_prox_sgd_kernel, problem, tile,
            *arrays, step, *_without_shared(levels), shared_level(w, levels[2], scale[2]),
            UNIFORM=uniform, **penalty_numbers(problem, scale), **numbers,
        )  # fmt: skip
        return
    wide = widened(w)
    updates = _updates(([wide], [grad], [buffer]), [step], None, scale)
    _launch(prox_sgd_kernel, updates, scale, PROX=False, **numbers)
    if buffer is not None:
        summed = gradients_summed(step, numbers["momentum"], numbers["NESTEROV"])
        levels = times(levels, scale, summed, wide)
    prox_(wide, *levels, None, scale, numbers["NONNEG"])
    narrow((w,), (wide,))


def prox_adamw_(
    weights: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor],
    steps: list[Tensor], l1: list[Tensor], group: list[Tensor], shared: list[Tensor],
    ridge: list[Tensor], scale: list[float], nonneg: bool, lr: float, beta1: float, beta2: float,
    eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """`sparsedis_kernels.reference.prox_adamw_`."""
    torch._foreach_add_(steps, 1)
    arrays, levels = (weights, grads, exp_avgs, exp_avg_sqs), (l1, group, shared, ridge)
    numbers = {
        "lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "decay": weight_decay,
        "NONNEG": nonneg,
    }  # fmt: skip
    if shared or scale[2] > 0:
        for i, each in enumerate(zip(*arrays, strict=True)):
            _coupled_adamw(each, steps[i], levels_of(i, *levels), scale, numbers)
    else:
        no_metrics: list[Tensor | None] = [None] * len(weights)
        updates = _updates((*arrays, no_metrics), steps, levels, scale)
        _launch(prox_adamw_kernel, updates, scale, **numbers)


def _coupled_adamw(
    arrays: Sequence[Tensor], step: Tensor, levels: Levels, scale: list[float],
    numbers: dict[str, Any],
) -> None:  # fmt: skip
    """A step of one weight with the shared level: in one kernel if its tasks fit, else in two."""
    w, *others = arrays
    problem = Problem.of(w.shape, arrays, _without_shared(levels))
    if w.numel() == 0:
        return
    if tile := problem.tile_of_features(kept=ITERATES):
        launch_on_features(
            coupled_prox_adamw_kernel, problem, tile,
            *arrays, step, *_without_shared(levels), shared_level(w, levels[2], scale[2]),
            **penalty_numbers(problem, scale), **numbers,
        )  # fmt: skip
        return
    wide = widened(w)
    metric = torch.empty_like(wide)
    lists = ([wide], *([o] for o in others), [metric])
    _launch(prox_adamw_kernel, _updates(lists, [step], None, scale), scale, **numbers)
    prox_(wide, *levels, metric, scale, numbers["NONNEG"])
    narrow((w,), (wide,))


def _without_shared(levels: Levels) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    l1, group, _, ridge = levels
    return l1, group, ridge


def _updates(
    arrays: Sequence[Sequence[Tensor | None]], steps: list[Tensor],
    levels: tuple[list[Tensor], ...] | None, scale: list[float],
) -> list[Update]:  # fmt: skip
    """The updates of a step; without `levels` it ends before the prox."""
    grouped = levels is not None and (bool(levels[1]) or scale[1] > 0)
    updates = []
    for i, each in enumerate(zip(*arrays, strict=True)):
        strengths = _without_shared(levels_of(i, *levels)) if levels else (None,) * 3
        w = each[0]
        if w is not None and w.numel():
            problem = Problem.of(w.shape, each, strengths)
            updates.append(Update(problem.merged(grouped=grouped), steps[i]))
    return updates


def _launch(kernel: Any, updates: list[Update], scale: list[float], **options: Any) -> None:
    for table in _tables(updates):
        problem = table[0].problem
        tile = problem.tile()
        tasks = problem.chunks(tile)[1]
        cuts = (update.problem.chunks(tile) for update in table)
        programs = [blocks * chunks for blocks, _, chunks in cuts]
        starts = [0, *accumulate(programs)]
        padded = table + table[-1:] * (_table_size(len(table)) - len(table))
        launch(
            kernel, starts.pop(), tile.warps, table[0].step,
            *_pointers(padded), tuple(u.step for u in padded),
            tuple(_coded(u.problem.M) for u in padded),
            tuple(map(_coded, starts + [NO_PROGRAM] * (len(padded) - len(table)))),
            *problem.tensors[len(problem.arrays) :], problem.T, tasks, *problem.strides,
            TILE=tile, L1=problem.form(0), GROUP=problem.form(1), RIDGE=problem.form(2),
            **penalty_numbers(problem, scale), **options,
        )  # fmt: skip


def _tables(updates: list[Update]) -> Iterator[list[Update]]:
    """The updates of every launch."""
    kinds: dict[Any, list[Update]] = {}
    for update in updates:
        kinds.setdefault(update.kind, []).append(update)
    for alike in kinds.values():
        for first in range(0, len(alike), TABLE_SIZES[-1]):
            yield alike[first : first + TABLE_SIZES[-1]]


def _table_size(tensors: int) -> int:
    return next(size for size in TABLE_SIZES if size >= tensors)


def _pointers(table: list[Update]) -> Iterator[tuple[Tensor, ...] | None]:
    """For every array of the kernel, that of each tensor; None if there is none."""
    for views in zip(*(u.problem.arrays for u in table), strict=True):
        yield None if views[0] is None else tuple(v.data for v in views)


def _coded(n: int) -> int:
    """n as 16 n + 3: Triton compiles anew where an integer becomes 1 or a multiple of 16."""
    return 16 * n + 3
