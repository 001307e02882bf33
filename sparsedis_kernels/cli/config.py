"""Options from a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def with_config(argv: Sequence[str], command: str, known: Mapping[str, Any]) -> list[str]:
    """The arguments, with those of the file that ``--config`` names put before the given ones.

    The last of two equal options counts, so what is given on the command line wins, and values
    from the file are checked as the others are. The file is TOML, with the options' names as keys:
    ``test-tasks = 50``, ``resume = true``, ``shots = [1, 5]``. The standard library reads TOML from
    Python 3.11 on.

    Args:
        argv: the arguments.
        command: the one command that takes a file.
        known: the options that a file may have, with their defaults.

    Raises:
        ValueError: another command, the file is not TOML, or a key in it is no option or has no
            value of its option's kind, or this Python is older than 3.11.
        OSError: the file cannot be read.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    file = finder.parse_known_args(argv)[0].config
    if file is None:
        return list(argv)
    if argv[0] != command:
        raise ValueError(
            f"--config {file}: only {command} takes a file: sparsedis {command} --config {file}"
        )
    given = _read(file).items()
    options = [part for key, value in given for part in _option(file, known, key, value)]
    return [argv[0], *options, *argv[1:]]


def _read(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib

        try:
            return tomllib.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"--config {file}: {error}") from error
    raise ValueError(f"--config {file}: needs Python 3.11 or later, which reads TOML")


def _option(file: Path, known: Mapping[str, Any], key: str, value: Any) -> Iterator[str]:
    """What ``key = value`` is on a command line."""
    name = key.replace("-", "_")
    option = "--" + key.replace("_", "-")
    if isinstance(value, dict):
        raise ValueError(f"--config {file}: [{key}] is a table; options stand by themselves")
    if name not in known:
        raise ValueError(f"--config {file}: {key!r} is no option that a file can set")
    if isinstance(value, bool) != isinstance(known[name], bool):
        kind = "true or false" if isinstance(known[name], bool) else "a value"
        raise ValueError(f"--config {file}: {key} = {value!r}, but {option} takes {kind}")
    if isinstance(value, list):
        yield option
        yield from map(str, value)
    elif not isinstance(value, bool):
        yield f"{option}={value}"
    elif value:
        yield option
