"""Static reports of kernels compiled by nvcc."""

import pytest

from tests.ptx.selftest.builds import HERE
from tests.ptx.static_report import access_width, report_source

pytestmark = pytest.mark.usefixtures("nvcc")


def test_report_of_cuda_source():
    reports = report_source(HERE / "kernels.cu", 80)
    soft = reports["group_soft"]
    assert soft.registers > 8
    assert soft.stack_bytes == 0
    assert soft.shared_bytes >= 128
    assert (soft.spill_store_bytes, soft.spill_load_bytes) == (0, 0)
    assert set(soft.widths("global loads")) == {16}
    assert set(soft.widths("global stores")) == {16}
    assert soft.group("shuffles")
    assert soft.group("barriers")
    assert "group_soft" in soft.describe()
    assert reports["double_functions"].group("double")


def test_local_memory_is_reported():
    report = report_source(HERE / "kernels.cu", 80)["local_table"]
    assert report.stack_bytes >= 64
    assert report.group("local loads")
    assert report.group("local stores")


@pytest.mark.parametrize(
    ("opcode", "width"),
    [
        ("LDG.E", 4),
        ("LDG.E.128.CONSTANT", 16),
        ("STG.E.64", 8),
        ("LDG.E.U8", 1),
        ("LDS.U16", 2),
        ("LDGSTS.E.BYPASS.128", 16),
        ("LDG.E.ENL2.256", 32),
    ],
)
def test_access_width(opcode, width):
    assert access_width(opcode) == width
