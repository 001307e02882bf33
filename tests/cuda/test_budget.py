"""The committed table of the CUDA kernels' registers: complete, without spills, and still true."""

import re

from tests.core.build import CSRC
from tests.cuda import budget
from tests.cuda.executed import SOURCES, ptx_of, require_nvcc

REMEASURED = ("heads_fit.cu", 90)


def test_every_kernel_is_there_for_every_target():
    require_nvcc()
    kernels = {
        name
        for source in SOURCES
        for name in re.findall(r"\d([a-z_]+)_kernelIf", ptx_of(source, 80))
    }
    assert kernels
    rows = [(row["kernel"], row["dtype"], row["target"]) for row in budget.read()]
    assert sorted(rows) == sorted(
        (kernel, dtype, f"sm_{target}")
        for kernel in kernels
        for dtype in budget.DTYPES.values()
        for target in budget.TARGETS
    )
    assert {f"{path.name}" for path in (CSRC / "cuda").glob("*.cu")} == set(SOURCES)


def test_no_kernel_leaves_its_registers():
    for row in budget.read():
        assert (row["stack"], row["spilled"]) == ("0", "0"), row
        assert int(row["blocks"]) >= 2, row


def test_the_table_is_still_true():
    require_nvcc()
    measured = budget.measure(*REMEASURED)
    assert measured
    known = budget.read()
    assert [row for row in measured if row not in known] == []


def test_the_build_may_make_the_ptx_of_sm_80_to_sm_90_once():
    require_nvcc()
    for source in SOURCES:
        assert ptx_of(source, 80).replace(".target sm_80", ".target sm_90") == ptx_of(source, 90)
