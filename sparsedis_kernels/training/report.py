"""The report of a comparison: numbers as JSON, curves and usage as pictures."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sparsedis_kernels
from sparsedis_kernels import backends
from sparsedis_kernels.data.extra import train_extra
from sparsedis_kernels.ops import feature_usage
from sparsedis_kernels.training.loop import Arm

_TASKS_SHOWN = 40
_WINDOW = 10  # steps of the running mean
_COLOURS = ("#4c72b0", "#dd8452")


def versions() -> dict[str, str]:
    """Versions of the package and what it runs on, and the CPU kernels' instruction set."""
    return {
        "sparsedis_kernels": sparsedis_kernels.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "triton": _version("triton"),
        "instruction_set": backends.instruction_set(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def write_report(arms: Mapping[str, Arm], out: Path) -> Path:
    """Write ``report.json`` and its pictures to the folder `out`, for two arms.

    Returns:
        The path of ``report.json``: settings, versions, and for each arm its numbers.

    Raises:
        ValueError: a number is NaN or infinite, which JSON does not know.
        ImportError: matplotlib is not installed.
    """
    with train_extra("write_report"):
        from matplotlib.figure import Figure
    numbers = {name: _numbers(arm) for name, arm in arms.items()}
    report = {"settings": _settings(arms), "versions": versions(), "arms": numbers}
    (out / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    for name, draw in (("curves", _curves), ("weights", _weights), ("usage", _usage)):
        figure = Figure(figsize=(11, 6 if name == "curves" else 4.5), layout="constrained")
        draw(figure, arms)
        figure.savefig(out / f"{name}.png", dpi=110)
    return out / "report.json"


def _settings(arms: Mapping[str, Arm]) -> dict[str, Any]:
    run, heads = next(iter(arms.values())).run, {k: str(arm.run.heads) for k, arm in arms.items()}
    names = ("name", "kind", "n_outputs", "domains", "held_out")
    source = {name: getattr(run.source, name) for name in names}
    return {"recipe": asdict(run.recipe), "source": source, "heads": heads}


def _numbers(arm: Arm) -> dict[str, Any]:
    usage = feature_usage(arm.seen.weight)
    return {
        "seconds": arm.run.seconds,
        "seen": arm.seen.summary(),
        "held_out": arm.held_out and arm.held_out.summary(),
        "usage": usage.p.tolist(),
        "tasks_per_feature": usage.tasks_per_feature.tolist(),
        "history": arm.run.history,
        "validation": arm.run.validation,
    }


def _curves(figure: Any, arms: Mapping[str, Arm]) -> None:
    """The history, thin as it was and thick as a running mean, with the validations."""
    kind = next(iter(arms.values())).run.source.kind
    titles = {
        "loss": "query loss",
        "score": f"query {'R²' if kind == 'regression' else 'accuracy'} (dots: validation)",
        "features_per_task": "features per task",
        "effective_features": "effective features exp(H) over the tasks of a step",
    }
    for axes, (key, title) in zip(figure.subplots(2, 2).flat, titles.items(), strict=True):
        for colour, (name, arm) in zip(_COLOURS, arms.items(), strict=True):
            values = [step[key] for step in arm.run.history]
            window = min(_WINDOW, len(values))
            mean = np.convolve(values, np.full(window, 1 / window), "valid")
            axes.plot(range(1, len(values) + 1), values, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(range(window, len(values) + 1), mean, color=colour, linewidth=2, label=name)
            if key == "score":
                every = arm.run.recipe.check_every
                steps = [every * (k + 1) for k in range(len(arm.run.validation))]
                axes.plot(np.minimum(steps, len(values)), arm.run.validation, "o", color=colour)
        axes.set(title=title, xlabel="training step", ylim=(None if key == "score" else 0, None))
        axes.grid(alpha=0.3)
        axes.legend()


def _weights(figure: Any, arms: Mapping[str, Arm]) -> None:
    """Norm of every (task, feature) group, on one scale; exact zeros stay white."""
    top = max(arm.seen.weight[:_TASKS_SHOWN].norm(dim=2).max().item() for arm in arms.values())
    for axes, (name, arm) in zip(figure.subplots(1, len(arms)), arms.items(), strict=True):
        order = feature_usage(arm.seen.weight).p.argsort(descending=True)
        size = arm.seen.weight[:_TASKS_SHOWN, order].norm(dim=2).numpy()  # (T, M)
        size = np.ma.masked_equal(size, 0)
        image = axes.imshow(size, aspect="auto", cmap="viridis_r", vmin=0, vmax=top)
        used = arm.seen.summary()["features_per_task"]
        axes.set_title(f"{name}: {used:.1f} of {size.shape[1]} features per task")
        axes.set(xlabel="feature, most used first", ylabel="test task")
        figure.colorbar(image, ax=axes, label="norm of the feature's weights (white: exactly 0)")


def _usage(figure: Any, arms: Mapping[str, Arm]) -> None:
    """Each feature's share of all weight."""
    panels = figure.subplots(1, len(arms), sharey=True)
    for axes, colour, (name, arm) in zip(panels, _COLOURS, arms.items(), strict=True):
        p = feature_usage(arm.seen.weight).p.sort(descending=True).values
        axes.bar(range(1, len(p) + 1), p.tolist(), width=0.9, color=colour)
        axes.axhline(1 / len(p), color="black", linestyle="--", label="all features alike, 1/M")
        effective = arm.seen.summary()["effective_features"]
        axes.set_title(f"{name}: exp(H) = {effective:.1f} of {len(p)} features")
        axes.set(xlabel="feature, most used first", ylabel="share p of all weight")
        axes.grid(axis="y", alpha=0.3)
        axes.legend()
