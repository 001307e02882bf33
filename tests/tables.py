"""Committed tables: CSV files, whose rows are read as text."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """All rows."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace the table; all rows have the columns of the first."""
    rows = list(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def check(path: Path, rows: list[Row]) -> None:
    """Exit with the rows that one of `rows` and the table has and the other has not, if any."""
    known = read(path)
    different = [row for row in rows if row not in known] + [
        row for row in known if row not in rows
    ]
    sys.exit("\n".join(" ".join(row.values()) for row in different) or None)
