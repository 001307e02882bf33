"""Expected effects as predicates on results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from sparsedis_kernels.evidence.experiment import Results


class Verdict(NamedTuple):
    """Whether something holds, and the numbers that say so."""

    holds: bool
    text: str


@dataclass(frozen=True)
class Check:
    """A relation between two measured numbers, or between one and a bound.

    Attributes:
        first: label of settings, and name of the number that is measured for them.
        relation: ">", "<", or "near".
        second: such a pair, compared seed by seed, or a bound.
        by: for ">" and "<" by how much at least, for "near" by how much at most they differ.
    """

    first: tuple[str, str]
    relation: Literal[">", "<", "near"]
    second: tuple[str, str] | float
    by: float = 0.0

    @property
    def labels(self) -> set[str]:
        """The settings that the check needs."""
        return {side[0] for side in (self.first, self.second) if isinstance(side, tuple)}

    def verdict(self, results: Results) -> Verdict:
        """Whether the mean over seeds fulfils the relation, and in how many seeds it holds."""
        difference, there = results.values(*self.first), f"{self.second}"
        if isinstance(self.second, tuple):
            difference = difference - results.values(*self.second)
            there = _text(results, self.second)
        else:
            difference = difference - self.second
        seeds, mean = self._holds(difference), bool(self._holds(difference.mean()))
        margin = f" (margin {self.by:g})" if self.by else ""
        outcome = f"{'yes' if mean else 'no'}, in {seeds.sum()} of {seeds.size} seeds"
        here = _text(results, self.first)
        return Verdict(mean, f"{here} {self.relation} {there}{margin}: {outcome}")

    def _holds(self, difference: np.ndarray | np.floating) -> np.ndarray:
        if self.relation == "near":
            return np.asarray(np.abs(difference) <= self.by)
        return np.asarray(difference > self.by if self.relation == ">" else -difference > self.by)


@dataclass(frozen=True)
class Claim:
    """A sentence, and the checks that all have to hold for it to be true of the results."""

    sentence: str
    checks: Sequence[Check]

    def verdict(self, results: Results) -> Verdict | None:
        """None where settings that a check needs were not run."""
        if not all(check.labels <= results.rows.keys() for check in self.checks):
            return None
        verdicts = [check.verdict(results) for check in self.checks]
        holds = all(verdict.holds for verdict in verdicts)
        lines = [f"- {'holds' if holds else '**does not hold**'}: {self.sentence}"]
        return Verdict(holds, "\n".join(lines + [f"  - {verdict.text}" for verdict in verdicts]))


def _text(results: Results, side: tuple[str, str]) -> str:
    label, key = side
    return f"{key} of '{label}' {results.text(label, key)}"
