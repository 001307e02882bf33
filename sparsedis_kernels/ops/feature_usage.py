"""How tasks use features: shares, their entropy, and counts."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsedis_kernels import arrays, backends, reference
from sparsedis_kernels.ops import _check
from sparsedis_kernels.ops._define import define, raw


class FeatureUsage(NamedTuple):
    """How T tasks use M features.

    Attributes:
        p: (M,), share of each feature in the total magnitude. Differentiable.
        entropy: 0-dim, H(p) in nats; exp(H) is the effective number of features. Differentiable.
        tasks_per_feature: (M,) int64, tasks with a non-zero weight on the feature.
        features_per_task: (T,) int64, the size of each task's support.
        shared_share: 0-dim, of the features in use, the share that two tasks or more use.
    """

    p: Tensor
    entropy: Tensor
    tasks_per_feature: Tensor
    features_per_task: Tensor
    shared_share: Tensor


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
        return None, raw(ctx.ns, "feature_usage_backward")(grad, w)


def feature_usage(weight: Tensor, *, backend: str | None = None) -> FeatureUsage:
    r"""Usage of features by tasks, after Fumero et al. (NeurIPS 2023).

    .. math:: a_m = \sum_{tc} |W_{tmc}|, \quad p_m = a_m / \sum_m a_m, \quad
              H(p) = -\sum_m p_m \log p_m

    Few features shared by many tasks give a small entropy. The gradient at weights that are 0 is 0,
    though it grows without bound as an unused feature's weights approach it.

    Args:
        weight: (T, M, C), floating; half precision is computed in float32.
        backend: ``"cpu"``, ``"triton"``, ``"reference"`` or None (the best there is). Default None.

    Returns:
        FeatureUsage. With all weights zero p, entropy and shared_share are 0.

    Raises:
        ValueError: `weight` is not (T, M, C).
        TypeError: `weight` is not floating.
        RuntimeError: `backend` cannot serve the tensor's device.
    """
    _check.axes("feature_usage", "weight", weight, "(T, M, C)", 3)
    _check.floating("feature_usage", "weight", weight)
    ns = backends.namespace("feature_usage", weight.device, backend)
    magnitude, tasks, features = _FeatureUsage.apply(
        ns, _check.prepared(ns, "feature_usage", weight)
    )
    total = magnitude.sum()
    p = magnitude / torch.where(total > 0, total, torch.ones_like(total))
    used = (tasks > 0).sum()
    shared = (tasks > 1).sum() / used.clamp(min=1)
    # The logarithm's slope at 0 is infinite: an unused feature takes no part in the gradient.
    entropy = torch.special.entr(torch.where(magnitude > 0, p, 1.0)).sum()
    return FeatureUsage(p, entropy, tasks, features, shared.to(p.dtype))
