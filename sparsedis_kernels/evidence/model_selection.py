"""Strengths chosen on the data: lasso by cross-validation along a path, ridge by leave-one-out.

All tasks at once: inputs (T, n, M) and targets (T, n, 1), with a fit of `fit_heads` back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis_kernels.ops import HeadsFit, fit_heads, lambda_max
from sparsedis_kernels.penalty import Penalty

_FRACTIONS = torch.logspace(0, -3, 20)  # of lambda_max
_FOLDS = 5
# Enough to choose a strength; the final fit has the default. A warm start does the rest.
_PATH_TOL = 3e-3
_RIDGES = torch.logspace(-4, 2, 40, dtype=torch.float64)


def fit_lasso(x: Tensor, y: Tensor) -> HeadsFit:
    """Lasso of each task, its strength by 5-fold cross-validation over 20 fractions of lambda_max.

    The fractions are log-spaced from 1 to .001, the folds interleaved; the fit is on all samples.
    """
    largest = lambda_max(x, y, Penalty(l1=1.0))  # (T,)
    best = _path_errors(x, y, largest).argmin(0)  # (T,)
    return fit_heads(x, y, Penalty(l1=(_FRACTIONS[best] * largest)[:, None]))


def _path_errors(x: Tensor, y: Tensor, largest: Tensor) -> Tensor:
    """Validation error of each fraction and task, (20, T): every fold of a task is a task here."""
    fold = torch.arange(x.shape[1]) % _FOLDS
    held_out = [torch.where(fold == k)[0] for k in range(_FOLDS)]
    fitted = [torch.where(fold != k)[0] for k in range(_FOLDS)]
    z, target = (torch.cat([v[:, i] for i in fitted]) for v in (x, y))  # (folds * T, n, ...)
    z_out, target_out = (torch.cat([v[:, i] for i in held_out]) for v in (x, y))
    errors, start = [], None
    for fraction in _FRACTIONS:
        penalty = Penalty(l1=(fraction * largest).repeat(_FOLDS)[:, None])
        fit = fit_heads(z, target, penalty, init=start, tol=_PATH_TOL)
        start = fit.weight
        residual = z_out @ fit.weight + fit.bias[:, None] - target_out
        errors.append(residual.square().mean((1, 2)).view(_FOLDS, -1).mean(0))
    return torch.stack(errors)


def fit_ridge(x: Tensor, y: Tensor) -> HeadsFit:
    r"""Ridge regression of each task, its strength by exact leave-one-out over 40 from 1e-4 to 100.

    The residual of sample i left out is r_i / (1 - h_i) (Allen's PRESS), with h_i the diagonal of
    the hat matrix of the centred problem, plus 1/n for the intercept.
    """
    errors = _leave_one_out_errors(x.double(), y.double())  # (40, T)
    strength = _RIDGES[errors.argmin(0)].to(x.dtype)
    return fit_heads(x, y, Penalty(ridge=strength[:, None]))


def _leave_one_out_errors(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared leave-one-out residual of each strength and task, (40, T)."""
    n = x.shape[1]
    target = y - y.mean(1, keepdim=True)
    score, variance = _principal_scores(x - x.mean(1, keepdim=True))  # (T, n, r), (T, r)
    projected = score.mT @ target  # (T, r, 1)
    errors = []
    for ridge in _RIDGES:
        shrink = 1 / (variance + n * ridge)[..., None]
        hat = score.square() @ shrink + 1 / n
        residual = target - score @ (shrink * projected)
        errors.append((residual / (1 - hat)).square().mean((1, 2)))
    return torch.stack(errors)


def _principal_scores(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Orthogonal scores (T, n, r) that span the inputs (T, n, M), and their squared norms (T, r).

    From the smaller of the two Gram matrices, r = min(n, M).
    """
    if centred.shape[1] > centred.shape[2]:
        variance, vectors = torch.linalg.eigh(centred.mT @ centred)
        return centred @ vectors, variance
    variance, vectors = torch.linalg.eigh(centred @ centred.mT)
    return vectors * variance.clamp(min=0).sqrt()[:, None], variance
