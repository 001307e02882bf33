"""Fast kernels for sparse multi-task learning: group-sparse proxes and batched head solves."""

from sparsedis_kernels import nn, optim
from sparsedis_kernels.ops import (
    FeatureUsage,
    HeadsFit,
    duality_gap,
    feature_usage,
    fit_heads,
    lambda_max,
    penalty_value,
    prox,
    prox_,
    prox_adamw_,
    prox_l0,
    prox_linf,
    prox_mcp,
    prox_scad,
    prox_sgd_,
)
from sparsedis_kernels.penalty import Penalty

__version__ = "0.1.0"

__all__ = [
    "FeatureUsage",
    "HeadsFit",
    "Penalty",
    "duality_gap",
    "feature_usage",
    "fit_heads",
    "lambda_max",
    "nn",
    "optim",
    "penalty_value",
    "prox",
    "prox_",
    "prox_adamw_",
    "prox_l0",
    "prox_linf",
    "prox_mcp",
    "prox_scad",
    "prox_sgd_",
]
