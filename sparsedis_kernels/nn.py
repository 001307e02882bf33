"""Modules that a training loop composes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from sparsedis_kernels.ops import HeadsFit, _check, duality_gap, fit_heads, lambda_max
from sparsedis_kernels.ops._samples import bad_tasks, loss_index, read_samples, refuse_bad
from sparsedis_kernels.ops.fit_heads import DEFAULT_TOL
from sparsedis_kernels.ops.unrolled import unrolled_heads
from sparsedis_kernels.penalty import LEVELS, Penalty

__all__ = ["Hypergradient", "SparseHeads"]

Hypergradient = Literal["implicit", "detached", "unrolled"]


class SparseHeads(nn.Module):
    r"""The inner problem of a bilevel model: sparse linear heads fitted to support features.

    What reaches the features from a loss on the query depends on `hypergradient`:

    - ``"implicit"``: the gradient of the solution, by implicit differentiation (`fit_heads`).
    - ``"detached"``: weights and biases count as constants; only the query features' own gradient
      remains (first order, as in alternating minimisation).
    - ``"unrolled"``: the gradient of an iterate after `unrolled_steps` steps (`unrolled_heads`),
      which is also what is returned; its gap says how far from the solution it is.

    Args:
        penalty: the regulariser, with `sharing` or not (not with ``"unrolled"``: no fixed number
            of steps of one convex problem has a fixed point of the reweighting).
        loss: ``"squared"``, ``"multinomial"`` or ``"logistic"``, as in `fit_heads`. Default
            ``"squared"``.
        relative: read `l1`, `group` and `shared` as fractions of each task's `lambda_max` (of all
            tasks together with `shared`), taken for strength 1 on every level that `penalty` has:
            from 1 on, all weights are zero. The gradient stops at `lambda_max`. `ridge` and
            `sharing` stay absolute. Default False.
        hypergradient: see above. Default ``"implicit"``.
        fit_intercept: fit an unpenalised bias per output. Default True.
        tol: relative duality gap at which a task counts as solved. Default that of `fit_heads`.
        unrolled_steps: number of steps of ``"unrolled"``, at least 1. Default 100.

    Raises:
        ValueError: unknown `hypergradient` or `loss`, ``"unrolled"`` with `sharing`, `tol` is not
            >= 0, or `unrolled_steps` < 1.
    """

    def __init__(
        self,
        penalty: Penalty,
        *,
        loss: str = "squared",
        relative: bool = False,
        hypergradient: Hypergradient = "implicit",
        fit_intercept: bool = True,
        tol: float | None = None,
        unrolled_steps: int = 100,
    ) -> None:
        super().__init__()
        there = get_args(Hypergradient)
        if hypergradient not in there:
            raise ValueError(f"SparseHeads: hypergradient={hypergradient!r}, there is {there}")
        loss_index("SparseHeads", loss)
        if hypergradient == "unrolled":
            penalty.refuse_sharing("SparseHeads(hypergradient='unrolled')")
        if unrolled_steps < 1:
            raise ValueError(f"SparseHeads: unrolled_steps must be >= 1, got {unrolled_steps}")
        tol = DEFAULT_TOL[loss] if tol is None else tol
        _check.tolerance("SparseHeads", tol)
        self.penalty = penalty
        self.loss = loss
        self.relative = relative
        self.hypergradient = hypergradient
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.unrolled_steps = unrolled_steps

    def forward(self, z: Tensor, y: Tensor, *, n_classes: int | None = None) -> HeadsFit:
        """Fit the heads of T tasks.

        Args:
            z: support features (T, n, M), floating. Other layouts of `fit_heads`: (n, M).
            y: support targets (T, n, C), floating; one-hot for classification with squares. For the
                multinomial loss also class indices (T, n).
            n_classes: C for class indices. Default: the largest index plus one.

        Returns:
            HeadsFit with weight (T, M, C), bias (T, C) and, per task, gap, n_iter and converged.

        Raises:
            ValueError, TypeError: as `fit_heads`; ``"unrolled"`` takes (T, n, M) only.
        """
        how: dict[str, Any] = {
            "loss": self.loss, "fit_intercept": self.fit_intercept, "n_classes": n_classes,
        }  # fmt: skip
        penalty = self._penalty_of(z, y, **how)
        if self.hypergradient == "unrolled":
            return self._unroll(z, y, penalty, **how)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.hypergradient == "implicit"):
            return fit_heads(z, y, penalty, tol=self.tol, **how)

    def predict(self, fit: HeadsFit, z: Tensor) -> Tensor:
        """The heads' outputs Z W + b.

        Args:
            fit: what `forward` returned.
            z: features (T, n, M), or (n, M) for all tasks.

        Returns:
            (T, n, C).
        """
        return z @ fit.weight + fit.bias[:, None]

    def extra_repr(self) -> str:
        """The settings, for `print`."""
        return (
            f"{self.penalty}, loss={self.loss!r}, relative={self.relative}, "
            f"hypergradient={self.hypergradient!r}"
        )

    def _penalty_of(self, z: Tensor, y: Tensor, **how: Any) -> Penalty:
        if not self.relative:
            return self.penalty
        ones: dict[str, Any] = {level: _presence(self.penalty, level) for level in LEVELS[:3]}
        unit = replace(self.penalty, **ones, sharing=0.0)
        largest = lambda_max(z, y, unit, **how)
        try:
            return self.penalty.scaled(largest)
        except ValueError:  # what is wrong with the factor may be a task's fault
            samples = read_samples("SparseHeads", z, y, None, None, self.loss, how.get("n_classes"))
            refuse_bad("SparseHeads", bad_tasks(samples))
            raise

    def _unroll(self, z: Tensor, y: Tensor, penalty: Penalty, **how: Any) -> HeadsFit:
        weight, bias = unrolled_heads(z, y, penalty, n_steps=self.unrolled_steps, **how)
        gap = duality_gap(z, y, weight, penalty, **how)
        n_iter = torch.full_like(gap, self.unrolled_steps, dtype=torch.int32)
        return HeadsFit(weight, bias, gap, n_iter, gap <= self.tol)


def _presence(penalty: Penalty, level: str) -> float:
    value = getattr(penalty, level)
    return 1.0 if isinstance(value, Tensor) or value > 0 else 0.0
