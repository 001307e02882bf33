"""``sparsedis bench``: time the ops against their peers."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsedis_kernels.bench import MODULES
from sparsedis_kernels.cli.threads import pinned

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
    add("--match", default="", metavar="TEXT", help="only cases whose name has it")
    add("--device", choices=("cpu", "cuda"), help="(default: cuda where there is one)")
    add("--quick", action="store_true", help="smallest size, few samples, no torch.compile")
    add("--peers", action="store_true", help="other libraries too, and whether ours passes its bar")
    add("--threads", type=int, default=1, help="threads, and CPUs it is pinned to (default: 1)")
    add("--save", type=Path, metavar="FILE.json", help="write the rows and the machine to a file")


def _bench(args: argparse.Namespace) -> int:
    if args.save and not args.save.parent.is_dir():
        raise ValueError(f"--save: there is no folder {args.save.parent}")
    with pinned(args.threads):  # before torch or a peer is imported and starts its threads
        return _measure(args)


def _measure(args: argparse.Namespace) -> int:
    from sparsedis_kernels.bench import bars, measure, report

    device = _device(args.device)
    effort = replace(measure.QUICK if args.quick else measure.FULL, peers=args.peers)
    every = measure.cases(args.ops or list(MODULES), device.type, quick=args.quick)
    cases = [case for case in every if args.match in str(case)]
    if args.match and not cases:
        raise ValueError(f"bench: --match {args.match!r} is in the name of no case")
    rows, verdicts = [], []
    about = {"command": _command(args), "machine": report.machine(device)} if args.save else {}
    print(report.HEADER)
    for case in cases:
        measured = measure.measure(case, device, effort)
        judged = list(bars.judge(case, measured)) if args.peers else []
        print(case, *report.lines(measured), *judged, sep="\n", flush=True)
        rows += measured
        verdicts += judged
        if args.save:  # after every case: a run of half an hour may be interrupted
            report.save(about, rows, verdicts, args.save)
    print(*verdicts, sep="\n")
    if args.save:
        print(f"rows: {args.save}")
    return int(any(row.provider == "ours" and row.status == "wrong" for row in rows))


def _command(args: argparse.Namespace) -> str:
    """The command line again, for whoever reads the file."""
    words = ["sparsedis", "bench", *args.ops]
    for option in ("match", "device"):
        value = getattr(args, option)
        words += [f"--{option}", value] if value else []
    words += [f"--{flag}" for flag in ("quick", "peers") if getattr(args, flag)]
    return shlex.join([*words, "--threads", str(args.threads), "--save", args.save.name])


def _device(asked: str | None) -> torch.device:
    import torch

    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise ValueError(f"--device cuda: torch {torch.__version__} finds no CUDA device")
    return torch.device(asked or ("cuda" if there else "cpu"))
