"""Drop one synchronising instruction of a PTX text at a time and see whether a check notices.

A check that still passes without a barrier does not test that barrier, or the barrier is redundant.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

KINDS = {
    "barrier": r"(?:bar|barrier)(?:\.cta)?\.(?:sync|arrive)\b",  # a reduction's result is needed
    "warp_barrier": r"bar\.warp\.sync\b",
    "async_wait": r"cp\.async\.wait_(?:group|all)\b",
    "fence": r"(?:fence|membar)\.",
}


@dataclass(frozen=True)
class Site:
    """An instruction that can be dropped."""

    index: int
    line: int
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Outcome:
    """What the check said without the instruction; `reason` is empty if it did not notice."""

    site: Site
    reason: str

    @property
    def noticed(self) -> bool:
        return bool(self.reason)


def sites(ptx: str, kind: str = "barrier", entry: str | None = None) -> list[Site]:
    """Instructions of a kind in the whole text or one kernel, in order."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}")
    first, last = (0, len(ptx)) if entry is None else _extent(ptx, entry)
    pattern = re.compile(rf"^[ \t]*((?:@!?%\w+\s+)?{KINDS[kind]}[^;\n]*;)", re.M)
    found: list[Site] = []
    for match in pattern.finditer(ptx, first, last):
        line = ptx.count("\n", 0, match.start(1)) + 1
        found.append(Site(len(found), line, match[1], match.start(1), match.end(1)))
    return found


def _extent(ptx: str, entry: str) -> tuple[int, int]:
    header = re.search(rf"\.entry\s+{re.escape(entry)}\b", ptx)
    if not header:
        raise ValueError(f"no kernel {entry!r} in this PTX")
    following = re.search(
        r"^\s*(?:\.visible\s+|\.weak\s+)?\.(?:entry|func)\b", ptx[header.end() :], re.M
    )
    return header.start(), header.end() + following.start() if following else len(ptx)


def drop(ptx: str, site: Site) -> str:
    """The PTX without one instruction; line numbers stay."""
    return ptx[: site.start] + ptx[site.end :]


def try_all(
    ptx: str, check: Callable[[str], object], kind: str = "barrier", entry: str | None = None
) -> list[Outcome]:
    """Run `check` on every mutant of the PTX, or of one kernel in it.

    The check notices by raising (any exception) or by returning False.
    """
    return [Outcome(site, _reason(check, drop(ptx, site))) for site in sites(ptx, kind, entry)]


def _reason(check: Callable[[str], object], mutant: str) -> str:
    try:
        verdict = check(mutant)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return "check returned False" if verdict is False else ""
