"""``sparsedis train``: train with dense and with sparse heads, and compare."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsedis_kernels.cli.threads import set_threads
from sparsedis_kernels.data.sources import BUILT_IN, ON_DISK
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
    "sharing": (0.0, "strength on the entropy of feature usage, absolute"),
}

_DATA: dict[str, dict[str, Any]] = {
    "shift": {"choices": ("rotation", "colour"), "help": "how mnist's domains differ (rotation)"},
    "root": {"metavar": "DIR", "help": "where a named data set lies (data)"},
    "limit": {"type": int, "help": "most examples of a class in a domain, of a set on disk (all)"},
    "ways": {"type": int, "help": "classes of a task (5, or all if there are fewer)"},
    "held_out": {"metavar": "NAME", "help": "domain left out of training, '' for none (the last)"},
    "test_classes": {"metavar": "NAME", "nargs": "+", "help": "classes for test tasks only (none)"},
}


def add_command(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    train = commands.add_parser(
        "train",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
        help="train with dense and with sparse heads, and compare",
        description="Train a backbone with ridge heads (dense) and one with group-sparse heads "
        "(sparse), alike in everything else, and compare them on fresh test tasks.",
    )
    _add_data_options(train)
    _add_options(train)
    train.set_defaults(command=_train)


def file_options() -> dict[str, Any]:
    """The options that a file may set, under their names with underscores, and their defaults."""
    parser = argparse.ArgumentParser()
    _add_data_options(parser)
    _add_options(parser)
    return dict.fromkeys(_DATA) | vars(parser.parse_args([]))


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    names = ", ".join((*BUILT_IN, *ON_DISK))
    text = f"{names}, or a folder with images as <domain>/<class>/<image>"
    add("--data", metavar="NAME|DIR", default="mnist", help=text)
    for name, how in _DATA.items():
        add(_flag(name), default=argparse.SUPPRESS, **how)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    for field in fields(Recipe):
        kind, text = type(field.default), field.metadata["help"]
        add(_flag(field.name), type=kind, default=field.default, help=text)
    for level, (strength, text) in _STRENGTHS.items():
        add(f"--{level}", type=float, default=strength, help=text)
    add("--loss", choices=("squared", "multinomial"), default="squared", help="of the heads")
    add(
        "--hypergradient",
        choices=("implicit", "detached", "unrolled"),
        default="implicit",
        help="how the query loss reaches the support features",
    )
    text = "samples of a class in few-shot evaluations"
    add("--shots", metavar="K", type=int, nargs="+", default=[1, 5, 10], help=text)
    add("--threads", type=int, default=1, help="CPU threads; this small, more do not pay")
    add("--out", type=Path, default=Path("runs/train"), help="folder for checkpoints and report")
    add("--resume", action="store_true", help="go on from the checkpoints in that folder")
    text = "TOML file of these options, without the dashes; those given here win"
    add("--config", metavar="FILE", default=argparse.SUPPRESS, help=text)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _train(args: argparse.Namespace) -> None:
    from sparsedis_kernels.training.loop import compare
    from sparsedis_kernels.training.report import write_report

    recipe = Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})
    set_threads(args.threads)
    if args.resume and not list(args.out.glob("*.pt")):
        raise ValueError(f"--resume: there is no checkpoint in {args.out}")
    heads = _heads(args)  # before the data, which may take minutes to encode
    arms = compare(_source(args), recipe, heads, args.out, args.resume, args.shots)
    print(_table(arms))
    numbers = write_report(arms, args.out)
    print(f"report: {numbers.with_suffix('.html')}, numbers: {numbers}")


def _source(args: argparse.Namespace) -> TaskSource:
    from sparsedis_kernels.data import load

    options = {name: getattr(args, name) for name in _DATA if name in args}
    if options.get("held_out") == "":
        options["held_out"] = None
    return load(args.data, **options)


def _heads(args: argparse.Namespace) -> dict[str, SparseHeads]:
    from sparsedis_kernels.nn import SparseHeads
    from sparsedis_kernels.penalty import Penalty

    sparse = Penalty(**{level: getattr(args, level) for level in _STRENGTHS})
    penalties = {"dense": Penalty(ridge=args.ridge), "sparse": sparse}
    return {
        name: SparseHeads(penalty, loss=args.loss, relative=True, hypergradient=args.hypergradient)
        for name, penalty in penalties.items()
    }


def _table(arms: Mapping[str, Arm]) -> str:
    from sparsedis_kernels.training.report import table_rows

    rows = [("", list(arms)), *table_rows(arms)]
    width = max(42, *(len(name) for name, _ in rows))
    return "\n".join(f"{name:{width}}" + "".join(f"{c:>16}" for c in cells) for name, cells in rows)
