"""Heads as an iterate: proximal gradient steps that autograd differentiates one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis_kernels.ops import _check
from sparsedis_kernels.ops._samples import bad_tasks, read_samples, refuse_bad
from sparsedis_kernels.ops.prox import prox
from sparsedis_kernels.penalty import Penalty
from sparsedis_kernels.reference.losses import LOSSES, SQUARED, Loss


def unrolled_heads(
    z: Tensor,
    y: Tensor,
    penalty: Penalty,
    *,
    n_steps: int,
    loss: str = "squared",
    n_classes: int | None = None,
    fit_intercept: bool = True,
) -> tuple[Tensor, Tensor]:
    r"""Heads after a fixed number of accelerated proximal gradient steps from zero weights.

    .. math:: W_{k+1} = \mathrm{prox}_{\Omega / L_t}(V_k - \tfrac{1}{n L_t} Z_t'(P(Z_t V_k) - Y_t)),
              \quad V_{k+1} = W_{k+1} + \tfrac{k}{k + 3} (W_{k+1} - W_k)

    on centred Z, with P the mean of the loss (for squares the scores themselves, and Y centred) and
    :math:`L_t` the loss's curvature times the largest eigenvalue of :math:`Z_t'Z_t / n`, through
    which no gradient flows (FISTA, Beck and Teboulle, 2009). The problem is that of `fit_heads`.
    For other losses than squares the bias takes the same steps, of length 1 over the curvature.
    **The gradient is that of this iterate, not of the solution**: it approaches the gradient of
    `fit_heads` only as fast as the iterates and their derivatives converge, and its memory grows
    with `n_steps`.

    Args:
        z: features (T, n, M), floating; half precision is computed in float32.
        y: targets (T, n, C), floating, or class indices (T, n).
        penalty: the regulariser; its tensor strengths may require gradients.
        n_steps: number of steps, >= 0.
        loss, n_classes: as in `fit_heads`.
        fit_intercept: fit an unpenalised bias per output. Default True.

    Returns:
        weight (T, M, C) and bias (T, C), dtype of `z`; differentiable in z, y and every tensor
        strength. For squares the bias is the best one for the weight.

    Raises:
        ValueError: z is not (T, n, M), y or a strength does not fit it, an unknown `loss`,
            `n_steps` < 0, `penalty.sharing`, or a bad task, as `fit_heads` (not looked for inside
            `torch.compile` or `vmap`).
        TypeError: z or y has another dtype.
    """
    _check.axes("unrolled_heads", "z", z, "(T, n, M)", 3)
    penalty.refuse_sharing("unrolled_heads")
    if n_steps < 0:
        raise ValueError(f"unrolled_heads: n_steps must be >= 0, got {n_steps}")
    s = read_samples("unrolled_heads", z, y, None, None, loss, n_classes)
    refuse_bad("unrolled_heads", bad_tasks(s))
    z_mean = _means(s.z, fit_intercept)
    y_mean = _means(s.y, fit_intercept and s.loss == SQUARED)
    kind, steps_bias = LOSSES[s.loss], fit_intercept and s.loss != SQUARED
    z_centred, y_centred = s.z - z_mean, s.y - y_mean
    limit = kind.limit(y_centred.detach(), s.z.new_ones(*s.z.shape[:2], 1), steps_bias)
    weight, bias = _iterate(z_centred, y_centred, penalty, n_steps, kind, limit, steps_bias)
    bias = kind.determined(bias + y_mean - z_mean @ weight, limit == 0) + limit
    return weight.to(s.dtype), bias.squeeze(1).to(s.dtype)


def _iterate(
    z: Tensor, y: Tensor, penalty: Penalty, n_steps: int, loss: Loss, limit: Tensor,
    steps_bias: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Weight (T, M, C) and the finite part of the bias for centred features (T, 1, C)."""
    n, metric = max(z.shape[1], 1), loss.curvature * _curvature(z)  # metric (T, 1, 1)
    weight = z.new_zeros(z.shape[0], z.shape[2], y.shape[2])
    bias = torch.zeros_like(limit)
    ahead, bias_ahead = weight, bias
    for k in range(n_steps):
        residual = (loss.mean(z @ ahead + bias_ahead + limit) - y) / n
        step = prox(ahead - z.mT @ residual / metric, penalty, metric=metric.expand_as(weight))
        bias_step = bias_ahead - steps_bias * residual.sum(1, keepdim=True) / loss.curvature
        inertia = k / (k + 3)
        ahead = step + inertia * (step - weight)
        bias_ahead = bias_step + inertia * (bias_step - bias)
        weight, bias = step, bias_step
    return weight, bias


@torch.no_grad()
def _curvature(z: Tensor) -> Tensor:
    """Largest eigenvalue of Z'Z / n per task, (T, 1, 1); 1 where Z is 0."""
    n, M = z.shape[1:]
    gram = z @ z.mT if 0 < n < M else z.mT @ z
    largest = torch.linalg.eigvalsh(gram).amax(1)[:, None, None] / max(n, 1)
    return torch.where(largest > 0, largest, 1)


def _means(x: Tensor, fit_intercept: bool) -> Tensor:
    """Mean over the samples, (T, 1, K); 0 without an intercept or without samples."""
    weight = 1 / x.shape[1] if fit_intercept and x.shape[1] else 0.0
    return weight * x.sum(1, keepdim=True)
