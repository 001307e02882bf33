"""Lasso and ridge on features that are disentangled or mixed, after Lachapelle et al. (ICML 2023).

What is shown there as a figure: where a target depends on few features, sparse regression needs
fewer samples than ridge, but only if the features are not mixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsedis_kernels.evidence.claims import Check, Claim
from sparsedis_kernels.evidence.experiment import Experiment, Results
from sparsedis_kernels.evidence.model_selection import fit_lasso, fit_ridge
from sparsedis_kernels.ops import HeadsFit

_M = 100
_NOISE = 0.04  # variance, where the signal's is 1
_SAMPLES = (25, 50, 75, 100, 125, 150)
_RELEVANT = (5, 20, 80)
_LASSOS = ("lasso", "lasso_mixed")
_LINES = {
    "lasso": "lasso, disentangled",
    "lasso_mixed": "lasso, mixed",
    "ridge": "ridge (either)",
}


@dataclass(frozen=True)
class Setting:
    """One point: `tasks` tasks of `samples` samples, each with `relevant` of the 100 features."""

    relevant: int
    samples: int
    tasks: int


def _label(relevant: int, samples: int) -> str:
    return f"{relevant} %, n = {samples}"


def _settings(quick: bool) -> dict[str, Setting]:
    tasks = 40 if quick else 200
    return {_label(k, n): Setting(k, n, tasks) for k in _RELEVANT for n in _SAMPLES}


def _measure(setting: Setting, seed: int) -> dict[str, Any]:
    """Mean population R^2 over tasks, and its standard deviation over tasks, of each estimator."""
    x, y, weight = _draw(setting, torch.Generator().manual_seed(seed))
    rotation = _rotation(torch.Generator().manual_seed(seed + 1_000_000))
    scores = {
        "lasso": _score(fit_lasso(x, y), weight),
        "lasso_mixed": _score(fit_lasso(x @ rotation, y), weight @ rotation),
        "ridge": _score(fit_ridge(x, y), weight),
    }
    means = {name: score.mean().item() for name, score in scores.items()}
    return means | {f"{name}_task_sd": score.std().item() for name, score in scores.items()}


def _draw(setting: Setting, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (T, n, M), targets (T, n, 1) and weights (T, M) of norm 1 at random places."""
    place = torch.rand(setting.tasks, _M, generator=generator).argsort(1)
    weight = torch.randn(setting.tasks, _M, generator=generator) * (place < setting.relevant)
    weight = torch.nn.functional.normalize(weight, dim=1)
    x = torch.randn(setting.tasks, setting.samples, _M, generator=generator)
    noise = torch.randn(setting.tasks, setting.samples, 1, generator=generator)
    return x, x @ weight[..., None] + _NOISE**0.5 * noise, weight


def _rotation(generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix (M, M)."""
    return torch.linalg.qr(torch.randn(_M, _M, generator=generator)).Q


def _score(fit: HeadsFit, weight: Tensor) -> Tensor:
    """R^2 on the law of the data, exactly: x is N(0, I), (T,)."""
    error = (fit.weight[..., 0] - weight).square().sum(1) + fit.bias[:, 0].square()
    return 1 - (error + _NOISE) / (1 + _NOISE)


def _above(relevant: int, samples: tuple[int, ...], key: str, other: str) -> list[Check]:
    labels = [_label(relevant, n) for n in samples]
    return [Check((label, key), ">", (label, other)) for label in labels]


def _claims() -> list[Claim]:
    later, last = _SAMPLES[1:], _label(80, 150)
    few = _above(5, later, "lasso", "ridge") + _above(5, later, "ridge", "lasso_mixed")
    gain = [
        Check((_label(fewer, n), "lasso"), ">", (_label(more, n), "lasso"))
        for fewer, more in ((5, 20), (20, 80))
        for n in later
    ]
    many = [c for other in _LASSOS for c in _above(80, _SAMPLES[:3], "ridge", other)]
    level = [Check((last, key), "near", (last, "ridge"), by=0.01) for key in _LASSOS]
    mixed = [c for k in _RELEVANT for c in _above(k, _SAMPLES[:4], "ridge", "lasso_mixed")]
    return [
        Claim("5 % relevant, n >= 50: lasso, disentangled > ridge > lasso, mixed", few),
        Claim("n >= 50: lasso on disentangled features gains from sparsity, 5 > 20 > 80 %", gain),
        Claim("80 % relevant, n <= 75: ridge is above either lasso", many),
        Claim("80 % relevant, n = 150: either lasso is within .01 of ridge", level),
        Claim("n <= 100: ridge is above lasso on mixed features, however sparse the task", mixed),
    ]


def _draw_lines(figure: Any, results: Results) -> None:
    """A panel for each sparsity: R^2 over the number of samples, bars: sd over seeds."""
    figure.set_size_inches(10, 3.4)
    panels = figure.subplots(1, len(_RELEVANT), sharey=True, squeeze=False)[0]
    for axes, relevant in zip(panels, _RELEVANT, strict=True):
        for key, name in _LINES.items():
            values = np.array([results.values(_label(relevant, n), key) for n in _SAMPLES])
            axes.errorbar(_SAMPLES, values.mean(1), values.std(1), marker="o", label=name)
        axes.set(title=f"{relevant} of {_M} features relevant", xlabel="samples n", xticks=_SAMPLES)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("population R²")
    panels[-1].legend()


EXPERIMENT = Experiment(
    about=f"Population R² of a linear task with M = {_M} independent features, some of them "
    f"relevant, noise variance {_NOISE:g} of a signal of 1; mean over the tasks of a seed (200, or "
    "40 with --quick). Mixed: the features rotated by a random orthogonal matrix, to which ridge "
    "is blind. Lasso's strength by 5-fold cross-validation, ridge's by exact leave-one-out.",
    columns=_LINES,
    settings=_settings,
    measure=_measure,
    claims=_claims(),
    draw=_draw_lines,
)
