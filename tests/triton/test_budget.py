"""The committed tables of registers and memory traffic: complete, within limits, and still true."""

import importlib
import pkgutil

import pytest

pytest.importorskip("triton")

from triton.runtime.jit import JITFunction

from sparsedis_kernels.triton import kernels
from tests.triton import budget
from tests.triton.budget_cases import CASES, ON_CHIP, OPS

# Measured again at every run. `python -m tests.triton.budget --check` does it for all.
REMEASURED = [
    ("prox C=5", "float32"),
    ("prox metric C=8", "bfloat16"),
    ("prox backward C=5", "float16"),
    ("shared C=5", "float32"),
    ("mcp backward C=5", "float32"),
    ("linf C=5", "float64"),
    ("usage C=1000", "float32"),
]
TARGETS = ("sm_90", "gfx942")


@pytest.fixture(scope="module")
def static():
    return budget.read("static_budget")


@pytest.fixture(scope="module")
def traffic():
    return budget.read("byte_budget")


def test_every_case_is_in_the_tables(static, traffic):
    assert [(row["case"], row["dtype"]) for row in traffic] == list(CASES)
    assert {(row["case"], row["dtype"]) for row in static} == set(CASES)


def test_every_row_is_there_for_every_target(static):
    by_target = {target: set() for target in budget.TARGETS}
    for row in static:
        by_target[row["target"]].add((row["kernel"], row["case"], row["dtype"]))
    assert all(rows == by_target["sm_80"] for rows in by_target.values())


def test_every_kernel_is_in_the_table(static):
    modules = pkgutil.iter_modules(kernels.__path__, f"{kernels.__name__}.")
    names = {
        name
        for module in modules
        for name, value in vars(importlib.import_module(module.name)).items()
        if name.endswith("_kernel") and isinstance(value, JITFunction)
    }
    assert names
    assert {row["kernel"].split()[0] for row in static} == names


def test_no_kernel_uses_the_stack(static):
    assert not [budget.key_of("static_budget", row) for row in static if row["stack"]]


def rows_of(op, table):
    return [row for row in table if CASES[row["case"], row["dtype"]].op == op]


@pytest.mark.parametrize("op", OPS)
def test_limits_and_reasons_in_the_table_are_those_of_the_ops(op, traffic):
    stated = {(row["limit"], row["reason"]) for row in rows_of(op, traffic)}
    assert stated == {(OPS[op].limit, OPS[op].reason)}


@pytest.mark.parametrize("op", OPS)
def test_no_op_moves_more_bytes_than_its_limit(op, traffic):
    assert not [row for row in rows_of(op, traffic) if row["ratio"] > OPS[op].limit]


@pytest.mark.parametrize("op", [name for name, op in OPS.items() if op.limit > ON_CHIP])
def test_a_higher_limit_has_a_reason_and_is_needed(op, traffic):
    assert OPS[op].reason
    assert max(row["ratio"] for row in rows_of(op, traffic)) > 0.95 * OPS[op].limit


def test_the_widest_access_is_sixteen_bytes(traffic):
    assert {row["widest"] for row in traffic} == {16}


@pytest.mark.parametrize("key", REMEASURED, ids=" ".join)
def test_tables_are_still_true(key, static, traffic):
    committed = {"static_budget": static, "byte_budget": traffic}
    for name, rows in budget.measure(key, TARGETS).items():
        assert not list(budget.differences(name, rows, committed[name]))
