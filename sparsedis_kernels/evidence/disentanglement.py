"""Do sparse heads make an encoder's codes align with the factors behind the data?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sparsedis_kernels.evidence.claims import Check, Claim
from sparsedis_kernels.evidence.experiment import Experiment, Results
from sparsedis_kernels.evidence.representation import Setting, measure
from sparsedis_kernels.penalty import Penalty

_RIDGE = {"ridge": 1e-4}
_KEPT = Setting(relative=False, pool=100, kept=True, tasks=100, samples=8)
_ONE_STEP: dict[str, Any] = {"hypergradient": "unrolled", "unrolled_steps": 1}
_NONE = "M = 12: l1 .1"
_LITTLE, _MUCH = f"{_NONE}, sharing .03", f"{_NONE}, sharing .3"
_QUICK = ("ridge", "l1 .1", "l1 .1, dense tasks", "rho .5: l1 .1", "rho .5: l1 .1, one step")
_QUICK_STEPS = {"mixed": 1000, "scenes": 300}
_PANELS = 8  # heatmaps in a row


def _l1(strength: float, **changes: Any) -> Setting:
    return Setting(penalty={"l1": strength}, **changes)


def _ridge(strength: float = 1e-4, **changes: Any) -> Setting:
    return Setting(penalty={"ridge": strength}, hypergradient="implicit", **changes)


def _mixed() -> dict[str, Setting]:
    """Inputs mixed by a network, independent factors."""
    strengths = {"l1 .03": 0.03, "l1 .1": 0.1, "l1 .3": 0.3}
    implicit: dict[str, Any] = {"hypergradient": "implicit"}
    return {
        "ridge": _ridge(),
        "ridge .1": _ridge(0.1),
        "ridge 1": _ridge(1.0),
        **{name: _l1(s) for name, s in strengths.items()},
        **{f"{name}, implicit": _l1(s, **implicit) for name, s in strengths.items()},
        "C = 3: ridge": _ridge(outputs=3),
        "C = 3: l1 .1": _l1(0.1, outputs=3),
        "C = 3: group .1": Setting(penalty={"group": 0.1}, outputs=3),
        "l1 .1, dense tasks": _l1(0.1, dense=True),
        "l1 .1, 12 tasks": _l1(0.1, pool=12),
        "l1 .1, 100 tasks": _l1(0.1, pool=100),
        "kept, l1 .07": replace(_KEPT, penalty={"l1": 0.07}),
        "kept, ridge": replace(_KEPT, penalty=_RIDGE),
        "l1 .1, one step": _l1(0.1, **_ONE_STEP),
    }


def _correlated() -> dict[str, Setting]:
    half: dict[str, Any] = {"correlation": 0.5}
    high: dict[str, Any] = {"correlation": 0.9}
    return {
        "rho .5: ridge": _ridge(**half),
        "rho .5: l1 .1": _l1(0.1, **half),
        "rho .5: l1 .1, one step": _l1(0.1, **half, **_ONE_STEP),
        "rho .9: ridge": _ridge(**high),
        "rho .9: ridge, split": _ridge(**high, split=True),
        "rho .9: l1 .1": _l1(0.1, **high),
        "rho .9: l1 .1, split": _l1(0.1, **high, split=True),
        "rho .9: l1 .3, implicit": _l1(0.3, **high, hypergradient="implicit"),
    }


def _wide() -> dict[str, Setting]:
    """Twice as many features as factors, where sharing has something to prune."""
    arms = {"M = 12: ridge": _ridge(features=12), _NONE: _l1(0.1, features=12)}
    if "sharing" in Penalty.__dataclass_fields__:
        for label, strength in ((_LITTLE, 0.03), (_MUCH, 0.3)):
            arms[label] = Setting(penalty={"l1": 0.1, "sharing": strength}, features=12)
    return arms


def _scenes() -> dict[str, Setting]:
    arms = {}
    for name, rho in (("scenes", 0.0), ("scenes, rho .5", 0.5)):
        base: dict[str, Any] = {"world": "scenes", "correlation": rho, "tasks": 8, "steps": 600}
        arms[f"{name}: ridge"] = _ridge(**base)
        arms[f"{name}: l1 .1"] = _l1(0.1, **base)
        arms[f"{name}: l1 .3, implicit"] = _l1(0.3, **base, hypergradient="implicit")
    return arms


def _settings(quick: bool) -> dict[str, Setting]:
    arms = {**_mixed(), **_correlated(), **_wide(), **_scenes()}
    if not quick:
        return arms
    chosen = {*_QUICK, "scenes: ridge", "scenes: l1 .1"} | {a for a in arms if "M = 12" in a}
    return {a: replace(s, steps=_QUICK_STEPS[s.world]) for a, s in arms.items() if a in chosen}


def _aligned(sentence: str, sparse: str, dense: str, mcc: float, accuracy: float = 0.02) -> Claim:
    """Sparse heads reach an MCC, ridge heads stay .15 below, both as accurate."""
    checks = (
        Check((sparse, "mcc"), ">", mcc),
        Check((sparse, "mcc"), ">", (dense, "mcc"), by=0.15),
        Check((sparse, "dci_gbt"), ">", (dense, "dci_gbt"), by=0.15),
        Check((sparse, "r2_ridge"), "near", (dense, "r2_ridge"), by=accuracy),
    )
    return Claim(sentence, checks)


def _lower(sentence: str, label: str, than: str, by: float = 0.15) -> Claim:
    return Claim(sentence, (Check((label, "mcc"), "<", (than, "mcc"), by=by),))


_CLAIMS = [
    _aligned("l1 heads align codes with factors, at equal accuracy", "l1 .1", "ridge", 0.97),
    _aligned("so does the implicit gradient at .3", "l1 .3, implicit", "ridge", 0.97),
    _aligned("so do group heads on three outputs", "C = 3: group .1", "C = 3: ridge", 0.97),
    _aligned("so do kept heads, moved by prox steps", "kept, l1 .07", "kept, ridge", 0.9),
    _aligned("correlation .5 changes little", "rho .5: l1 .1", "rho .5: ridge", 0.95),
    _aligned(
        "at correlation .9 the split into support and query still aligns codes",
        "rho .9: l1 .1, split", "rho .9: ridge, split", 0.9,
    ),
    _aligned("rendered scenes: the same", "scenes: l1 .1", "scenes: ridge", 0.95),
    _aligned("so at correlation .5", "scenes, rho .5: l1 .1", "scenes, rho .5: ridge", 0.9),
    _lower("control: tasks that depend on all factors align less", "l1 .1, dense tasks", "l1 .1"),
    _lower("control: 12 tasks are too few", "l1 .1, 12 tasks", "l1 .1", 0.05),
    _lower("control: a stronger ridge is no substitute (.1)", "ridge .1", "l1 .1"),
    _lower("control: a stronger ridge is no substitute (1)", "ridge 1", "l1 .1"),
    _lower(
        "control: one solver step is not enough where factors correlate (.5)",
        "rho .5: l1 .1, one step", "rho .5: l1 .1", 0.1,
    ),
    _lower(
        "control: one solver step is not enough where factors are independent",
        "l1 .1, one step", "l1 .1", 0.1,
    ),
    _lower("at .03 the implicit gradient aligns less", "l1 .03, implicit", "l1 .03"),
    _lower("at .1 the implicit gradient aligns less", "l1 .1, implicit", "l1 .1", 0.05),
    Claim(
        "with M = 12 a little sharing prunes duplicates: exp(H) falls by 2, alignment stays",
        (
            Check((_LITTLE, "effective_features"), "<", (_NONE, "effective_features"), by=2.0),
            Check((_LITTLE, "mcc"), "near", (_NONE, "mcc"), by=0.02),
            Check((_LITTLE, "r2_ridge"), "near", (_NONE, "r2_ridge"), by=0.01),
        ),
    ),
    Claim(
        "too much sharing costs accuracy: effectively fewer features are left than factors",
        (
            Check((_MUCH, "effective_features"), "<", 6.0),
            Check((_MUCH, "r2_ridge"), "<", (_NONE, "r2_ridge"), by=0.03),
        ),
    ),
]  # fmt: skip


def _draw_heatmaps(figure: Any, results: Results) -> None:
    """|correlation| of codes (rows) and factors (columns) of every arm, seed 0, codes matched."""
    from scipy.optimize import linear_sum_assignment

    rows = -(-len(results.rows) // _PANELS)
    figure.set_size_inches(1.7 * _PANELS, 2.0 * rows)
    panels = figure.subplots(rows, _PANELS, squeeze=False).flat
    for label, axes in zip(results.rows, panels, strict=False):
        correlation = results.values(label, "correlation")[0]  # (M, 6)
        codes, _ = linear_sum_assignment(correlation.T, maximize=True)[::-1]
        rest = [m for m in range(len(correlation)) if m not in codes]
        axes.imshow(correlation[[*codes, *rest]], vmin=0, vmax=1, cmap="magma", aspect="auto")
        axes.set_title(label, fontsize=7)
        axes.set(xticks=[], yticks=[])
    for axes in panels:  # those that are left
        axes.set_axis_off()


_ABOUT = """\
An encoder is trained on tasks that are linear in a random subset of six factors, with one kind
of heads. Are its codes the factors? `ridge`: ridge 1e-4, in effect least squares. `l1 s`: l1 of s
times lambda_max, with the detached gradient unless it says implicit, fitted anew to 16 fresh tasks
of 50 samples at each of 1,000 steps (scenes: 8 tasks, 600 steps); support = query unless it says
split. `kept`: the heads of 100 tasks are parameters. `C`: outputs of a task. `M`: features, 6 if
not said. `rho`: correlation of the factors in training. MCC, both variants of DCI (disentanglement
by boosted trees and by linear coefficients) and the R² of the factors read off linearly are on
independent factors, MCC (law) on the law of training. R² own and R² ridge: of 200 fresh tasks with
the arm's own heads and with least squares, which shows whether arms are equally accurate."""

EXPERIMENT = Experiment(
    about=_ABOUT,
    columns={
        "mcc": "MCC",
        "mcc_law": "MCC (law)",
        "dci_gbt": "DCI gbt",
        "dci_linear": "DCI linear",
        "informativeness": "R² factors",
        "r2_own": "R² own",
        "r2_ridge": "R² ridge",
        "features_per_task": "features a task",
        "effective_features": "exp(H)",
        "used_features": "used",
    },
    settings=_settings,
    measure=measure,
    claims=_CLAIMS,
    draw=_draw_heatmaps,
)
