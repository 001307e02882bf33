"""The numbers of a comparison as plain values, for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sparsedis_kernels.data.tasks import describe
from sparsedis_kernels.ops import feature_usage
from sparsedis_kernels.training.factors import FactorScores
from sparsedis_kernels.training.loop import Arm
from sparsedis_kernels.training.report.versions import versions


def document(arms: Mapping[str, Arm]) -> dict[str, Any]:
    """Settings, versions, and for each arm its numbers."""
    run, heads = next(iter(arms.values())).run, {k: str(arm.run.heads) for k, arm in arms.items()}
    settings = {"recipe": asdict(run.recipe), "source": describe(run.source), "heads": heads}
    numbers = {name: _numbers(arm) for name, arm in arms.items()}
    return {"settings": settings, "versions": versions(), "arms": numbers}


def _numbers(arm: Arm) -> dict[str, Any]:
    usage = feature_usage(arm.seen.weight)
    return {
        "seconds": arm.run.seconds,
        "seen": arm.seen.summary(),
        "held_out": arm.held_out and arm.held_out.summary(),
        "few_shot": {
            place: {str(k): evaluation.summary() for k, evaluation in shots.items()}
            for place, shots in arm.few_shot.items()
        },
        "factors": arm.factors and _factors(arm.factors),
        "usage": usage.p.tolist(),
        "tasks_per_feature": usage.tasks_per_feature.tolist(),
        "history": arm.run.history,
        "validation": arm.run.validation,
    }


def _factors(scores: FactorScores) -> dict[str, Any]:
    dci = {**vars(scores.dci), "importance": scores.dci.importance.tolist()}
    return {"names": list(scores.names), "dci": dci, "mcc": scores.mcc}
