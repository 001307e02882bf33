"""Value of the nested penalty, and its derivative."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsedis_kernels.reference.prox import norm
from sparsedis_kernels.reference.strengths import as_output, effective_strengths, safe_reciprocal


def penalty_value(
    w: Tensor,
    l1: Tensor | None,
    group: Tensor | None,
    shared: Tensor | None,
    ridge: Tensor | None,
    scale: list[float],
    nonneg: bool,
) -> Tensor:
    """Omega(w), a 0-dim tensor; infinite if `nonneg` and an entry is negative.

    Omega(w) = sum l1 |w| + sum_tm group_tm ||w_tm|| + sum_m shared_m ||w_m||_F
    + sum ridge_tm/2 ||w_tm||^2 for w (T, M, C), strengths (T, M), `shared` (M,), each times its
    scale; None stands for ones. The tree-structured norm of Jenatton et al. (2011).
    """
    s = effective_strengths(w, (l1, group, shared, ridge), scale)
    value = w.new_zeros(())
    if s.l1 is not None:
        value = value + (s.l1 * w.abs()).sum()
    if s.group is not None:
        value = value + (s.group * norm(w, (2,))).sum()
    if s.shared is not None:
        value = value + (s.shared * norm(w, (0, 2))).sum()
    if s.ridge is not None:
        value = value + (s.ridge * w.square()).sum() / 2
    return torch.where((w < 0).any(), math.inf, value) if nonneg else value


def penalty_value_backward(
    grad: Tensor,
    w: Tensor,
    l1: Tensor | None,
    group: Tensor | None,
    shared: Tensor | None,
    ridge: Tensor | None,
    scale: list[float],
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Vector-Jacobian product of `penalty_value`; the subgradient at a kink is 0.

    grad_w = l1 sign(w) + group wh_tm + shared Wh_m + ridge w, and the norms themselves, times
    their scale, for the strengths: (T, M, C), (T, M), (T, M), (M,), (T, M), each times `grad`.
    """
    s = effective_strengths(w, (l1, group, shared, ridge), scale)
    radius, theta = norm(w, (2,)), norm(w, (0, 2))
    directions = (w.sign(), w * safe_reciprocal(radius), w * safe_reciprocal(theta), w)
    grad_w = torch.zeros_like(w)
    for strength, direction in zip(s, directions, strict=True):
        if strength is not None:
            grad_w = grad_w + strength * direction
    return (
        as_output(grad * grad_w, needs[0]),
        as_output(grad * scale[0] * w.abs().sum(2), needs[1]),
        as_output(grad * scale[1] * radius.squeeze(2), needs[2]),
        as_output(grad * scale[2] * theta.squeeze((0, 2)), needs[3]),
        as_output(grad * scale[3] * w.square().sum(2) / 2, needs[4]),
    )
