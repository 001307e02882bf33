"""The samples of T tasks in any layout, checked and brought to what the raw ops take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsedis_kernels import arrays, backends
from sparsedis_kernels.ops import _check
from sparsedis_kernels.ops._define import define, raw
from sparsedis_kernels.reference.heads_batch import layout_of, make_batch
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
        ValueError: shapes or offsets that do not fit each other, or an unknown loss.
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
        offsets = raw(backends.AUTOMATIC, "check_offsets")(op, offsets, z.shape[0])
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
    if not y.is_nested:
        raise ValueError(f"{op}: z is nested, so z and y must both be jagged nested tensors")
    z_values, offsets = _unpacked(op, "z", z, None)
    y_values, offsets = _unpacked(op, "y", y, offsets)
    if sample_weight is not None and sample_weight.is_nested:
        sample_weight, offsets = _unpacked(op, "sample_weight", sample_weight, offsets)
    return z_values, y_values, offsets, sample_weight


def _unpacked(op: str, name: str, value: Any, expected: Tensor | None) -> tuple[Tensor, Tensor]:
    """The values of a jagged nested tensor and its offsets, which are those of z, `expected`."""
    if value.layout != torch.jagged:
        raise ValueError(f"{op}: {name} has layout {value.layout}, expected torch.jagged")
    if value.lengths() is not None:
        raise ValueError(
            f"{op}: {name} is nested with lengths, as torch.nested.narrow leaves it, so that its "
            "tasks are not packed; pass a contiguous one"
        )
    offsets = value.offsets()
    if expected is None or offsets is expected:
        return value.values(), offsets
    return value.values(), raw(backends.AUTOMATIC, "same_offsets")(op, name, offsets, expected)


def _same_offsets(op: str, name: str, offsets: Tensor, expected: Tensor) -> Tensor:
    if len(offsets) != len(expected):
        raise ValueError(
            f"{op}: {name} is nested with {len(offsets) - 1} tasks, but z has {len(expected) - 1}"
        )
    counts, needed = offsets.diff(), expected.diff()
    wrong = (counts != needed).nonzero().flatten()
    if wrong.numel():
        t = int(wrong[0])
        raise ValueError(
            f"{op}: {name} holds {int(counts[t])} samples of task {t}, but z holds {int(needed[t])}"
        )
    return offsets.clone()


def _check_offsets(op: str, offsets: Tensor, rows: int) -> Tensor:
    if offsets[0] != 0 or offsets[-1] != rows:
        raise ValueError(
            f"{op}: offsets run from {int(offsets[0])} to {int(offsets[-1])}, expected from 0 to "
            f"the {rows} rows of z"
        )
    falls = (offsets.diff() < 0).nonzero().flatten()
    if falls.numel():
        t = int(falls[0])
        raise ValueError(
            f"{op}: offsets fall from {int(offsets[t])} to {int(offsets[t + 1])} at task {t}"
        )
    return offsets.clone()


# These checks read offsets on the host. As ops whose result counts they keep their place in a
# compiled graph.
define(
    "same_offsets(str op, str name, Tensor offsets, Tensor expected) -> Tensor",
    reference=_same_offsets,
    fake=lambda op, name, offsets, expected: torch.empty_like(expected),
    autocast=False,
    native=False,
)
define(
    "check_offsets(str op, Tensor offsets, SymInt rows) -> Tensor",
    reference=_check_offsets,
    fake=lambda op, offsets, rows: torch.empty_like(offsets),
    autocast=False,
    native=False,
)


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


@torch.no_grad()
def bad_tasks(s: Samples) -> Tensor:
    """Which tasks have samples that no fit takes: (T,) bool."""
    layout, none = layout_of(s.z, s.y, s.offsets), s.z.new_zeros(s.T, dtype=torch.bool)
    return make_batch(layout, s.z, s.y, s.sample_weight, LOSSES[s.loss], False, none).bad


def refuse_bad(op: str, bad: Tensor, remedy: str = "") -> None:
    """Raise ValueError that names the first of the bad tasks (T,), where values can be read."""
    if arrays.readable(bad) and bool(bad.any()):
        raise ValueError(
            f"{op}: NaN, infinity, a negative sample weight or a target that the loss does not "
            f"take in {int(bad.sum())} of {bad.numel()} tasks, the first is task "
            f"{int(bad.nonzero()[0])}{remedy}"
        )


SAMPLES_SCHEMA = "Tensor z, Tensor y, Tensor? offsets, Tensor? sample_weight, int loss"
PENALTY_SCHEMA = (
    "Tensor? l1, Tensor? group, Tensor? shared, Tensor? ridge, float[] scale, bool nonneg"
)


def task_count(z: Tensor, y: Tensor, offsets: Tensor | None) -> int:
    """T, from the arguments of a raw op."""
    return y.shape[0] if offsets is None else offsets.shape[0] - 1
