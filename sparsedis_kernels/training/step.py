"""The bilevel problem of one episode: heads fitted to the support, judged on the query."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from sparsedis_kernels.data.tasks import Kind
from sparsedis_kernels.nn import SparseHeads
from sparsedis_kernels.ops import HeadsFit
from sparsedis_kernels.ops._samples import loss_index
from sparsedis_kernels.reference.losses import LOSSES
from sparsedis_kernels.training.episodes import Episode


class Outcome(NamedTuple):
    """What the T tasks of an episode say of a backbone."""

    loss: Tensor  # 0-dim, the heads' loss on the query, averaged; differentiable
    score: Tensor  # (T,), query accuracy, or R^2 for regression
    fit: HeadsFit


def bilevel_step(backbone: nn.Module, heads: SparseHeads, episode: Episode, kind: Kind) -> Outcome:
    """Fit heads to the support features and judge them on the query."""
    z_support, z_query = episode.parts(backbone(episode.x))
    y_support, y_query = episode.parts(episode.y)
    return judge(heads, (z_support, y_support), (z_query, y_query), kind)


def judge(
    heads: SparseHeads,
    support: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
    kind: Kind,
) -> Outcome:
    """Fit heads to features and targets of the support and judge them on those of the query.

    The loss is the same inside and outside, which leaves no output scale to choose. For
    classification targets are one-hot, and the class is the largest output.
    """
    z_query, y_query = query
    fit = heads(*support)
    prediction = heads.predict(fit, z_query)  # (T, n, C)
    loss = LOSSES[loss_index("judge", heads.loss)].divergence(y_query, prediction).mean()
    return Outcome(loss, _score(prediction.detach(), y_query, kind), fit)


def _score(prediction: Tensor, y: Tensor, kind: Kind) -> Tensor:
    if kind == "classification":
        return (prediction.argmax(2) == y.argmax(2)).float().mean(1)
    residual = (prediction - y).square().sum((1, 2))
    return 1 - residual / (y - y.mean(1, keepdim=True)).square().sum((1, 2))
