"""``sparsedis env``: versions, libraries and what serves each op."""

from __future__ import annotations

import argparse
from typing import Any


def add_command(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    env = commands.add_parser("env", help="show versions, libraries and what serves each op")
    env.set_defaults(command=_env)


def _env(args: argparse.Namespace) -> None:
    from sparsedis_kernels import backends
    from sparsedis_kernels.training.report import versions

    for name, version in versions().items():
        print(f"{name:24}{version}")
    for name, library in (("CPU", backends.CPU_LIBRARY), ("CUDA", backends.CUDA_LIBRARY)):
        print(f"{name + ' library':24}{library.path or library.error}")
    print(f"\n{'op':24}{'device':8}{'backend':12}why no other")
    for op, device, backend, reason in backends.op_table():
        print(f"{op:24}{device:8}{backend:12}{reason}")
