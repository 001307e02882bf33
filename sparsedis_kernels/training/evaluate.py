"""How good a backbone and its heads are on fresh tasks, and how they use features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsedis_kernels.data.tasks import Kind
from sparsedis_kernels.nn import SparseHeads
from sparsedis_kernels.ops import feature_usage
from sparsedis_kernels.training.episodes import Episode
from sparsedis_kernels.training.step import Outcome, bilevel_step, judge


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
    with evaluation_mode(backbone):
        return _joined([bilevel_step(backbone, heads, episode, kind) for episode in episodes])


@torch.no_grad()
def few_shot(
    backbone: nn.Module, heads: SparseHeads, episodes: Iterable[Episode], shots: Sequence[int]
) -> dict[int, Evaluation]:
    """Few-shot adaptation: heads fitted to the first k support samples of each class.

    The features of an episode are computed once, frozen, and serve every k; so does its query.

    Args:
        backbone: gives the features; in evaluation mode meanwhile.
        heads: fitted anew to every task and k.
        episodes: classification episodes whose support is balanced, ``max(shots)`` samples a class.
        shots: the numbers k of support samples of a class.

    Returns:
        For every k of `shots` the evaluation over all tasks.
    """
    outcomes: dict[int, list[Outcome]] = {k: [] for k in shots}
    with evaluation_mode(backbone):
        for episode in episodes:
            z_support, z_query = episode.parts(backbone(episode.x))
            y_support, y_query = episode.parts(episode.y)
            for k, judged in outcomes.items():
                n = k * episode.y.shape[2]
                support = z_support[:, :n], y_support[:, :n]
                judged.append(judge(heads, support, (z_query, y_query), "classification"))
    return {k: _joined(judged) for k, judged in outcomes.items()}


@contextmanager
def evaluation_mode(backbone: nn.Module) -> Iterator[None]:
    """Put the backbone in evaluation mode, and then back."""
    training = backbone.training
    backbone.eval()
    try:
        yield
    finally:
        backbone.train(training)


def _joined(outcomes: Sequence[Outcome]) -> Evaluation:
    score = torch.cat([outcome.score for outcome in outcomes])
    return Evaluation(score, torch.cat([outcome.fit.weight for outcome in outcomes]))
