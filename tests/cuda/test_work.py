"""The committed table of what the CUDA kernels execute: within its budgets, and still true."""

from pathlib import Path

from tests.cuda import work
from tests.cuda.executed import require_nvcc

README = Path(__file__).parents[2] / "README.md"

MOST_BYTES, MOST_MULTIPLICATIONS = 1.1, 1.5


def test_every_case_that_fits_on_the_chip_is_within_its_budgets():
    rows = work.read()
    assert [row["case"] for row in rows[::2]] == [case.name for case in work.CASES]
    for row, case in zip(rows, [case for case in work.CASES for _ in range(2)], strict=True):
        assert int(row["blocks"]) >= 1, row
        if case.fits:
            assert float(row["bytes"]) <= MOST_BYTES, row
            assert not row["counted"] or float(row["counted"]) <= MOST_MULTIPLICATIONS, row


def test_the_readme_shows_it():
    assert work.markdown(work.read()) in README.read_text()


def test_the_table_is_still_true():
    require_nvcc()
    assert work.measure(work.CASES[0]) == work.read()[:2]
