"""``sparsedis bench``: time the ops against their peers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsedis_kernels.bench import MODULES
from sparsedis_kernels.cli.threads import set_threads

if TYPE_CHECKING:
    import torch


def add_command(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    bench = commands.add_parser(
        "bench",
        help="time the ops against their peers",
        description="Time each op on this machine against the reference, PyTorch (eager, compiled, "
        "foreach, fused) and a copy of as many bytes. A wrong answer gets no time.",
    )
    _add_options(bench)
    bench.set_defaults(command=_bench)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("ops", nargs="*", metavar="OP", help=f"{', '.join(MODULES)} (default: all of them)")
    add("--device", choices=("cpu", "cuda"), help="(default: cuda where there is one)")
    add("--quick", action="store_true", help="smallest size, few samples, no torch.compile")
    add("--threads", type=int, default=1, help="CPU threads (default: 1)")
    add("--save", type=Path, metavar="FILE.json", help="write the rows and the machine to a file")


def _bench(args: argparse.Namespace) -> int:
    from sparsedis_kernels.bench import measure, report

    if args.save and not args.save.parent.is_dir():
        raise ValueError(f"--save: there is no folder {args.save.parent}")
    set_threads(args.threads)
    device = _device(args.device)
    effort = measure.QUICK if args.quick else measure.FULL
    cases = list(measure.cases(args.ops or list(MODULES), device.type, effort.shapes))
    rows = []
    print(report.HEADER)
    for case in cases:
        measured = measure.measure(case, device, effort)
        print(case, *report.lines(measured), sep="\n", flush=True)
        rows += measured
    if args.save:
        report.save(rows, device, args.save)
        print(f"rows: {args.save}")
    return int(any(row.provider == "ours" and row.status == "wrong" for row in rows))


def _device(asked: str | None) -> torch.device:
    import torch

    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise ValueError(f"--device cuda: torch {torch.__version__} finds no CUDA device")
    return torch.device(asked or ("cuda" if there else "cpu"))
