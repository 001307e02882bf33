"""The bilevel problem of one episode: heads fitted to the support, judged on the query."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from sparsedis_kernels.data.tasks import Kind
from sparsedis_kernels.nn import SparseHeads
from sparsedis_kernels.ops import HeadsFit
from sparsedis_kernels.training.episodes import Episode


class Outcome(NamedTuple):
    """What the T tasks of an episode say of a backbone."""

    loss: Tensor  # 0-dim, half the mean squared query error, as inside; differentiable
    score: Tensor  # (T,), query accuracy, or R^2 for regression
    fit: HeadsFit


def bilevel_step(backbone: nn.Module, heads: SparseHeads, episode: Episode, kind: Kind) -> Outcome:
    """Fit heads to the support features and judge them on the query.

    Classification is least squares on one-hot targets, and the class is the largest output: the
    same loss inside and outside leaves no output scale to choose.
    """
    z_support, z_query = episode.parts(backbone(episode.x))
    y_support, y_query = episode.parts(episode.y)
    fit = heads(z_support, y_support)
    prediction = heads.predict(fit, z_query)  # (T, n, C)
    loss = (prediction - y_query).square().sum(2).mean() / 2
    return Outcome(loss, _score(prediction.detach(), y_query, kind), fit)


def _score(prediction: Tensor, y: Tensor, kind: Kind) -> Tensor:
    if kind == "classification":
        return (prediction.argmax(2) == y.argmax(2)).float().mean(1)
    residual = (prediction - y).square().sum((1, 2))
    return 1 - residual / (y - y.mean(1, keepdim=True)).square().sum((1, 2))
