"""The command line ``sparsedis``: one module for each command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sparsedis_kernels.cli import bench, env, train
from sparsedis_kernels.cli.config import with_config
from sparsedis_kernels.evidence import command as reproduce

# In the order of the help. What needs torch is imported where it is used: --help should not wait.
_COMMANDS = (train, reproduce, bench, env)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        The exit code: 0; 1 where a benchmark finds a wrong answer of ours; 2 where an argument, a
        missing file or a missing package makes the command impossible.
    """
    try:
        given = sys.argv[1:] if argv is None else argv
        args = _parser().parse_args(with_config(given, "train", train.file_options()))
        return args.command(args) or 0
    except (ValueError, ImportError, OSError) as error:
        print(f"sparsedis: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sparsedis", description="Sparse multi-task learning.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for module in _COMMANDS:
        module.add_command(commands)
    return parser
