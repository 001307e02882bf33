"""Ridge heads of one design by himalaya, which is made for many targets."""

from __future__ import annotations

from typing import Any

import torch

from sparsedis_kernels.bench.case import Call
from sparsedis_kernels.bench.heads import Fit, require
from sparsedis_kernels.bench.peers.linalg import columns, heads


def ridge(fit: Fit) -> Call:
    """Ridge, by the design's singular values."""
    kind = require("himalaya.ridge").Ridge
    options = {"solver": "svd", "solver_params": {"warn": False}}
    return _estimator(fit, kind, lambda model, z: model.coef_, **options)


def kernel_ridge(fit: Fit) -> Call:
    """KernelRidge, and the weights of its dual solution."""
    kind = require("himalaya.kernel_ridge").KernelRidge
    return _estimator(fit, kind, lambda model, z: model.get_primal_coef(), warn=False)


def _estimator(fit: Fit, kind: Any, weight: Any, **options: Any) -> Call:
    z, y = fit.z.numpy(), columns(fit.y).numpy()
    model = kind(alpha=len(z) * float(fit.penalty.ridge), fit_intercept=True, **options)
    return lambda: heads(torch.from_numpy(weight(model.fit(z, y), z)), len(fit.y))
