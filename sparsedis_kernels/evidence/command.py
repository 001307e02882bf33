"""``sparsedis reproduce``: run an experiment and say what it shows."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

# Modules of this package, each with its EXPERIMENT.
EXPERIMENTS = ("synthetic", "disentanglement", "shift")


def add_command(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    reproduce = commands.add_parser(
        "reproduce",
        help="run an experiment that shows whether the method works",
        description="Run an experiment: every setting for every seed, a table, a figure, and which "
        "of the expected effects hold. A run that was stopped goes on where it was.",
    )
    add = reproduce.add_argument
    add("experiment", choices=EXPERIMENTS, metavar="NAME", help=" or ".join(EXPERIMENTS))
    add("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N - 1 (default: 5)")
    add("--out", type=Path, help="folder of cells and report (default: runs/reproduce/NAME)")
    add("--quick", action="store_true", help="fewer settings, shorter runs: minutes")
    add("--threads", type=int, default=1, help="CPU threads (default: 1)")
    reproduce.set_defaults(command=_reproduce)


def _reproduce(args: argparse.Namespace) -> None:
    import torch

    from sparsedis_kernels.data.extra import train_extra
    from sparsedis_kernels.evidence.experiment import run_cells
    from sparsedis_kernels.evidence.report import write_report

    for name in ("seeds", "threads"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be >= 1, got {getattr(args, name)}")
    with train_extra("reproduce"):  # now, not when all is measured
        for package in ("matplotlib", "sklearn", "tqdm"):
            import_module(package)
    torch.set_num_threads(args.threads)
    out = args.out or Path("runs/reproduce") / args.experiment
    experiment = import_module(f"sparsedis_kernels.evidence.{args.experiment}").EXPERIMENT
    results = run_cells(experiment, args.seeds, out, quick=args.quick)
    print(write_report(experiment, results, out))
    print(f"report: {out / 'report.json'}")
