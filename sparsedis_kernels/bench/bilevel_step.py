"""One step of bilevel training: a backbone, heads of an episode, and the backbone's gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sparsedis_kernels.bench.case import (
    Bar,
    Call,
    Case,
    Job,
    Provider,
    bytes_of,
    close_to,
    randn,
    require_native,
)
from sparsedis_kernels.bench.heads import MOVE, Fit, at_share, loosest_setting
from sparsedis_kernels.bench.peers import fista
from sparsedis_kernels.data import ShapeTasks
from sparsedis_kernels.ops import fit_heads
from sparsedis_kernels.penalty import Penalty
from sparsedis_kernels.training.backbone import Backbone
from sparsedis_kernels.training.episodes import Episode, sample_episode

TASKS, FEW = 256, 4
SAMPLES, FEATURES = 50, 128  # samples of the support, and as many of the query
SHARE, TOL = 0.1, 1e-4  # of lambda_max; the relative duality gap
TOLERANCE = 0.1  # of gradients, which at that gap may be off by some percents
PEER, NO_HEADS = "FISTA, implicit function", "no heads"
TIMES, BACKBONE = 5.0, 0.75  # as fast as with the peer; the backbone's share of the step

Solve = Callable[[Fit, Tensor], Tensor]  # weights (T, M, C), differentiable in the features


@dataclass(frozen=True)
class Step:
    """What a step starts from.

    Attributes:
        backbone: in training mode.
        episode: images and targets of the support and the query.
        fit: of the support's features. It starts from the solution before these moved by a
            percent, as where a training goes on with its tasks.
        cotangent: the gradient of the query's loss in all features, (T, n, M).
    """

    backbone: Backbone
    episode: Episode
    fit: Fit
    cotangent: Tensor


def cases(op: str, device_type: str, quick: bool) -> Iterator[Case]:
    """Group-sparse heads on the features of rendered scenes."""
    providers: dict[str, Provider] = {"ours": ours, PEER: by_fista, NO_HEADS: without_heads}
    bars = (Bar(TIMES, (PEER,)), Bar(BACKBONE, (NO_HEADS,)))
    for T in (FEW,) if quick else (FEW, TASKS):
        where = (op, f"group {SHARE} n={SAMPLES}", (T, FEATURES, ShapeTasks.n_outputs), "both")
        yield Case(*where, partial(_setup, T), providers, bars=bars)


def ours(step: Step) -> Call:
    """The step with this package's heads."""
    require_native("fit_heads", step.episode.x.device)
    return lambda: gradients(step, _by_ours)


def by_fista(step: Step) -> Call:
    """The step with the fastest heads that PyTorch alone gives: see `peers.fista`."""
    fit = step.fit
    count = int(loosest_setting(fit, lambda c: fista.solution(fit, int(c)), 1, 1.25))

    def solve(fit: Fit, z: Tensor) -> Tensor:
        return fista.ImplicitHeads.apply(z, fit.y, fit, count)

    return lambda: gradients(step, solve)


def without_heads(step: Step) -> Call:
    """The backbone alone, forward and backward: what no heads could be faster than."""
    return lambda: pulled_back(step, step.backbone(step.episode.x), step.cotangent)


def gradients(step: Step, solve: Solve) -> Tensor:
    """The gradient of the query's loss in all parameters of the backbone, one vector."""
    z = step.backbone(step.episode.x)
    leaf = z.detach().requires_grad_()
    return pulled_back(step, z, torch.autograd.grad(query_loss(step, leaf, solve), leaf)[0])


def pulled_back(step: Step, z: Tensor, cotangent: Tensor) -> Tensor:
    """The cotangent of the features pulled back to the backbone's parameters, one vector."""
    parts = torch.autograd.grad(z, list(step.backbone.parameters()), cotangent)
    return torch.cat([part.flatten() for part in parts])


def query_loss(step: Step, z: Tensor, solve: Solve) -> Tensor:
    """Half the mean square of the heads' errors on the query."""
    (z_support, z_query), (y_support, y_query) = map(step.episode.parts, (z, step.episode.y))
    weight = solve(replace(step.fit, z=z_support.detach()), z_support)
    bias = y_support.mean(1, keepdim=True) - z_support.mean(1, keepdim=True) @ weight
    return (z_query @ weight + bias - y_query).square().mean() / 2


def _by_ours(fit: Fit, z: Tensor) -> Tensor:
    return fit_heads(z, fit.y, fit.penalty, init=fit.init, tol=fit.tol).weight


def _setup(T: int, device: torch.device) -> Job:
    source, generator = ShapeTasks(), torch.Generator().manual_seed(0)
    x, y, n_support = sample_episode(source, T, (SAMPLES, SAMPLES), generator)
    episode = Episode(x.to(device), y.to(device), n_support)
    backbone = Backbone(source.input_shape, FEATURES).to(device)
    z = backbone(episode.x).detach()
    support, targets = (episode.parts(v)[0].contiguous() for v in (z, episode.y))
    fit = at_share(Fit(support, targets, Penalty(group=1.0), TOL), SHARE)
    before = support * (1 + MOVE * randn(support.shape, device))
    fit = replace(fit, init=_by_ours(fit, before))
    step = Step(backbone, episode, fit, torch.empty(()))
    leaf, exact = z.double().requires_grad_(), _exact(step)
    (cotangent,) = torch.autograd.grad(query_loss(exact, leaf, _by_ours), leaf)
    expected = pulled_back(exact, exact.backbone(exact.episode.x), cotangent)
    check = close_to(expected, TOLERANCE)
    return Job(replace(step, cotangent=cotangent.float()), check, bytes_of(episode.x))


def _exact(step: Step) -> Step:
    """The step in float64, its heads solved to rounding."""
    x, y, n_support = step.episode
    fit = replace(step.fit.double(), init=None, tol=1e-12)
    episode = Episode(x.double(), y.double(), n_support)
    return replace(step, backbone=deepcopy(step.backbone).double(), episode=episode, fit=fit)
