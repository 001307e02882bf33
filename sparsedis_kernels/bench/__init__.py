"""Micro-benchmarks of the ops, for the command line and for `pytest benchmarks`.

A file per op says what is computed, by whom and at which sizes; `case` holds what they share,
`measure` checks and times them, `report` prints and saves the rows.
"""

# The module of `sparsedis_kernels.bench` with the cases of each op, of `fit_heads` under other
# losses and on one design, and of what ops are part of.
MODULES = {
    "prox": "prox",
    "prox_": "inplace",
    "prox_mcp": "group_prox",
    "prox_scad": "group_prox",
    "prox_l0": "group_prox",
    "prox_linf": "group_prox",
    "prox_sgd": "optim",
    "prox_adamw": "optim",
    "feature_usage": "feature_usage",
    "penalty_value": "penalty_value",
    "fit_heads": "fit_heads",
    "losses": "losses",
    "one_design": "one_design",
    "scaling": "scaling",
    "bilevel_step": "bilevel_step",
}
