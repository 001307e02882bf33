"""Options from a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def with_config(argv: Sequence[str]) -> list[str]:
    """The arguments, with those of the file that ``--config`` names put before the given ones.

    The last of two equal options counts, so what is given on the command line wins, and options
    from the file are checked as the others are. The file is TOML, with the options' names as keys:
    ``test-tasks = 50``, ``resume = true``, ``shots = [1, 5]``. The standard library reads TOML from
    Python 3.11 on.

    Raises:
        ValueError: the file is not TOML or holds a table, or this Python is older than 3.11.
        OSError: the file cannot be read.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    file = finder.parse_known_args(argv)[0].config
    if file is None:
        return list(argv)
    options = [part for key, value in _read(file).items() for part in _option(file, key, value)]
    return [argv[0], *options, *argv[1:]]


def _read(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib

        try:
            return tomllib.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"--config {file}: {error}") from error
    raise ValueError(f"--config {file}: needs Python 3.11 or later, which reads TOML")


def _option(file: Path, key: str, value: Any) -> Iterator[str]:
    """What ``key = value`` is on a command line."""
    option = "--" + key.replace("_", "-")
    if isinstance(value, dict):
        raise ValueError(f"--config {file}: [{key}] is a table; options stand by themselves")
    if isinstance(value, list):
        yield option
        yield from map(str, value)
    elif value is True:
        yield option
    elif value is not False:
        yield f"{option}={value}"
