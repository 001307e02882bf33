"""Public differentiable functions, one file per op: schema, checks, dispatch, gradient."""

from sparsedis_kernels.ops.feature_usage import FeatureUsage, feature_usage
from sparsedis_kernels.ops.fit_heads import HeadsFit, fit_heads
from sparsedis_kernels.ops.group_prox import prox_l0, prox_linf, prox_mcp, prox_scad
from sparsedis_kernels.ops.heads_report import duality_gap, lambda_max
from sparsedis_kernels.ops.penalty_value import penalty_value
from sparsedis_kernels.ops.prox import prox, prox_
from sparsedis_kernels.ops.prox_step import prox_adamw_, prox_sgd_

__all__ = [
    "FeatureUsage",
    "HeadsFit",
    "duality_gap",
    "feature_usage",
    "fit_heads",
    "lambda_max",
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
