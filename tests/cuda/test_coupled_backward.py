"""The gradient of CUDA's fit_heads where the shared level couples tasks, executed from its PTX."""

from __future__ import annotations

import pytest
import torch

from tests.cuda.executed import MACHINE, NAMESPACE, THREADS, executing
from tests.cuda.test_coupled_fit import COUPLED
from tests.cuda.test_heads_backward import assert_agree, gradients, inputs_of, solve
from tests.cuda.test_heads_report import losses
from tests.problems import HEAD_PENALTIES, LAYOUTS, heads_problem

LAUNCHES = [
    "adjoint_load", "adjoint_norms", "adjoint_start", "adjoint_solve", "adjoint_write",
    "adjoint_shared",
]  # fmt: skip


@losses
@pytest.mark.parametrize(
    ("kind", "layout"),
    [("nested", layout) for layout in LAYOUTS] + [(kind, "dense") for kind in COUPLED],
)
def test_gradients_agree_with_the_cpu(kind, layout, loss):
    samples, penalty = LAYOUTS[layout](), HEAD_PENALTIES[kind]
    inputs, names = inputs_of(samples, penalty, loss)
    how = {"loss": loss, "offsets": samples.offsets}
    with executing(80) as executor:
        assert_agree(inputs, names, 1e-9, tol=1e-9, **how)
    launches = [name for name, *_ in executor.planned]
    assert launches == LAUNCHES + ["adjoint_sums"] * (layout == "one_design")


@losses
def test_free_features_and_tasks_agree_with_the_cpu(loss):
    """Features that are not coupled, rows that are not held, and a feature of no penalty at all."""
    samples = heads_problem(3, 30, 6, 2)
    inputs, names = inputs_of(samples, HEAD_PENALTIES["nested_ridge"], loss)
    l1, group, shared, ridge = inputs[3:]
    shared[:3] = 0
    l1[:, 1:4] = 0
    group[:, 2:5] = 0
    ridge[:, 2] = 0
    with executing(80):
        assert_agree(inputs, names, 1e-5, loss=loss, tol=1e-9)  # the floor is 1e-10


@pytest.mark.parametrize(("n", "M", "C"), [(3, 33, 2), (40, 9, 17)])
def test_odd_sizes_in_float32_agree_with_the_cpu(n, M, C):
    samples = heads_problem(2, n, M, C)
    inputs, names = inputs_of(samples, HEAD_PENALTIES["nested_ridge"], "multinomial")
    with executing(90):
        assert_agree([x.float() for x in inputs], names, 1e-4, loss="multinomial", tol=1e-5)


@losses
def test_blocks_and_their_order_change_no_bit(loss):
    samples = heads_problem(5, 20, 9, 3)
    inputs, names = inputs_of(samples, HEAD_PENALTIES["nested"], loss)
    solution, results = solve(inputs, names, loss=loss), []
    for blocks, seed in ((3, None), (1, 1), (9, 2)):
        with executing(80, (MACHINE[0], blocks), seed=seed) as executor:
            results.append(gradients(NAMESPACE, solution, inputs, names, loss=loss))
        assert executor.planned[3] == ("adjoint_solve", blocks, THREADS, 0)
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


@pytest.mark.parametrize("loss", ["squared", "multinomial"])
def test_no_threads_race(loss):
    samples = heads_problem(3, 9, 5, 3)
    inputs, names = inputs_of(samples, HEAD_PENALTIES["nested"], loss)
    solution = solve(inputs, names, loss=loss)
    with executing(80, (MACHINE[0], 2), sanitized=["adjoint_solve"]) as executor:
        gradients(NAMESPACE, solution, inputs, names, loss=loss)
    assert [name for name, _ in executor.launches] == LAUNCHES
