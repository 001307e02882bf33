"""Whether ours is as fast as a case asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sparsedis_kernels.bench.case import Case
from sparsedis_kernels.bench.measure import Row, seconds_of

WORDS = {True: "pass", False: "FAIL", None: "not measured"}  # for `Verdict.passed`


@dataclass(frozen=True)
class Verdict:
    """What came of a bar.

    Attributes:
        case: the case it belongs to.
        factor: how many times as fast ours has to be.
        than: the fastest of whom ours is compared with; all of them where none was timed.
        ratio: how many times as fast ours was; None where nobody to compare with was timed.
    """

    case: str
    factor: float
    than: str
    ratio: float | None

    @property
    def passed(self) -> bool | None:
        """Whether it was as fast; None where there was nothing to compare."""
        return None if self.ratio is None else self.ratio >= self.factor

    def __str__(self) -> str:
        reached = "" if self.ratio is None else f", reached {self.ratio:.3g}x"
        return f"{WORDS[self.passed]}: {self.case}: {self.factor:g}x {self.than}{reached}"


def judge(case: Case, rows: Sequence[Row]) -> Iterator[Verdict]:
    """A verdict for every bar of a case whose rows were measured."""
    seconds = seconds_of(rows)
    for bar in case.bars:
        there = {name: seconds[name] for name in bar.than if name in seconds}
        if not there or "ours" not in seconds:
            yield Verdict(str(case), bar.factor, " or ".join(bar.than), None)
            continue
        fastest = min(there, key=lambda name: there[name])
        yield Verdict(str(case), bar.factor, fastest, there[fastest] / seconds["ours"])
