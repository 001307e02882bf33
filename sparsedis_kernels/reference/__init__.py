"""The kernels in plain PyTorch: the specification, and the fallback on every device."""

from sparsedis_kernels.reference.feature_usage import feature_usage, feature_usage_backward
from sparsedis_kernels.reference.heads import fit_heads
from sparsedis_kernels.reference.heads_backward import fit_heads_backward
from sparsedis_kernels.reference.heads_gap import duality_gap, lambda_max
from sparsedis_kernels.reference.linf import linf_prox, linf_prox_backward
from sparsedis_kernels.reference.penalty_value import penalty_value, penalty_value_backward
from sparsedis_kernels.reference.prox import prox, prox_backward
from sparsedis_kernels.reference.prox_step import prox_, prox_adamw_, prox_sgd_
from sparsedis_kernels.reference.radial import radial_prox, radial_prox_backward

__all__ = [
    "duality_gap",
    "feature_usage",
    "feature_usage_backward",
    "fit_heads",
    "fit_heads_backward",
    "lambda_max",
    "linf_prox",
    "linf_prox_backward",
    "penalty_value",
    "penalty_value_backward",
    "prox",
    "prox_",
    "prox_adamw_",
    "prox_backward",
    "prox_sgd_",
    "radial_prox",
    "radial_prox_backward",
]
