"""How tasks use features: shares, their entropy, and counts."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsedis_kernels import arrays, backends, reference
from sparsedis_kernels.ops import _check
from sparsedis_kernels.ops._define import call, define, raw, raw_backward


class FeatureUsage(NamedTuple):
    """How T tasks use M features.

    Attributes:
        p: (M,), share of each feature in the total magnitude. Differentiable.
        entropy: 0-dim, H(p) in nats; exp(H) is the effective number of features. Differentiable.
        tasks_per_feature: (M,) int64, tasks with a non-zero weight on the feature.
        features_per_task: (T,) int64, the size of each task's support.
        shared_share: 0-dim, of the features in use, the share that two tasks or more use.
        slope: (M,), the entropy's derivative in each a_m: > 0 where more use of a feature spreads
            the usage, < 0 where it concentrates it. Without a floor it is infinite at an unused
            feature, and 0 is returned. Differentiable.
    """

    p: Tensor
    entropy: Tensor
    tasks_per_feature: Tensor
    features_per_task: Tensor
    shared_share: Tensor
    slope: Tensor


def _fake(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    T, M, _ = w.shape
    return (
        w.new_empty((M,), dtype=arrays.accumulated(w.dtype)),
        w.new_empty((M,), dtype=torch.int64),
        w.new_empty((T,), dtype=torch.int64),
    )


define(
    "feature_usage(Tensor w) -> (Tensor, Tensor, Tensor)",
    reference=reference.feature_usage,
    fake=_fake,
)
define(
    "feature_usage_backward(Tensor grad_magnitude, Tensor w) -> Tensor",
    reference=reference.feature_usage_backward,
    fake=lambda grad, w: torch.empty_like(w, memory_format=torch.contiguous_format),
)


class _FeatureUsage(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(ns: str, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return raw(ns, "feature_usage")(w)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.ns, w = inputs
        ctx.save_for_backward(w)
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[None, Tensor]:
        (w,) = ctx.saved_tensors
        return None, raw_backward(ctx.ns, "feature_usage", grad, w)


def feature_usage(
    weight: Tensor, *, floor: float = 0.0, backend: str | None = None
) -> FeatureUsage:
    r"""Usage of features by tasks, after Fumero et al. (NeurIPS 2023).

    .. math:: a_m = \sum_{tc} |W_{tmc}|, \quad p_m = a_m / \sum_m a_m, \quad
              \hat p_m = \frac{p_m + \epsilon / M}{1 + \epsilon}, \quad
              H = -\sum_m \hat p_m \log \hat p_m

    Few features shared by many tasks give a small entropy. The gradient at weights that are 0 is 0,
    though without a floor it grows without bound as an unused feature's weights approach it.

    Args:
        weight: (T, M, C), floating; half precision is computed in float32.
        floor: epsilon >= 0, the share of a uniform usage that is mixed in before the entropy is
            taken, which bounds its slope at unused features. Default 0.
        backend: ``"cpu"``, ``"triton"``, ``"reference"`` or None (``SPARSEDIS_BACKEND``, else the
            best there is). Default None.

    Returns:
        FeatureUsage. With all weights zero p, entropy, slope and shared_share are 0.

    Raises:
        ValueError: `weight` is not (T, M, C), or `floor` < 0.
        TypeError: `weight` is not floating.
        RuntimeError: `backend` cannot serve the tensor's device, or a second derivative is taken.
    """
    _check.weights("feature_usage", "weight", weight)
    if not floor >= 0:
        raise ValueError(f"feature_usage: floor must be >= 0, got {floor}")
    ns = backends.namespace("feature_usage", weight.device, backend)
    weight = _check.prepared(ns, "feature_usage", weight)
    magnitude, tasks, features = call(_FeatureUsage, ns, weight)
    p, entropy, slope = entropy_of_usage(magnitude, floor)
    used = (tasks > 0).sum()
    shared = (tasks > 1).sum() / used.clamp_min(1)
    return FeatureUsage(p, entropy, tasks, features, shared.to(p.dtype), slope)


def entropy_of_usage(magnitude: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Shares p (M,), the entropy (), and its slope (M,), from the magnitudes a (M,)."""
    sum_of_all = magnitude.sum()
    total = sum_of_all.clamp_min(torch.finfo(magnitude.dtype).tiny)
    p = magnitude / total
    floored = (p + floor / max(len(p), 1)) / (1 + floor) if floor > 0 else p
    # The logarithm's slope at 0 is infinite: an unused feature takes no part in the gradient.
    unused = (sum_of_all if floor > 0 else p) == 0
    log = floored.masked_fill(unused, 1.0).log()
    mean = (p * log).sum()
    entropy = -(floored * log).sum() if floor > 0 else -mean
    slope = (mean - log).masked_fill(unused, 0.0) / ((1 + floor) * total)
    return p, entropy, slope


def slope_along(magnitude: Tensor, floor: float, direction: Tensor) -> Tensor:
    """Derivative of the entropy's slope along a direction of the magnitudes, `floor` > 0: (M,).

    By formula, since a raw op cannot call autograd.
    """
    p, _, slope = entropy_of_usage(magnitude, floor)
    total, moved = magnitude.sum().clamp_min(torch.finfo(p.dtype).tiny), direction.sum()
    moved_p = (direction - p * moved) / total
    floored = (p + floor / max(len(p), 1)) / (1 + floor)
    moved_log = moved_p / ((1 + floor) * floored)
    moved_mean = (moved_p * floored.log() + p * moved_log).sum()
    bent = (moved_mean - moved_log) / ((1 + floor) * total) - slope * moved / total
    return torch.where(p.sum() > 0, bent, 0)
