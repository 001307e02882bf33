"""Do sparse heads make an encoder's codes align with the factors behind the data?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sparsedis_kernels.evidence.claims import Check, Claim
from sparsedis_kernels.evidence.experiment import Experiment, Results
from sparsedis_kernels.evidence.representation import Setting, measure

_RIDGE = {"ridge": 1e-4}
_KEPT = Setting(relative=False, pool=100, kept=True, tasks=100, samples=8)
_ONE_STEP: dict[str, Any] = {"hypergradient": "unrolled", "unrolled_steps": 1}
_IMPLICIT: dict[str, Any] = {"hypergradient": "implicit"}
_NONE = "M = 12: l1 .1"
_LITTLE, _MUCH = f"{_NONE}, sharing .03", f"{_NONE}, sharing .3"
_NONE_IMPLICIT, _LITTLE_IMPLICIT = "M = 12: l1 .3, implicit", "M = 12: l1 .3, sharing .03, implicit"
_QUICK = ("ridge", "l1 .1", "l1 .1, dense tasks", "rho .5: l1 .1", "rho .5: l1 .1, one step")
_QUICK_STEPS = {"mixed": 1000, "scenes": 300}
_PANELS = 8  # heatmaps in a row


def _l1(strength: float, **changes: Any) -> Setting:
    return Setting(penalty={"l1": strength}, **changes)


def _ridge(strength: float = 1e-4, **changes: Any) -> Setting:
    return Setting(penalty={"ridge": strength}, hypergradient="implicit", **changes)


def _mixed() -> dict[str, Setting]:
    """Inputs mixed by a network, independent factors."""
    group = {"C = 3: group .03": 0.03, "C = 3: group .1": 0.1, "C = 3: group .3": 0.3}
    return {
        "ridge": _ridge(),
        "ridge .1": _ridge(0.1),
        "ridge 1": _ridge(1.0),
        "ridge, detached": Setting(penalty=_RIDGE),
        **_over_strengths("l1"),
        "C = 3: ridge": _ridge(outputs=3),
        "C = 3: l1 .1": _l1(0.1, outputs=3),
        **{name: Setting(penalty={"group": s}, outputs=3) for name, s in group.items()},
        "C = 3: group .3, implicit": Setting(penalty={"group": 0.3}, outputs=3, **_IMPLICIT),
        "l1 .1, dense tasks": _l1(0.1, dense=True),
        "l1 .1, 12 tasks": _l1(0.1, pool=12),
        "l1 .1, 100 tasks": _l1(0.1, pool=100),
        "kept, l1 .07": replace(_KEPT, penalty={"l1": 0.07}),
        "kept, ridge": replace(_KEPT, penalty=_RIDGE),
        "l1 .1, one step": _l1(0.1, **_ONE_STEP),
    }


def _over_strengths(prefix: str, **changes: Any) -> dict[str, Setting]:
    """l1 heads over three strengths, with either gradient."""
    strengths = {f"{prefix} .03": 0.03, f"{prefix} .1": 0.1, f"{prefix} .3": 0.3}
    return {
        **{name: _l1(s, **changes) for name, s in strengths.items()},
        **{f"{name}, implicit": _l1(s, **changes, **_IMPLICIT) for name, s in strengths.items()},
    }


def _correlated() -> dict[str, Setting]:
    half: dict[str, Any] = {"correlation": 0.5}
    high: dict[str, Any] = {"correlation": 0.9}
    return {
        "rho .5: ridge": _ridge(**half),
        **_over_strengths("rho .5: l1", **half),
        "rho .5: l1 .1, one step": _l1(0.1, **half, **_ONE_STEP),
        "rho .9: ridge": _ridge(**high),
        "rho .9: ridge, split": _ridge(**high, split=True),
        **_over_strengths("rho .9: l1", **high),
        "rho .9: l1 .1, split": _l1(0.1, **high, split=True),
        "rho .9, C = 3: ridge": _ridge(**high, outputs=3),
        "rho .9, C = 3: group .1": Setting(penalty={"group": 0.1}, outputs=3, **high),
    }


def _wide(prefix: str, **changes: Any) -> dict[str, Setting]:
    """Twice as many features as factors, where sharing has something to prune."""
    base = {"features": 12, **changes}
    strengths = {f"{prefix}l1 .1": 0.0, f"{prefix}l1 .1, sharing .03": 0.03}
    return {
        f"{prefix}ridge": _ridge(**base),
        **{name: _shared(0.1, s, **base) for name, s in strengths.items()},
    }


def _shared(l1: float, sharing: float, **changes: Any) -> Setting:
    return Setting(penalty={"l1": l1, "sharing": sharing}, **changes)


def _wides() -> dict[str, Setting]:
    implicit: dict[str, Any] = {"features": 12, **_IMPLICIT}
    return {
        **_wide("M = 12: "),
        _MUCH: _shared(0.1, 0.3, features=12),
        _NONE_IMPLICIT: _l1(0.3, **implicit),
        _LITTLE_IMPLICIT: _shared(0.3, 0.03, **implicit),
        **_wide("rho .9, M = 12: ", correlation=0.9),
    }


def _scenes() -> dict[str, Setting]:
    base: dict[str, Any] = {"world": "scenes", "tasks": 8, "steps": 600}
    arms = {}
    for name, rho in (("scenes", 0.0), ("scenes, rho .5", 0.5), ("scenes, rho .9", 0.9)):
        arms[f"{name}: ridge"] = _ridge(**base, correlation=rho)
        arms[f"{name}: l1 .1"] = _l1(0.1, **base, correlation=rho)
        arms[f"{name}: l1 .3, implicit"] = _l1(0.3, **base, correlation=rho, **_IMPLICIT)
    arms["scenes, C = 3: ridge"] = _ridge(**base, outputs=3)
    arms["scenes, C = 3: group .1"] = Setting(penalty={"group": 0.1}, outputs=3, **base)
    return arms | _wide("scenes, M = 12: ", **base)


def _settings(quick: bool) -> dict[str, Setting]:
    arms = {**_mixed(), **_correlated(), **_wides(), **_scenes()}
    if not quick:
        return arms
    chosen = {*_QUICK, "scenes: ridge", "scenes: l1 .1"} | {
        a for a in arms if a.startswith("M = 12")
    }
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


def _pruned(sentence: str, label: str, without: str) -> Claim:
    checks = (
        Check((label, "effective_features"), "<", (without, "effective_features"), by=2.0),
        Check((label, "mcc"), "near", (without, "mcc"), by=0.02),
        Check((label, "r2_ridge"), "near", (without, "r2_ridge"), by=0.01),
    )
    return Claim(f"{sentence}: exp(H) falls by 2, alignment and accuracy stay", checks)


_CLAIMS = [
    _aligned("l1 heads align codes with factors, at equal accuracy", "l1 .1", "ridge", 0.97),
    _aligned("so does the implicit gradient at .3", "l1 .3, implicit", "ridge", 0.97),
    _aligned("so do group heads on three outputs", "C = 3: group .1", "C = 3: ridge", 0.97),
    _aligned("so do group heads at .03", "C = 3: group .03", "C = 3: ridge", 0.97),
    _aligned("so do group heads at .3", "C = 3: group .3", "C = 3: ridge", 0.97),
    _aligned(
        "so do group heads at .3 with the implicit gradient",
        "C = 3: group .3, implicit", "C = 3: ridge", 0.97,
    ),
    _aligned("so do kept heads, moved by prox steps", "kept, l1 .07", "kept, ridge", 0.9),
    _aligned("correlation .5 changes little", "rho .5: l1 .1", "rho .5: ridge", 0.95),
    _aligned(
        "at correlation .9 the split into support and query still aligns codes",
        "rho .9: l1 .1, split", "rho .9: ridge, split", 0.9,
    ),
    _aligned("rendered scenes: the same", "scenes: l1 .1", "scenes: ridge", 0.95),
    _aligned("so at correlation .5", "scenes, rho .5: l1 .1", "scenes, rho .5: ridge", 0.9),
    _aligned("so at correlation .9", "scenes, rho .9: l1 .1", "scenes, rho .9: ridge", 0.7),
    _aligned(
        "so do group heads on three outputs of scenes",
        "scenes, C = 3: group .1", "scenes, C = 3: ridge", 0.95,
    ),
    _lower("ridge heads align no more with the detached gradient", "ridge, detached", "l1 .1"),
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
    _pruned("with M = 12 a little sharing prunes duplicates", _LITTLE, _NONE),
    _pruned("so with the implicit gradient at .3", _LITTLE_IMPLICIT, _NONE_IMPLICIT),
    _pruned(
        "so on scenes", "scenes, M = 12: l1 .1, sharing .03", "scenes, M = 12: l1 .1"
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
