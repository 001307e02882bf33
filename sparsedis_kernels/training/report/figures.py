"""The pictures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparsedis_kernels.data.extra import train_extra
from sparsedis_kernels.ops import feature_usage
from sparsedis_kernels.training.loop import Arm

_TASKS_SHOWN = 40
_WINDOW = 10  # steps of the running mean
_COLOURS = ("#4c72b0", "#dd8452")


def draw_figures(arms: Mapping[str, Arm], out: Path) -> dict[str, Path]:
    """Draw the pictures into the folder `out`, for two arms.

    Returns:
        The PNG file of each picture, by its title.

    Raises:
        ImportError: matplotlib is not installed.
    """
    with train_extra("draw_figures"):
        from matplotlib.figure import Figure
    figures = {
        "Training": ("curves", _curves, 6.0),
        "Weights of the test tasks": ("weights", _weights, 4.5),
        "Use of the features": ("usage", _usage, 4.5),
    }
    if all(arm.factors for arm in arms.values()):
        figures["Features and factors"] = ("factors", _importance, 4.5)
    files = {}
    for title, (name, draw, height) in figures.items():
        figure = Figure(figsize=(11, height), layout="constrained")
        draw(figure, arms)
        files[title] = out / f"{name}.png"
        figure.savefig(files[title], dpi=110)
    return files


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


def _importance(figure: Any, arms: Mapping[str, Arm]) -> None:
    """DCI's importance of each feature for each factor, columns scaled to sum 1."""
    found = {name: arm.factors for name, arm in arms.items() if arm.factors}
    for axes, (name, scores) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        importance = scores.dci.importance / scores.dci.importance.sum(0)  # (M, K)
        order = np.lexsort((-importance.max(1), importance.argmax(1)))
        image = axes.imshow(importance[order].T, aspect="auto", cmap="viridis_r", vmin=0, vmax=1)
        axes.set_yticks(range(len(scores.names)), scores.names)
        axes.set_title(f"{name}: DCI {scores.dci.disentanglement:.3f}, MCC {scores.mcc:.3f}")
        axes.set_xlabel("feature, by the factor it matters most to")
        figure.colorbar(image, ax=axes, label="share of the factor's importance")
