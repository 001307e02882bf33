"""Heads as an iterate: proximal gradient steps that autograd differentiates one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis_kernels.ops import _check
from sparsedis_kernels.ops._samples import read_samples
from sparsedis_kernels.ops.prox import prox
from sparsedis_kernels.penalty import Penalty


def unrolled_heads(
    z: Tensor, y: Tensor, penalty: Penalty, *, n_steps: int, fit_intercept: bool = True
) -> tuple[Tensor, Tensor]:
    r"""Heads after a fixed number of accelerated proximal gradient steps from zero weights.

    .. math:: W_{k+1} = \mathrm{prox}_{\Omega / L_t}(V_k - \tfrac{1}{n L_t} Z_t'(Z_t V_k - Y_t)),
              \quad V_{k+1} = W_{k+1} + \tfrac{k}{k + 3} (W_{k+1} - W_k)

    on centred Z and Y, with :math:`L_t` the largest eigenvalue of :math:`Z_t'Z_t / n`, through
    which no gradient flows (FISTA, Beck and Teboulle, 2009). The problem is that of `fit_heads`.
    **The gradient is that of this iterate, not of the solution**: it approaches the gradient of
    `fit_heads` only as fast as the iterates and their derivatives converge, and its memory grows
    with `n_steps`.

    Args:
        z: features (T, n, M), floating; half precision is computed in float32.
        y: targets (T, n, C), floating.
        penalty: the regulariser; its tensor strengths may require gradients.
        n_steps: number of steps, >= 0.
        fit_intercept: fit an unpenalised bias per output. Default True.

    Returns:
        weight (T, M, C) and bias (T, C), dtype of `z`; differentiable in z, y and every tensor
        strength. The bias is the best one for the weight.

    Raises:
        ValueError: z is not (T, n, M), y or a strength does not fit it, or `n_steps` < 0.
        TypeError: z or y is not floating.
    """
    _check.axes("unrolled_heads", "z", z, "(T, n, M)", 3)
    if n_steps < 0:
        raise ValueError(f"unrolled_heads: n_steps must be >= 0, got {n_steps}")
    s = read_samples("unrolled_heads", z, y, None, None)
    z_mean, y_mean = _means(s.z, fit_intercept), _means(s.y, fit_intercept)
    weight = _iterate(s.z - z_mean, s.y - y_mean, penalty, n_steps)
    bias = (y_mean - z_mean @ weight).squeeze(1)
    return weight.to(s.dtype), bias.to(s.dtype)


def _iterate(z: Tensor, y: Tensor, penalty: Penalty, n_steps: int) -> Tensor:
    n = max(z.shape[1], 1)
    metric = _curvature(z)  # (T, 1, 1)
    weight = z.new_zeros(z.shape[0], z.shape[2], y.shape[2])
    ahead = weight
    for k in range(n_steps):
        gradient = z.mT @ (z @ ahead - y) / n
        step = prox(ahead - gradient / metric, penalty, metric=metric.expand_as(weight))
        ahead = step + k / (k + 3) * (step - weight)
        weight = step
    return weight


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
