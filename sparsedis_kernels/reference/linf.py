"""Proximal operator of the group L-infinity norm in a diagonal metric, and its derivative."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis_kernels.reference.prox import largest
from sparsedis_kernels.reference.strengths import as_output


def level(size: Tensor, strength: Tensor, weight: Tensor) -> Tensor:
    """Root tau >= 0 of sum_c d (|v| - tau)_+ = strength per group, 0 if there is none: (T, M, 1).

    `size` = |v| and `weight` = d are (T, M, C). With |v| sorted downwards, the entries above tau
    are the longest prefix whose excess over its own last entry stays below `strength`.
    """
    if size.numel() == 0:
        return torch.zeros_like(strength)
    ordered, index = size.sort(2, descending=True)
    weight = weight.gather(2, index)
    mass, total = weight.cumsum(2), (weight * ordered).cumsum(2)
    inside = total - mass * ordered < strength
    # At strength 0 the prefix is the largest entry itself.
    last = (inside.sum(2, keepdim=True) - 1).clamp_min(0)
    return ((total.gather(2, last) - strength) / mass.gather(2, last)).clamp_min(0)


def linf_prox(v: Tensor, strength: Tensor, metric: Tensor | None) -> Tensor:
    """Minimise 1/2 sum d_i (x_i - v_i)^2 + strength max_c |x_tmc| per group: (T, M, C).

    `strength` is (T, M), d = `metric` (T, M, C) or 1. A group is 0 iff sum d|v| <= strength, else
    x = sign(v) min(|v|, tau) with sum d(|v| - tau)_+ = strength: the Moreau complement of the
    projection onto an L1 ball (Duchi et al. 2008).
    """
    weight = torch.ones_like(v) if metric is None else metric
    tau = level(v.abs(), strength[:, :, None], weight)
    return v.clamp(-tau, tau)


def linf_prox_backward(
    grad: Tensor,
    v: Tensor,
    x: Tensor,
    strength: Tensor,
    metric: Tensor | None,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Vector-Jacobian product of `linf_prox` at its result `x`: grad_v, grad_strength, grad_metric.

    On the clipped set P = {|x| = tau}: tau = (sum_P d|v| - strength)/sum_P d, hence with
    s = sum_P sign(v) grad / sum_P d, grad_v = d sign(v) s, grad_metric = (|v| - tau) s and
    grad_strength = -s. Off P grad_v = grad; a group that is 0 passes nothing.
    """
    active = strength[:, :, None] > 0
    weight = torch.ones_like(v) if metric is None else metric
    tau = largest(x.abs(), (2,))
    clipped = x.abs() == tau
    slope = torch.where(clipped, v.sign() * grad, 0).sum(2, keepdim=True)
    slope = slope / torch.where(clipped, weight, 0).sum(2, keepdim=True)
    slope = torch.where(active & (tau == 0), 0, slope)
    grad_v = torch.where(active & clipped, weight * v.sign() * slope, grad)
    grad_metric = torch.where(clipped, (v - x).abs() * slope, 0)
    return (
        as_output(grad_v, needs[0]),
        as_output(-slope.squeeze(2), needs[1]),
        as_output(grad_metric, needs[2]),
    )
