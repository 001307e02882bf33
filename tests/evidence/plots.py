"""Figures of the times that ``sparsedis bench --save`` wrote."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from sparsedis_kernels.bench.limits import COPY, LIMITS, PRODUCT
from sparsedis_kernels.bench.measure import Row

Lines = Mapping[str, Sequence[tuple[float, float]]]  # points by who or what they are of
# Head fits that are drawn against n and M, without the n in their name.
SIZED = (("ridge", "forward"), ("ridge", "both"), ("group 0.1 gap=1e-06 cold", "forward"))
COLUMNS = 3


@dataclass(frozen=True)
class Panel:
    """Lines over logarithmic axes."""

    title: str
    x: str
    y: str
    lines: Lines


def tasks(rows: Iterable[Row]) -> list[Panel]:
    """Time per task against the number of tasks."""
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.op == "scaling" and row.kind.startswith("tasks, "):
            kinds[row.kind.removeprefix("tasks, ")].append(row)
    panels = [_times(kind, "tasks T", some, _tasks) for kind, some in kinds.items()]
    return [panel for panel in panels if panel.lines]


def sizes(rows: Iterable[Row]) -> list[Panel]:
    """Time per task of head fits against n and M, each where the other has the most values."""
    rows = [row for row in rows if row.op == "fit_heads"]
    axes: list[tuple[str, Callable[[Row], int], str, Callable[[Row], int]]] = [
        ("n", _samples, "M", _features),
        ("M", _features, "n", _samples),
    ]
    panels = []
    for name, value, other, held in axes:
        for kind, direction in SIZED:
            some = [r for r in rows if (_without_samples(r.kind), r.direction) == (kind, direction)]
            groups = [[r for r in some if held(r) == at] for at in sorted({held(r) for r in some})]
            group = max(groups, key=lambda g: len({value(r) for r in g}), default=[])
            if len({value(row) for row in group}) > 1:
                title = f"{kind}, {direction}, {other} = {held(group[0])}"
                panels.append(_times(title, name, group, value))
    return [panel for panel in panels if panel.lines]


def roofline(rows: Iterable[Row]) -> list[Panel]:
    """What is reached of the arithmetic's peak, and of the memory's where that alone bounds."""
    timed = [row for row in rows if row.seconds]
    computing = [row for row in timed if row.flops and row.bytes_moved]
    moving = [row for row in timed if row.op == "prox_"]
    panels = []
    if computing:
        panels.append(_roof(computing))
    if moving:
        lines = _lines(
            (row.kind if row.provider == "ours" else COPY, 1e-6 * row.bytes_moved, row.gb_per_s)
            for row in moving
            if row.provider in ("ours", COPY)
        )
        panels.append(Panel("prox_, ours", "MB moved", "GB/s", lines))
    return panels


FIGURES = {
    "tasks": (tasks, "Time per task against the number of tasks"),
    "sizes": (sizes, "Time per task of head fits against samples n and features M"),
    "roofline": (roofline, "Operations against arithmetic intensity, and bytes against size"),
}


def _roof(rows: Sequence[Row]) -> Panel:
    """GFLOP/s against flops per byte, under the best copy and the best product of these rows."""
    bandwidth = max(row.gb_per_s for row in rows if row.provider == COPY)
    peak = max(1e-9 * row.flops / row.seconds for row in rows if row.provider == PRODUCT)
    points = _lines(
        (row.provider, row.flops / row.bytes_moved, 1e-9 * row.flops / row.seconds)
        for row in rows
        if row.provider not in LIMITS
    )
    intensities = [x for line in points.values() for x, _ in line]
    knee = peak / bandwidth
    ends = (min(knee, *intensities) / 2, knee, 2 * max(knee, *intensities))
    roof = {"measured limit": [(x, min(x * bandwidth, peak)) for x in ends]}
    return Panel("ridge, forward", "flops / byte", "GFLOP/s", {**roof, **points})


def _times(title: str, x: str, rows: Iterable[Row], value: Callable[[Row], int]) -> Panel:
    timed = [row for row in rows if row.seconds and row.provider not in LIMITS]
    points = ((row.provider, value(row), 1e6 * row.seconds / row.shape[0]) for row in timed)
    return Panel(title, x, "us a task", _lines(points))


def _lines(points: Iterable[tuple[str, float, float]]) -> Lines:
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, x, y in points:
        lines[name].append((x, y))
    return {name: sorted(line) for name, line in lines.items()}


def _tasks(row: Row) -> int:
    return row.shape[0]


def _samples(row: Row) -> int:
    found = re.search(r"\bn=(\d+)", row.kind)
    assert found is not None, row.kind
    return int(found[1])


def _features(row: Row) -> int:
    return row.shape[1]


def _without_samples(kind: str) -> str:
    return re.sub(r" n=\d+", "", kind)


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Write the panels as a PNG picture, `COLUMNS` in a row; equal lines have equal colours."""
    columns = min(COLUMNS, len(panels))
    count = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.4 * count), layout="constrained")
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    grid = figure.subplots(count, columns, squeeze=False).flat
    for panel, axes in zip(panels, grid, strict=False):
        for name, line in panel.lines.items():
            style = {"color": f"C{names.index(name)}", "lw": 2.5 if name == "ours" else 1.0}
            axes.loglog(*zip(*line, strict=True), "o-", ms=3, label=name, **style)
        axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    for axes in list(grid):
        axes.remove()
    figure.savefig(path, dpi=54)
