"""``sparsedis train``: train with dense and with sparse heads, and compare."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsedis_kernels.cli.threads import set_threads
from sparsedis_kernels.training.recipe import Recipe

if TYPE_CHECKING:
    from sparsedis_kernels.data import TaskSource
    from sparsedis_kernels.nn import SparseHeads
    from sparsedis_kernels.training.loop import Arm

_STRENGTHS = {
    "l1": (0.0, "l1 strength, as a fraction of the one from which on all weights are 0"),
    "group": (0.4, "strength on (task, feature) groups, as such a fraction"),
    "shared": (0.0, "strength on features over all tasks, as such a fraction"),
    "ridge": (1.0, "ridge strength of both arms"),
}


def add_command(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    train = commands.add_parser(
        "train",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        help="train with dense and with sparse heads, and compare",
        description="Train a backbone with ridge heads (dense) and one with group-sparse heads "
        "(sparse), alike in everything else, and compare them on fresh test tasks.",
    )
    _add_options(train)
    train.set_defaults(command=_train)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", choices=("mnist", "digits", "shapes"), default="mnist", help="source of tasks")
    add(
        "--shift",
        choices=("rotation", "colour"),
        default=argparse.SUPPRESS,
        help="how mnist's domains differ (default: rotation)",
    )
    for field in fields(Recipe):
        option = "--" + field.name.replace("_", "-")
        add(option, type=type(field.default), default=field.default, help=field.metadata["help"])
    for level, (strength, text) in _STRENGTHS.items():
        add(f"--{level}", type=float, default=strength, help=text)
    add(
        "--hypergradient",
        choices=("implicit", "detached", "unrolled"),
        default="implicit",
        help="how the query loss reaches the support features",
    )
    add("--threads", type=int, default=1, help="CPU threads; this small, more do not pay")
    add("--out", type=Path, default=Path("runs/train"), help="folder for checkpoints and report")
    add("--resume", action="store_true", help="go on from the checkpoints in that folder")


def _train(args: argparse.Namespace) -> None:
    from sparsedis_kernels.training.loop import compare
    from sparsedis_kernels.training.report import write_report

    recipe = Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})
    set_threads(args.threads)
    if args.resume and not list(args.out.glob("*.pt")):
        raise ValueError(f"--resume: there is no checkpoint in {args.out}")
    arms = compare(_source(args), recipe, _heads(args), args.out, resume=args.resume)
    print(_table(arms))
    print(f"report: {write_report(arms, args.out)}")


def _source(args: argparse.Namespace) -> TaskSource:
    from sparsedis_kernels.data import load

    options = {"shift": args.shift} if "shift" in args else {}
    if options and args.data != "mnist":
        raise ValueError(f"--shift {args.shift} goes with --data mnist, not with {args.data}")
    return load(args.data, **options)


def _heads(args: argparse.Namespace) -> dict[str, SparseHeads]:
    from sparsedis_kernels.nn import SparseHeads
    from sparsedis_kernels.penalty import Penalty

    penalties = {
        "dense": Penalty(ridge=args.ridge),
        "sparse": Penalty(l1=args.l1, group=args.group, shared=args.shared, ridge=args.ridge),
    }
    return {
        name: SparseHeads(penalty, relative=True, hypergradient=args.hypergradient)
        for name, penalty in penalties.items()
    }


def _table(arms: Mapping[str, Arm]) -> str:
    """One row a number, one column an arm; ± is the standard error over test tasks."""
    first = next(iter(arms.values())).run
    score = "query accuracy" if first.source.kind == "classification" else "query R²"
    seen = [arm.seen.summary() for arm in arms.values()]
    rows = [("", list(arms)), (f"{score}, seen domains", [_score(s) for s in seen])]
    if first.source.held_out is not None:
        domain = first.source.domains[first.source.held_out]
        held_out = [arm.held_out.summary() for arm in arms.values() if arm.held_out]
        rows.append((f"{score}, held out: {domain}", [_score(s) for s in held_out]))
    of = f"of {first.recipe.features}"
    rows += [
        (f"features per task {of}", [f"{s['features_per_task']:.1f}" for s in seen]),
        (f"effective features exp(H) {of}", [f"{s['effective_features']:.1f}" for s in seen]),
        ("used features shared by 2+ tasks", [f"{s['shared_share']:.0%}" for s in seen]),
        ("training steps", [str(len(arm.run.history)) for arm in arms.values()]),
        ("seconds of training", [f"{arm.run.seconds:.1f}" for arm in arms.values()]),
    ]
    return "\n".join(f"{name:42}" + "".join(f"{c:>16}" for c in cells) for name, cells in rows)


def _score(numbers: Mapping[str, float]) -> str:
    return f"{numbers['score']:.3f} ± {numbers['standard_error']:.3f}"
