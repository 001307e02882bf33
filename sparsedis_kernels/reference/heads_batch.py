"""Every layout of a batch of tasks as one padded, centred, weighted batch in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedis_kernels.reference.losses import Loss, Squared
from sparsedis_kernels.reference.strengths import safe_reciprocal


@dataclass(frozen=True)
class Layout:
    """How the caller's rows map to the padded batch (T, n)."""

    tasks: int
    shares_design: bool
    row: Tensor | None = None  # (T, n): row of the packed tensors, ragged only
    real: Tensor | None = None  # (T, n), bool: False on padding, ragged only

    def pad(self, x: Tensor) -> Tensor:
        """Spread z, y or sample weights over tasks: (T, n, ...), 0 on padding."""
        if self.row is not None and self.real is not None:
            return torch.where(per_task(self.real, x.dim() + 1), x[self.row], 0)
        per_row = self.shares_design and x.dim() == 1
        return x.expand(self.tasks, -1) if per_row else x

    def pad_design(self, z: Tensor) -> Tensor:
        """Spread the features over tasks: (T, n, M)."""
        return z.expand(self.tasks, *z.shape) if self.shares_design else self.pad(z)

    def unpad(self, x: Tensor) -> Tensor:
        """Bring padded rows (T, n, ...) back to the caller's rows."""
        return x if self.real is None else x[self.real]


def layout_of(z: Tensor, y: Tensor, offsets: Tensor | None) -> Layout:
    """Tell the layouts apart: ragged has offsets; a shared design has a 2-dim z without them."""
    if offsets is None:
        return Layout(y.shape[0], shares_design=z.dim() == 2)
    start, count = offsets[:-1, None], offsets.diff()[:, None]
    longest = int(count.max()) if len(count) else 0
    position = torch.arange(longest, device=z.device)
    real = position < count
    return Layout(len(count), False, torch.where(real, start + position, 0), real)


def per_task(mask: Tensor, dim: int) -> Tensor:
    """Append axes to a mask so that it broadcasts against `dim` axes."""
    return mask.view(*mask.shape, *(1,) * (dim - mask.dim()))


def not_finite(x: Tensor) -> Tensor:
    """Say which tasks, the leading axis, hold NaN or infinity: (T,)."""
    return ~x.isfinite().flatten(1).all(1)


@dataclass(frozen=True)
class Batch:
    """The tasks, padded to n rows; an empty or bad task has p = 0 on every row."""

    z: Tensor  # (T, n, M), minus z_mean
    y: Tensor  # (T, n, C), minus y_mean
    z_mean: Tensor  # (T, 1, M), 0 without an intercept
    y_mean: Tensor  # (T, 1, C), 0 unless the targets are centred
    p: Tensor  # (T, n, 1), sample weights over their sum
    total: Tensor  # (T, 1, 1), that sum
    bad: Tensor  # (T,), bool: NaN, infinity, a negative sample weight or an impossible target


def make_batch(
    layout: Layout,
    z: Tensor,
    y: Tensor,
    sample_weight: Tensor | None,
    loss: Loss,
    fit_intercept: bool,
    bad: Tensor,
) -> Batch:
    """Pad, drop the rows of bad tasks (those given in `bad` and those found), normalise, centre."""
    z, y = layout.pad_design(z).double(), layout.pad(y).double()
    if sample_weight is not None:
        s = layout.pad(sample_weight).double()
    else:
        s = z.new_ones(z.shape[:2]) if layout.real is None else layout.real.double()
    bad = bad | not_finite(z) | not_finite(y) | not_finite(s) | (s < 0).any(1)
    bad = bad | ((s != 0) & ~loss.takes(y)).any(1)
    z, y, s = (torch.where(per_task(bad, x.dim()), 0, x) for x in (z, y, s))
    total = s.sum(1)[:, None, None]
    p = s[:, :, None] * safe_reciprocal(total)
    z_mean, y_mean = z.new_zeros(len(z), 1, z.shape[2]), y.new_zeros(len(y), 1, y.shape[2])
    if fit_intercept:
        z_mean = weighted_mean(z, p)
    if fit_intercept and isinstance(loss, Squared):
        y_mean = weighted_mean(y, p)
    return Batch(z - z_mean, y - y_mean, z_mean, y_mean, p, total, bad)


def weighted_mean(x: Tensor, p: Tensor) -> Tensor:
    """Mean over rows, (T, 1, K), taken around the heaviest row.

    A constant column then has exactly its own value as mean and is exactly 0 once centred;
    rounding would leave noise there for an unpenalised weight to fit. 0 where all weights are 0.
    """
    if x.shape[1] == 0:
        return x.new_zeros(x.shape[0], 1, x.shape[2])
    heaviest = p.argmax(1, keepdim=True).expand(-1, -1, x.shape[2])
    anchor = x.gather(1, heaviest)
    mean = anchor + (p * (x - anchor)).sum(1, keepdim=True)
    return torch.where(p.amax(1, keepdim=True) > 0, mean, 0)
