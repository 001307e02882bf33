"""Whether ours passes what a case asks, from the rows that were measured."""

import dataclasses

from sparsedis_kernels.bench.bars import judge
from sparsedis_kernels.bench.case import Bar, Case
from sparsedis_kernels.bench.measure import Row

WHERE = ("fit_heads", "ridge", (10, 20, 5), "float32", "forward")


def rows(**seconds):
    return [Row(*WHERE, name, "timed", seconds=value) for name, value in seconds.items()]


def verdicts(measured, *bars):
    case = Case(*WHERE[:3], WHERE[4], lambda device: None, {}, {}, bars)
    return list(judge(case, measured))


def test_ours_is_held_against_the_fastest_of_them():
    (verdict,) = verdicts(rows(ours=1.0, a=6.0, b=4.0), Bar(5.0, ("a", "b")))
    assert (verdict.than, verdict.ratio, verdict.passed) == ("b", 4.0, False)
    (verdict,) = verdicts(rows(ours=1.0, a=6.0, b=4.0), Bar(4.0, ("a", "b")))
    assert verdict.passed
    assert str(verdict) == "pass: fit_heads ridge 10x20x5 forward: 4x b, reached 4x"


def test_who_was_not_timed_passes_nothing():
    bar = Bar(5.0, ("a", "b"))
    for measured in (rows(ours=1.0), rows(a=6.0), [dataclasses.replace(r) for r in rows()]):
        (verdict,) = verdicts(measured, bar)
        assert verdict.passed is None
        assert str(verdict).startswith("not measured: ")
