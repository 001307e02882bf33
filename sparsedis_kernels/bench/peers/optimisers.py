"""Heads by torch.optim, all tasks in one problem."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsedis_kernels.bench.case import Call
from sparsedis_kernels.bench.heads import Fit, loosest


def lbfgs(fit: Fit) -> Call:
    """LBFGS on the sum over tasks of multinomial losses with a ridge."""
    start = fit.start()
    return loosest(fit, lambda count: _steps(fit, int(count), start), 2, 1.25)


def _steps(fit: Fit, count: int, start: Tensor) -> Tensor:
    """Weights (T, M, C) after `count` steps."""
    z, y = fit.design()
    w, ridge = start.clone().requires_grad_(), fit.rows("ridge")
    n = z.shape[1]
    optimiser = torch.optim.LBFGS(
        [w], max_iter=count, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        losses = F.cross_entropy((z @ w).flatten(0, 1), y.flatten(0, 1), reduction="sum") / n
        total = losses + (ridge * w.square()).sum() / 2
        total.backward()
        return total

    optimiser.step(closure)
    return w.detach()[:, : fit.z.shape[2]]
