"""Heads of classes over many tasks, at equal suboptimality: multinomial and logistic losses.

A gap is first order in the error of these losses, their objective second: solvers without a gap
are held to what their objective is above the optimum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

from sparsedis_kernels.bench.case import COMPILED, Bar, Case, Job, Provider, UnavailableError
from sparsedis_kernels.bench.heads import (
    Fit,
    at_share,
    certified,
    loosest_ours,
    moved_bytes,
    problem,
    warmed,
    with_optimum,
)
from sparsedis_kernels.bench.peers import estimators, fista, jax_solvers, optimisers
from sparsedis_kernels.penalty import Penalty

TASKS = 50
# Suboptimality, relative to the optimum. A warm start is itself some 1e-4 from it.
TOLERANCES = {"cold": 1e-4, "warm": 1e-6}


class Size(NamedTuple):
    """What is fitted: `strength` is a share of lambda_max, or the ridge itself."""

    loss: str
    level: str
    strength: float
    n: int
    M: int
    C: int


# Times as fast as the best library: cold and, where a library can, from a warm start.
GROUP = {
    Size("multinomial", "group", 0.1, 50, 64, 5): (10.0, 30.0),
    Size("multinomial", "group", 0.01, 50, 64, 5): (25.0, 30.0),
    Size("multinomial", "group", 0.1, 200, 128, 5): (10.0, 30.0),
    Size("multinomial", "group", 0.1, 50, 512, 5): (10.0, 30.0),
}
LASSO = {Size("multinomial", "l1", 0.1, 50, 64, 5): (10.0,)}
LOGISTIC = {Size("logistic", "l1", 0.1, 50, 64, 1): (10.0,)}
RIDGE = {
    Size("multinomial", "ridge", 0.01, 50, 64, 5): (8.0,),
    Size("multinomial", "ridge", 0.01, 200, 128, 5): (8.0,),
    Size("multinomial", "ridge", 0.01, 50, 512, 5): (8.0,),
}
FISTA: dict[str, Provider] = {"torch FISTA": fista.fista, COMPILED: fista.compiled_fista}
PEERS: dict[tuple[str, str], dict[str, Provider]] = {
    ("multinomial", "group"): {"jaxopt": jax_solvers.proximal_gradient},
    ("multinomial", "l1"): {
        "jaxopt": jax_solvers.proximal_gradient,
        "scikit-learn saga": partial(estimators.scikit_learn_logistic, "saga"),
    },
    ("multinomial", "ridge"): {
        "jaxopt LBFGS": jax_solvers.lbfgs,
        "scikit-learn lbfgs": partial(estimators.scikit_learn_logistic, "lbfgs"),
    },
    ("logistic", "l1"): {
        "jaxopt": jax_solvers.proximal_gradient,
        "scikit-learn liblinear": partial(estimators.scikit_learn_logistic, "liblinear"),
        "skglm": estimators.skglm_logistic,
    },
}


def cases(op: str, device_type: str, quick: bool) -> Iterator[Case]:
    """Every size, cold and warm; the first of each kind alone if `quick`."""
    few = slice(0, 1 if quick else None)
    for sizes in (GROUP, LASSO, LOGISTIC, RIDGE):
        for size, factors in [*sizes.items()][few]:
            for start, factor in zip(TOLERANCES, factors, strict=False):
                yield loss_case(size, start, factor)


def loss_case(size: Size, start: str, factor: float) -> Case:
    """The fit of heads to a suboptimality."""
    tol = TOLERANCES[start]

    def setup(device: torch.device) -> Job:
        fit = replace(class_fit(device, size), tol=tol)
        fit = with_optimum(warmed(fit) if start == "warm" else fit)
        if fit.init is not None and fit.error(fit.init) <= tol:
            raise UnavailableError("nothing is left to do from the warm start")
        return Job(fit, certified(fit), moved_bytes(fit))

    libraries = dict(FISTA)
    if size.level == "ridge":
        libraries["torch LBFGS"] = optimisers.lbfgs
    peers = PEERS[size.loss, size.level]
    reference: Provider = partial(loosest_ours, backend="reference")
    providers = {"ours": loosest_ours, "reference": reference, **libraries}
    kind = f"{size.loss} {size.level} {size.strength} n={size.n} suboptimality={tol:g} {start}"
    where = ("losses", kind, (TASKS, size.M, size.C), "forward")
    return Case(*where, setup, providers, peers, (Bar(factor, (*libraries, *peers)),))


def class_fit(device: torch.device, size: Size, T: int = TASKS) -> Fit:
    """The classes of scores; for the logistic loss whether a score is above its mean."""
    fit = problem(device, T, size.n, size.M, size.C)
    above = fit.y - fit.y.mean(1, keepdim=True)
    y = F.one_hot(above.argmax(2), size.C) if size.loss == "multinomial" else above > 0
    fit = replace(fit, y=y.to(fit.z), loss=size.loss, tol=TOLERANCES["cold"])
    if size.level == "ridge":
        return replace(fit, penalty=Penalty(ridge=size.strength))
    penalty = Penalty(l1=1.0) if size.level == "l1" else Penalty(group=1.0)
    return at_share(replace(fit, penalty=penalty), size.strength)
