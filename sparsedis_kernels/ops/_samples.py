"""The samples of T tasks in any layout, checked and brought to what the raw ops take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsedis_kernels import arrays, backends
from sparsedis_kernels.ops import _check
from sparsedis_kernels.reference.losses import LOSSES, ROUNDING


@dataclass(frozen=True)
class Samples:
    """z, y, offsets and sample_weight of T tasks and their loss, with the sizes they imply."""

    z: Tensor
    y: Tensor
    offsets: Tensor | None
    sample_weight: Tensor | None
    loss: int  # an index into LOSSES
    T: int
    M: int
    C: int
    dtype: torch.dtype  # of the caller's z: the results take it

    @property
    def args(self) -> tuple[Any, ...]:
        """What SAMPLES_SCHEMA names."""
        return self.z, self.y, self.offsets, self.sample_weight, self.loss

    def namespace(self, op: str, backend: str | None) -> str:
        """The namespace of ops that serves `op` where the samples are.

        Raises:
            RuntimeError: the backend asked for cannot.
        """
        return backends.namespace(op, self.z.device, backend)


def loss_index(op: str, loss: str) -> int:
    """The index of a loss in LOSSES.

    Raises:
        ValueError: there is no such loss.
    """
    names = [known.name for known in LOSSES]
    if loss not in names:
        raise ValueError(f"{op}: loss={loss!r}, there is {', '.join(map(repr, names))}")
    return names.index(loss)


def read_samples(
    op: str,
    z: Tensor,
    y: Tensor,
    offsets: Tensor | None,
    sample_weight: Tensor | None,
    loss: str = "squared",
    n_classes: int | None = None,
) -> Samples:
    """Check the layout of the samples.

    Dense: z (T, n, M), y (T, n, C). Shared design: z (n, M), y (T, n, C). Ragged: z (N, M),
    y (N, C) with offsets (T + 1,), or jagged nested tensors z and y. Class indices have no axis C.

    Raises:
        ValueError: shapes that do not fit each other, or an unknown loss.
        TypeError: z, y or sample_weight is not floating, or offsets are not int64.
    """
    index = loss_index(op, loss)
    if z.is_nested:
        z, y, offsets, sample_weight = _from_nested(op, z, y, offsets, sample_weight)
    soft = LOSSES[index].name == "multinomial" and y.is_floating_point()
    if LOSSES[index].name == "multinomial" and not soft:
        dim, rows = (2, "(T, n)") if offsets is None else (1, "(N,)")
        _check.axes(op, "y", y, f"{rows}, since its integers are class indices", dim)
        y = _one_hot(y, n_classes).to(z.dtype)
    for name, value in (("z", z), ("y", y), ("sample_weight", sample_weight)):
        if value is not None:
            _check.floating(op, name, value)
    dtype, z = z.dtype, arrays.widened(z)
    y = _distributions(y.to(z.dtype)) if soft else y.to(z.dtype)
    weight = None if sample_weight is None else sample_weight.to(z.dtype)
    if offsets is not None:
        T = _check_ragged(op, z, y, offsets, weight)
    elif z.dim() == 2:
        T = _check_shared_design(op, z, y, weight)
    else:
        T = _check_dense(op, z, y, weight)
    return Samples(z, y, offsets, weight, index, T, z.shape[-1], y.shape[-1], dtype)


def _one_hot(y: Tensor, n_classes: int | None) -> Tensor:
    if n_classes is None:
        n_classes = int(y.max()) + 1 if y.numel() else 0
    classes = torch.arange(n_classes, device=y.device)
    # An index that is no class leaves a row of zeros, which is no distribution: a bad task.
    return y.unsqueeze(-1) == classes


def _distributions(y: Tensor) -> Tensor:
    """The rows whose sum is 1 up to rounding divided by it, the others as they are.

    A sum that is off by rounding leaves the dual point infeasible, and the gap open.
    """
    total = y.sum(-1, keepdim=True)
    return y / torch.where((total - 1).abs() < ROUNDING, total, 1)


def _from_nested(
    op: str, z: Any, y: Any, offsets: Tensor | None, sample_weight: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    if offsets is not None:
        raise ValueError(f"{op}: offsets are given, but z is nested and has its own")
    if not y.is_nested or z.layout != torch.jagged or y.layout != torch.jagged:
        raise ValueError(f"{op}: z is nested, so z and y must both be jagged nested tensors")
    if y.offsets().shape != z.offsets().shape or y.values().shape[0] != z.values().shape[0]:
        raise ValueError(
            f"{op}: y holds {tuple(y.values().shape)} in {y.shape[0]} tasks, but z holds "
            f"{tuple(z.values().shape)} in {z.shape[0]}"
        )
    if sample_weight is not None and sample_weight.is_nested:
        sample_weight = sample_weight.values()
    return z.values(), y.values(), z.offsets(), sample_weight


def _check_ragged(op: str, z: Tensor, y: Tensor, offsets: Tensor, weight: Tensor | None) -> int:
    _check.axes(op, "z", z, "(N, M), since offsets are given", 2)
    _check.axes(op, "y", y, "(N, C), since offsets are given", 2)
    _check.axes(op, "offsets", offsets, "(T + 1,)", 1)
    if offsets.dtype != torch.int64:
        raise TypeError(f"{op}: offsets has dtype {offsets.dtype}, expected torch.int64")
    if offsets.shape[0] == 0:
        raise ValueError(f"{op}: offsets has shape (0,), expected (T + 1,) with T >= 0")
    _check.same_shape(op, "y", y[:, 0], "z", (z.shape[0],))
    if weight is not None:
        _check.same_shape(op, "sample_weight", weight, "z", (z.shape[0],))
    return offsets.shape[0] - 1


def _check_shared_design(op: str, z: Tensor, y: Tensor, weight: Tensor | None) -> int:
    _check.axes(op, "y", y, "(T, n, C), since z is one design (n, M)", 3)
    T, n = y.shape[:2]
    if n != z.shape[0]:
        raise ValueError(f"{op}: y has {n} samples per task, but the design z has {z.shape[0]}")
    if weight is not None and tuple(weight.shape) not in ((n,), (T, n)):
        raise ValueError(
            f"{op}: sample_weight has shape {tuple(weight.shape)}, expected ({n},) or ({T}, {n})"
        )
    return T


def _check_dense(op: str, z: Tensor, y: Tensor, weight: Tensor | None) -> int:
    _check.axes(op, "z", z, "(T, n, M), or (n, M) for one design, or (N, M) with offsets", 3)
    _check.axes(op, "y", y, "(T, n, C)", 3)
    _check.same_shape(op, "y", y, "z", (*z.shape[:2], y.shape[2]))
    if weight is not None:
        _check.same_shape(op, "sample_weight", weight, "z", tuple(z.shape[:2]))
    return z.shape[0]


SAMPLES_SCHEMA = "Tensor z, Tensor y, Tensor? offsets, Tensor? sample_weight, int loss"
PENALTY_SCHEMA = (
    "Tensor? l1, Tensor? group, Tensor? shared, Tensor? ridge, float[] scale, bool nonneg"
)


def task_count(z: Tensor, y: Tensor, offsets: Tensor | None) -> int:
    """T, from the arguments of a raw op."""
    return y.shape[0] if offsets is None else offsets.shape[0] - 1
