"""Sparse heads by the working-set solvers celer and skglm, an estimator for each task."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from sparsedis_kernels.bench.case import Call, UnavailableError
from sparsedis_kernels.bench.heads import Fit, loosest, require


def celer(fit: Fit) -> Call:
    """celer's Lasso or MultiTaskLasso."""
    return _estimators(fit, "celer")


def skglm(fit: Fit) -> Call:
    """skglm's Lasso or MultiTaskLasso."""
    return _estimators(fit, "skglm")


def _estimators(fit: Fit, package: str) -> Call:
    module = require(package)
    single = fit.y.shape[2] == 1
    level = "l1" if single else "group"
    kind = partial(module.Lasso if single else module.MultiTaskLasso, warm_start=True)
    models = [kind(float(a)) for a in fit.strength(level)]
    z, y = fit.z.double().numpy(), fit.y.double().numpy()
    start = None if fit.init is None else fit.init.double().mT.contiguous().numpy()

    def solve(tol: float) -> Tensor:
        for t, model in enumerate(models):
            model.tol = tol
            if start is not None:
                model.coef_ = start[t][0].copy() if single else start[t].copy(order="F")
            elif hasattr(model, "coef_"):
                del model.coef_
            model.fit(z[t], y[t][:, 0] if single else y[t])
        weight = np.stack([np.atleast_2d(model.coef_) for model in models])
        return torch.from_numpy(weight).mT

    try:
        return loosest(fit, solve, 0.1)
    except Exception as error:  # celer 0.7.4 breaks on later versions of scikit-learn, in many ways
        if isinstance(error, UnavailableError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UnavailableError(f"{package} {module.__version__}: {reason}") from error
