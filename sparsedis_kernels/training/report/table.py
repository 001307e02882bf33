"""The table of a comparison: one row a number, one column an arm."""

from __future__ import annotations

from collections.abc import Mapping

from sparsedis_kernels.training.evaluate import Evaluation
from sparsedis_kernels.training.loop import Arm

Rows = list[tuple[str, list[str]]]


def table_rows(arms: Mapping[str, Arm]) -> Rows:
    """Name and cells of every row, in the order of `arms`; ± is the standard error over tasks."""
    first = next(iter(arms.values()))
    source = first.run.source
    places = {"seen": "seen domains"}
    if source.held_out is not None:
        places["held_out"] = f"held out: {source.domains[source.held_out]}"
    score = "query accuracy" if source.kind == "classification" else "query R²"
    rows = []
    for name, place in places.items():
        rows.append((f"{score}, {place}", [_score(getattr(arm, name)) for arm in arms.values()]))
    for name, shots in first.few_shot.items():
        for k in shots:
            cells = [_score(arm.few_shot[name][k]) for arm in arms.values()]
            rows.append((f"{k}-shot accuracy, {places[name]}", cells))
    return [*rows, *_usage_rows(arms), *_factor_rows(arms), *_training_rows(arms)]


def _usage_rows(arms: Mapping[str, Arm]) -> Rows:
    seen = [arm.seen.summary() for arm in arms.values()]
    of = f"of {next(iter(arms.values())).run.recipe.features}"
    return [
        (f"features per task {of}", [f"{s['features_per_task']:.1f}" for s in seen]),
        (f"effective features exp(H) {of}", [f"{s['effective_features']:.1f}" for s in seen]),
        ("used features shared by 2+ tasks", [f"{s['shared_share']:.0%}" for s in seen]),
    ]


def _factor_rows(arms: Mapping[str, Arm]) -> Rows:
    scores = [arm.factors for arm in arms.values() if arm.factors is not None]
    if not scores:
        return []
    return [
        ("DCI disentanglement (trees)", [f"{s.dci.disentanglement:.3f}" for s in scores]),
        ("DCI completeness (trees)", [f"{s.dci.completeness:.3f}" for s in scores]),
        ("MCC of features and factors", [f"{s.mcc:.3f}" for s in scores]),
    ]


def _training_rows(arms: Mapping[str, Arm]) -> Rows:
    runs = [arm.run for arm in arms.values()]
    return [
        ("training steps", [str(len(run.history)) for run in runs]),
        ("seconds of training", [f"{run.seconds:.1f}" for run in runs]),
    ]


def _score(evaluation: Evaluation) -> str:
    numbers = evaluation.summary()
    return f"{numbers['score']:.3f} ± {numbers['standard_error']:.3f}"
