"""The committed table of barriers that were left out: consistent, and still true."""

from tests.cuda import barriers
from tests.cuda.executed import require_nvcc

REMEASURED = "feature_stretch"


def test_every_barrier_of_a_row_has_an_outcome():
    rows = barriers.read()
    assert list(rows) == list(barriers.OPS)
    for row in rows.values():
        kinds = [int(row[kind]) for kind in ("needed", "spare", "unreached")]
        assert sum(kinds) == int(row["barriers"])


def test_no_barrier_was_added_or_removed_since():
    require_nvcc()
    known = {kernel: row["barriers"] for kernel, row in barriers.read().items()}
    assert {kernel: str(len(barriers.lines(kernel))) for kernel in known} == known


def test_the_table_is_still_true():
    require_nvcc()
    assert barriers.measure(REMEASURED) == barriers.read()[REMEASURED]
