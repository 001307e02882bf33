"""Heads by estimators of scikit-learn, celer and skglm, one for each task in a loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsedis_kernels.bench.case import Call, UnavailableError
from sparsedis_kernels.bench.heads import Fit, loosest, require

MAX_ITER = 100_000
FREE = 100.0  # times an intercept is scaled, so that penalising it costs nothing


def scikit_learn(fit: Fit) -> Call:
    """scikit-learn's Lasso or MultiTaskLasso."""
    return _lasso(fit, "sklearn", "sklearn.linear_model", max_iter=MAX_ITER)


def celer(fit: Fit) -> Call:
    """celer's Lasso or MultiTaskLasso."""
    return _lasso(fit, "celer", "celer")


def skglm(fit: Fit) -> Call:
    """skglm's Lasso or MultiTaskLasso."""
    return _lasso(fit, "skglm", "skglm")


def scikit_learn_logistic(solver: str, fit: Fit) -> Call:
    """scikit-learn's LogisticRegression by one of its solvers, with l1 or a ridge."""
    linear_model = require("sklearn.linear_model")
    kind = linear_model.LogisticRegression
    if getattr(kind(), "penalty", None) == "l2":
        raise UnavailableError("sklearn: before 1.8 it asked for l1 by another name")
    n, level = fit.z.shape[1], "ridge" if solver == "lbfgs" else "l1"
    options: dict[str, Any] = {"solver": solver, "max_iter": MAX_ITER}
    options |= {"l1_ratio": float(level == "l1"), "random_state": 0}
    if solver == "liblinear":  # it penalises the intercept, over this
        options["intercept_scaling"] = FREE

    def make(strength: float) -> Any:
        return kind(C=1 / (n * strength), **options)

    return _loop(fit, "sklearn", make, fit.strength(level), order="C")


def skglm_logistic(fit: Fit) -> Call:
    """skglm's SparseLogisticRegression."""
    kind = require("skglm").SparseLogisticRegression
    return _loop(fit, "skglm", kind, fit.strength("l1"))


def _lasso(fit: Fit, package: str, module: str, **options: Any) -> Call:
    """The estimators of a module for the lasso of one output or of several."""
    require(package)
    single = fit.y.shape[2] == 1
    kind = getattr(require(module), "Lasso" if single else "MultiTaskLasso")
    make = partial(kind, warm_start=True, **options)
    return _loop(fit, package, make, fit.strength("l1" if single else "group"))


def _loop(
    fit: Fit, package: str, make: Callable[[float], Any], strengths: Tensor, order: Any = "F"
) -> Call:
    """The call that fits an estimator of every task, at the loosest tolerance of them all.

    Args:
        fit: what is fitted.
        package: whose estimators they are.
        make: an estimator from a task's strength.
        strengths: (T,).
        order: in which they want an array. Default by columns, as coordinate descent does.
    """
    models = [make(float(strength)) for strength in strengths.double()]
    z = [np.asarray(part, order=order) for part in fit.z.double().numpy()]
    y = _targets(fit)
    start = None if fit.init is None else fit.init.double().mT.contiguous().numpy()

    def solve(tol: float) -> Tensor:
        for t, model in enumerate(models):
            model.tol = tol
            if start is not None:
                model.coef_ = start[t][0].copy() if y[t].ndim == 1 else start[t].copy(order="F")
            elif hasattr(model, "coef_"):
                del model.coef_
            model.fit(z[t], y[t])
        weight = np.stack([np.atleast_2d(model.coef_) for model in models])
        return torch.from_numpy(weight).mT

    try:
        return loosest(fit, solve, 0.1)
    except Exception as error:  # celer 0.7.4 breaks on later versions of scikit-learn, in many ways
        if isinstance(error, UnavailableError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UnavailableError(f"{package} {require(package).__version__}: {reason}") from error


def _targets(fit: Fit) -> Any:
    """As estimators take them: classes, or an array of a task has one axis for one output."""
    if fit.loss != "squared":
        classes = fit.y.argmax(2) if fit.loss == "multinomial" else fit.y[:, :, 0].long()
        return classes.numpy()
    y = fit.y.double().numpy()
    return y[:, :, 0] if y.shape[2] == 1 else y
