"""Sparse heads by scikit-learn's compiled descent called directly.

The functions are private; who calls them is spared a millisecond of Python a fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsedis_kernels.bench.case import Call, UnavailableError
from sparsedis_kernels.bench.heads import Fit, loosest, require
from sparsedis_kernels.bench.peers.estimators import MAX_ITER


def kernel(fit: Fit) -> Call:
    """The compiled descent on residuals, of centred float64 samples that are laid out for it."""
    return _compiled(fit, gram=False)


def gram_kernel(fit: Fit) -> Call:
    """The compiled descent on the Gram matrix, which the call forms; for one output."""
    if fit.y.shape[2] > 1:
        raise UnavailableError("scikit-learn has no Gram kernel for several outputs")
    return _compiled(fit, gram=True)


def _compiled(fit: Fit, gram: bool) -> Call:
    require("sklearn")
    from sklearn.linear_model import _cd_fast

    samples, targets = (v.double().numpy() for v in fit.centred())
    n, single = samples.shape[1], targets.shape[2] == 1
    strengths = _alpha(fit) * n
    z = [np.asfortranarray(part) for part in samples]
    y = [np.asfortranarray(part[:, 0] if single else part) for part in targets]
    start, out = _start(fit), np.empty((len(z), fit.y.shape[2], fit.z.shape[2]))
    common = {"max_iter": MAX_ITER, "rng": np.random.mtrand._rand, "random": False}
    common["do_screening"] = True

    def task(t: int, tol: float) -> Any:
        if not single:
            return _cd_fast.enet_coordinate_descent_multi_task(
                W=start[t].copy(order="F"), alpha=strengths[t], beta=0.0, X=z[t],
                X_is_sparse=False, X_data=None, X_indices=None, X_indptr=None, Y=y[t],
                sample_weight=None, X_mean=None, tol=tol, **common,
            )[0]  # fmt: skip
        w = start[t][0].copy()
        if gram:
            q, xy = z[t].T @ z[t], z[t].T @ y[t]
            return _cd_fast.enet_coordinate_descent_gram(
                w, strengths[t], 0.0, q, xy, y[t], tol=tol, positive=False, **common
            )[0]
        return _cd_fast.enet_coordinate_descent(
            w, strengths[t], 0.0, z[t], y[t], tol=tol, positive=False, **common
        )[0]

    def solve(tol: float) -> Tensor:
        for t in range(len(z)):
            out[t] = task(t, tol)
        return torch.from_numpy(out).mT

    try:
        return loosest(fit, solve, 8 * fit.tol)
    except TypeError as error:
        raise UnavailableError(f"scikit-learn: another signature: {error}") from error


def _alpha(fit: Fit) -> Any:
    level = "l1" if fit.y.shape[2] == 1 else "group"
    return fit.strength(level).double().numpy()


def _start(fit: Fit) -> Any:
    """Starting weights (T, C, M)."""
    if fit.init is None:
        return np.zeros((len(fit.z), fit.y.shape[2], fit.z.shape[2]))
    return fit.init.double().mT.contiguous().numpy()
