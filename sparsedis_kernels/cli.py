"""The command line: ``sparsedis train``, ``bench``, ``reproduce`` and ``env``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from sparsedis_kernels.bench import MODULES
from sparsedis_kernels.evidence import command as reproduce
from sparsedis_kernels.training.recipe import Recipe

# What needs torch is imported where it is used: --help should not wait for it.
if TYPE_CHECKING:
    import torch

    from sparsedis_kernels.data import TaskSource
    from sparsedis_kernels.nn import SparseHeads
    from sparsedis_kernels.training.loop import Arm

_STRENGTHS = {
    "l1": (0.0, "l1 strength, as a fraction of the one from which on all weights are 0"),
    "group": (0.4, "strength on (task, feature) groups, as such a fraction"),
    "shared": (0.0, "strength on features over all tasks, as such a fraction"),
    "ridge": (1.0, "ridge strength of both arms"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        The exit code: 0; 1 where a benchmark finds a wrong answer of ours; 2 where an argument or a
        missing package makes the command impossible.
    """
    args = _parser().parse_args(argv)
    try:
        return args.command(args) or 0
    except (ValueError, ImportError) as error:
        print(f"sparsedis: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sparsedis", description="Sparse multi-task learning.")
    commands = parser.add_subparsers(required=True, metavar="command")
    train = commands.add_parser(
        "train",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        help="train with dense and with sparse heads, and compare",
        description="Train a backbone with ridge heads (dense) and one with group-sparse heads "
        "(sparse), alike in everything else, and compare them on fresh test tasks.",
    )
    _add_train_options(train)
    train.set_defaults(command=_train)
    bench = commands.add_parser(
        "bench",
        help="time the ops against their peers",
        description="Time each op on this machine against the reference, PyTorch (eager, compiled, "
        "foreach, fused) and a copy of as many bytes. A wrong answer gets no time.",
    )
    _add_bench_options(bench)
    bench.set_defaults(command=_bench)
    reproduce.add_command(commands)
    env = commands.add_parser("env", help="show versions, libraries and what serves each op")
    env.set_defaults(command=_env)
    return parser


def _add_train_options(parser: argparse.ArgumentParser) -> None:
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


def _add_bench_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("ops", nargs="*", metavar="OP", help=f"{', '.join(MODULES)} (default: all of them)")
    add("--device", choices=("cpu", "cuda"), help="(default: cuda where there is one)")
    add("--quick", action="store_true", help="smallest size, few samples, no torch.compile")
    add("--threads", type=int, default=1, help="CPU threads (default: 1)")
    add("--save", type=Path, metavar="FILE.json", help="write the rows and the machine to a file")


def _train(args: argparse.Namespace) -> None:
    from sparsedis_kernels.training.loop import compare
    from sparsedis_kernels.training.report import write_report

    recipe = Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})
    _set_threads(args.threads)
    if args.resume and not list(args.out.glob("*.pt")):
        raise ValueError(f"--resume: there is no checkpoint in {args.out}")
    arms = compare(_source(args), recipe, _heads(args), args.out, resume=args.resume)
    print(_table(arms))
    print(f"report: {write_report(arms, args.out)}")


def _set_threads(threads: int) -> None:
    import torch

    if threads < 1:
        raise ValueError(f"--threads must be >= 1, got {threads}")
    torch.set_num_threads(threads)


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


def _bench(args: argparse.Namespace) -> int:
    from sparsedis_kernels.bench import measure, report

    if args.save and not args.save.parent.is_dir():
        raise ValueError(f"--save: there is no folder {args.save.parent}")
    _set_threads(args.threads)
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


def _env(args: argparse.Namespace) -> None:
    from sparsedis_kernels import backends
    from sparsedis_kernels.training.report import versions

    for name, version in versions().items():
        print(f"{name:24}{version}")
    library = backends.CPU_LIBRARY
    print(f"{'CPU library':24}{library.path or library.error}")
    print(f"\n{'op':24}{'device':8}{'backend':12}why no other")
    for op, device, backend, reason in backends.op_table():
        print(f"{op:24}{device:8}{backend:12}{reason}")


if __name__ == "__main__":
    sys.exit(main())
