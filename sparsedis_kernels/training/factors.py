"""How well a backbone's features recover known factors of variation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from sparsedis_kernels.data.tasks import KnownFactors
from sparsedis_kernels.metrics import DCI, dci, mcc
from sparsedis_kernels.training.evaluate import evaluation_mode

_INPUTS = 1000


class FactorScores(NamedTuple):
    """What the metrics say of features and factors."""

    names: tuple[str, ...]  # of the K factors
    dci: DCI
    mcc: float


@torch.no_grad()
def factor_scores(
    backbone: nn.Module, source: KnownFactors, generator: torch.Generator
) -> FactorScores:
    """DCI and MCC of the features of 1,000 fresh inputs, in evaluation mode.

    DCI takes the factors as numbers, so its trees are regressors, not the classifiers of the
    published protocol: these would take minutes.

    Raises:
        ImportError: scikit-learn or scipy is not installed.
    """
    x, factors = source.sample_inputs(_INPUTS, generator)
    with evaluation_mode(backbone):
        codes = backbone(x[None])[0]  # (N, M)
    return FactorScores(source.factor_names, dci(codes, factors.double()), mcc(codes, factors))
