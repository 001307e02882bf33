"""What the README shows of the times that ``sparsedis bench --save`` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sparsedis_kernels.bench import MODULES
from sparsedis_kernels.bench.bars import WORDS
from sparsedis_kernels.bench.case import case_name
from sparsedis_kernels.bench.limits import AXPY, COPY, LIMITS, PRODUCT
from sparsedis_kernels.bench.measure import Row, seconds_of
from sparsedis_kernels.bench.report import time_text
from sparsedis_kernels.evidence.report import markdown
from tests.evidence import plots

FOLDER = Path(__file__).parents[2] / "docs/evidence/performance"
HEADINGS = ("case", "ours, a task", "of the limit", "bar", "reached", "", "compared with")
DIGITS = 4  # of the numbers of a row
# Whoever was timed beside ours and is nobody else's way to the same answer.
NOT_OTHERS = {*LIMITS, "reference", "no heads", "one in-place op", "fused, then our prox"}


@dataclass(frozen=True)
class Session:
    """What was measured on one machine, by one or several commands, each at its commit."""

    name: str
    machine: Mapping[str, Any]
    commands: list[tuple[str, str]]
    rows: list[Row]
    bars: list[Mapping[str, Any]]


def sessions() -> list[Session]:
    """The documents that are kept, those of equal machines together; named after the first."""
    found: dict[str, Session] = {}
    for path in sorted(FOLDER.glob("*.json")):
        document = json.loads(path.read_text())
        machine = dict(document["machine"])
        commit = _short_commit(machine.pop("commit", None) or "unknown")
        session = Session(path.stem, machine, [], [], [])
        session = found.setdefault(json.dumps(machine, sort_keys=True), session)
        session.commands.append((document["command"], commit))
        session.rows.extend(map(_row, document["rows"]))
        session.bars.extend(document["bars"])
    return list(found.values())


def _short_commit(commit: str) -> str:
    name, dirty, _ = commit.partition("-dirty")
    return f"{name[:12]}{dirty}"


def _row(fields: Mapping[str, Any]) -> Row:
    return Row(**{**fields, "shape": tuple(fields["shape"])})


def keep(folder: Path) -> None:
    """Take the documents of a folder, and nothing else, into `FOLDER`, and draw them."""
    texts = {path.name: compact(json.loads(path.read_text())) for path in folder.glob("*.json")}
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    for name, text in texts.items():
        (FOLDER / name).write_text(text)
    for session in sessions():
        for name, panels in pictures(session).items():
            plots.draw(panels, FOLDER / name)


def pictures(session: Session) -> dict[str, list[plots.Panel]]:
    """The pictures that there are rows for, by file name."""
    panels = {name: find(session.rows) for name, (find, _) in plots.FIGURES.items()}
    return {f"{session.name}-{name}.png": some for name, some in panels.items() if some}


def compact(document: Mapping[str, Any]) -> str:
    """The document as JSON, a line a row, without fields that hold nothing."""
    rows = [
        {k: _short(v) for k, v in row.items() if v is not None and (k, v) != ("note", "")}
        for row in document["rows"]
    ]
    parts = {
        "command": json.dumps(document["command"]),
        "machine": json.dumps(document["machine"]),
        "rows": _lines(rows),
        "bars": _lines(document["bars"]),
    }
    return "{" + ",\n".join(f'"{key}": {text}' for key, text in parts.items()) + "}\n"


def _lines(entries: Sequence[object]) -> str:
    return "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]"


def _short(value: object) -> object:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def summary(session: Session) -> str:
    """The machine, the commands, a line for each op, and pictures."""
    commands = ", ".join(f"`{command}` (commit {commit})" for command, commit in session.commands)
    about = f"{_machine(session.machine)} Made by {commands}.{_missing(session.rows)}"
    lines = [_line(session, op) for op in _ops(session)]
    heading = ("op", "cases", "as fast as the fastest other, median", "least to most", "bars")
    return "\n\n".join([about, markdown([heading, *lines]), *_images(session)])


def tables(session: Session) -> str:
    """A section for each op, with a row for each bar, and for each case without one."""
    machine = f"# {session.machine['device']}, {_threads(session.machine)}"
    return "\n\n".join([machine, *(_of_op(session, op) for op in _ops(session))])


def _ops(session: Session) -> list[str]:
    return [op for op in MODULES if any(row.op == op for row in session.rows)]


def _line(session: Session, op: str) -> tuple[str, ...]:
    """How much faster ours is than the fastest of the others, and how many bars are passed."""
    ratios = sorted(_ratios(session, op))
    faster, spread = "", ""
    if ratios:
        faster = f"{median(ratios):.2g}x"
        spread = f"{ratios[0]:.2g}x to {ratios[-1]:.2g}x"
    return (op, str(len(_cases(session, op))), faster, spread, _counts(session, op))


def _counts(session: Session, op: str) -> str:
    """How many bars of an op are passed and how many are not."""
    cases = _cases(session, op)
    passed = [bar["passed"] for bar in session.bars if bar["case"] in cases]
    return ", ".join(f"{passed.count(key)} {WORDS[key]}" for key in WORDS if key in passed)


def _ratios(session: Session, op: str) -> Iterator[float]:
    for rows in _cases(session, op).values():
        seconds = seconds_of(rows)
        others = [
            time
            for name, time in seconds.items()
            if name not in NOT_OTHERS and not name.startswith("ours")
        ]
        if others and "ours" in seconds:
            yield min(others) / seconds["ours"]


def _cases(session: Session, op: str) -> dict[str, list[Row]]:
    """The rows of an op by the names of their cases."""
    cases: dict[str, list[Row]] = {}
    for row in session.rows:
        if row.op == op:
            name = case_name(row.op, row.kind, row.shape, row.direction)
            cases.setdefault(name, []).append(row)
    return cases


def _images(session: Session) -> Iterator[str]:
    for file in pictures(session):
        _, words = plots.FIGURES[file.removesuffix(".png").rpartition("-")[2]]
        yield f"![{words}](docs/evidence/performance/{file})"


def _machine(machine: Mapping[str, Any]) -> str:
    there = {k: v for k, v in machine["versions"].items() if v not in (None, "not installed")}
    versions = ", ".join(f"{name} {version}" for name, version in there.items())
    where = f"**{machine['device']}** ({machine['device_type']}), {_threads(machine)}"
    return f"{where}, {versions}."


def _threads(machine: Mapping[str, Any]) -> str:
    return f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"


def _missing(rows: Sequence[Row]) -> str:
    """Who got no time in some case."""
    names = ", ".join(sorted({row.provider for row in rows if row.status != "timed"}))
    return names and f" Without a time in some case, for a reason that its row says: {names}."


def _of_op(session: Session, op: str) -> str:
    """A row for each bar of an op, and for each case without one."""
    cases = _cases(session, op)
    bars = {name: [bar for bar in session.bars if bar["case"] == name] for name in cases}
    lines = [line for name in cases for line in _of_case(name, cases[name], bars[name])]
    return f"## {op}: {_counts(session, op) or 'no bars'}\n\n{markdown([HEADINGS, *lines])}"


def _of_case(
    name: str, rows: Sequence[Row], bars: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, ...]]:
    """A line for each bar of a case, or one without a bar."""
    seconds = seconds_of(rows)
    first = (name, "", "")
    if "ours" in seconds:
        bound, limit = limit_of(seconds)
        share = f"{_percent(limit / seconds['ours'])} of {bound}"
        first = (name, time_text(seconds["ours"] / rows[0].shape[0]), share)
    if not bars:
        yield (*first, "", "", "", "")
    for bar in bars:
        reached = "" if bar["ratio"] is None else f"{bar['ratio']:.3g}x"
        yield (*first, f"{bar['factor']:.3g}x", reached, WORDS[bar["passed"]], bar["than"])


def limit_of(seconds: Mapping[str, float]) -> tuple[str, float]:
    """What bounds a case, memory or arithmetic, and its time: the longer of the two."""
    times = {name: seconds[name] for name in LIMITS if name in seconds}
    memory = min((COPY, AXPY), key=lambda name: times[name])
    bound = max((memory, PRODUCT), key=lambda name: times.get(name, 0.0))
    return bound, times[bound]


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"
