"""How good a backbone and its heads are on fresh tasks, and how they use features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsedis_kernels.data.tasks import Kind
from sparsedis_kernels.nn import SparseHeads
from sparsedis_kernels.ops import feature_usage
from sparsedis_kernels.training.episodes import Episode
from sparsedis_kernels.training.step import bilevel_step


class Evaluation(NamedTuple):
    """Query scores and heads of T tasks."""

    score: Tensor  # (T,), accuracy, or R^2 for regression
    weight: Tensor  # (T, M, C)

    def summary(self) -> dict[str, float]:
        """The mean score, its standard error over tasks, and how features are used."""
        score = self.score.double()
        return {
            "score": score.mean().item(),
            "standard_error": score.std(correction=0).item() / len(score) ** 0.5,
            **usage_numbers(self.weight),
        }


def usage_numbers(weight: Tensor) -> dict[str, float]:
    """Features per task, exp(H), and which share of the used features serves two tasks or more."""
    usage = feature_usage(weight.detach())
    return {
        "features_per_task": usage.features_per_task.double().mean().item(),
        "effective_features": usage.entropy.exp().item(),
        "shared_share": usage.shared_share.item(),
    }


@torch.no_grad()
def evaluate(
    backbone: nn.Module, heads: SparseHeads, episodes: Iterable[Episode], kind: Kind
) -> Evaluation:
    """Fit and judge heads on every episode, with the backbone in evaluation mode meanwhile."""
    training = backbone.training
    backbone.eval()
    outcomes = [bilevel_step(backbone, heads, episode, kind) for episode in episodes]
    backbone.train(training)
    score = torch.cat([outcome.score for outcome in outcomes])
    return Evaluation(score, torch.cat([outcome.fit.weight for outcome in outcomes]))
