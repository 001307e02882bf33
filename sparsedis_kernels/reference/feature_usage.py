"""How much, and by how many tasks, every feature is used."""

from __future__ import annotations

import torch
from torch import Tensor


def feature_usage(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count the use of features by tasks in w (T, M, C).

    Returns the magnitude a_m = sum_tc |w_tmc| (M,), the number of tasks that use each feature
    (M,) and the number of features that each task uses (T,), both int64. A task uses a feature
    when any of its C entries is non-zero.
    """
    used = (w != 0).any(2)
    return w.abs().sum((0, 2)), used.sum(0), used.sum(1)


def feature_usage_backward(grad_magnitude: Tensor, w: Tensor) -> Tensor:
    """sign(w) grad_m (T, M, C), exactly 0 where w is 0 whatever the gradient of the magnitude.

    The entropy of the usage has an infinite slope at an unused feature, which must not turn into
    0 times infinity.
    """
    return torch.where(w == 0, 0, w.sign() * grad_magnitude[:, None])
