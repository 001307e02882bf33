"""What can be said of a head problem without solving it: its largest strength, a point's gap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsedis_kernels import reference
from sparsedis_kernels.ops import _check
from sparsedis_kernels.ops._define import define, raw
from sparsedis_kernels.ops._samples import SAMPLES_SCHEMA, read_samples, task_count
from sparsedis_kernels.penalty import Penalty


def _lambda_max_fake(
    z: Tensor, y: Tensor, offsets: Tensor | None, sample_weight: Any, loss: int, l1: Any,
    group: Any, shared: Tensor | None, scale: list[float], *_: Any,
) -> Tensor:  # fmt: skip
    coupled = shared is not None or scale[2] > 0
    return z.new_empty((1 if coupled else task_count(z, y, offsets),))


define(
    f"lambda_max({SAMPLES_SCHEMA}, Tensor? l1, Tensor? group, Tensor? shared, float[] scale, "
    "bool fit_intercept, bool nonneg) -> Tensor",
    reference=reference.lambda_max,
    fake=_lambda_max_fake,
)
define(
    f"duality_gap(Tensor weight, {SAMPLES_SCHEMA}, Tensor? l1, Tensor? group, Tensor? shared, "
    "Tensor? ridge, float[] scale, bool nonneg, bool fit_intercept) -> Tensor",
    reference=reference.duality_gap,
    fake=lambda weight, *_: weight.new_empty((weight.shape[0],)),
)


@torch.no_grad()
def lambda_max(
    z: Tensor,
    y: Tensor,
    penalty: Penalty,
    *,
    loss: str = "squared",
    offsets: Tensor | None = None,
    sample_weight: Tensor | None = None,
    n_classes: int | None = None,
    fit_intercept: bool = True,
    backend: str | None = None,
) -> Tensor:
    r"""The smallest factor of the penalty at which every weight of a task is zero.

    W = 0 is optimal for ``penalty.scaled(nu)`` iff :math:`\nu \ge \max_j \Omega^*(g_j)`, with g the
    gradient at W = 0 and the best bias, and :math:`\Omega^*` the dual norm of a row: the smallest
    nu with ``||ST(g, nu l1)|| <= nu group``. `ridge` plays no part.

    Args:
        z, y, loss, offsets, sample_weight, n_classes, fit_intercept, backend: as in `fit_heads`.
        penalty: l1, group and shared give the proportions.

    Returns:
        (T,), or () where `shared` couples the tasks; infinite where a feature that no level
        penalises has a gradient; NaN for a task with samples that `fit_heads` does not take (where
        tasks are coupled, only if all are such). Not differentiable: the gradient stops here.

    Raises:
        ValueError, TypeError, RuntimeError: as `fit_heads`, but for bad tasks.
    """
    s = read_samples("lambda_max", z, y, offsets, sample_weight, loss, n_classes)
    n = penalty.strengths("lambda_max", (s.T, s.M), s.z)
    value = raw(s.namespace("lambda_max", backend), "lambda_max")(
        *s.args, *n.tensors[:3], n.scale, fit_intercept, n.nonneg
    )
    return value[0] if n.has("shared") else value


@torch.no_grad()
def duality_gap(
    z: Tensor,
    y: Tensor,
    weight: Tensor,
    penalty: Penalty,
    *,
    loss: str = "squared",
    offsets: Tensor | None = None,
    sample_weight: Tensor | None = None,
    n_classes: int | None = None,
    fit_intercept: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Relative duality gap of given weights, certified in float64 sums.

    The gap bounds how far the objective is from its minimum, relative to the objective at zero
    weights (with the best intercept). The intercept is taken at its optimum for `weight`.

    Args:
        z, y, loss, offsets, sample_weight, n_classes, fit_intercept, backend: as in `fit_heads`.
        weight: (T, M, C).
        penalty: the regulariser.

    Returns:
        (T,) >= 0; one number over all tasks, repeated, where `shared` couples them; NaN for a task
        with samples that `fit_heads` does not take or weights that are not finite. Not
        differentiable.

    Raises:
        ValueError, TypeError, RuntimeError: as `fit_heads`, but for bad tasks.
    """
    s = read_samples("duality_gap", z, y, offsets, sample_weight, loss, n_classes)
    _check.same_shape("duality_gap", "weight", weight, "(T, M, C)", (s.T, s.M, s.C))
    n = penalty.strengths("duality_gap", (s.T, s.M), s.z)
    return raw(s.namespace("duality_gap", backend), "duality_gap")(
        weight.to(s.z.dtype), *s.args, *n.tensors, n.scale, n.nonneg, fit_intercept
    )
