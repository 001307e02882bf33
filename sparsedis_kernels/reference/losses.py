"""Losses of a head's scores, each l(scores; y) = A(scores) - <y, scores> up to a constant in y.

What a solver needs of a loss is the mean, A's gradient, whose residual against y is the loss's
gradient; the Hessian; and the divergence A(scores) + A*(q) - <q, scores> >= 0, which is the loss at
y = q minus the least it can be there. Rows are (T, n, C).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

ROUNDING = 1e-2  # of the sum of a distribution, in bfloat16
MAX_NEWTON_STEPS, MAX_HALVINGS = 100, 60
SMALL_DECREMENT = 1e-26  # twice what a step still gains; the bias is then exact to rounding
SMALLEST_CURVATURE = 1e-14  # of an output that a bias moves
CERTAIN_DECREMENT = 1e-12  # below it a full step descends, and differences of values are rounding


class Loss(ABC):
    """One loss.

    Attributes:
        name: what the public functions call it.
        curvature: a bound of the Hessian's eigenvalues, for every row.
    """

    name: str
    curvature: float

    @abstractmethod
    def mean(self, scores: Tensor) -> Tensor:
        """A's gradient, what the model says y should be on average: (T, n, C)."""

    @abstractmethod
    def curve(self, mean: Tensor, v: Tensor) -> Tensor:
        """A's Hessian where the mean is `mean`, applied to v: (T, n, C)."""

    @abstractmethod
    def divergence(self, q: Tensor, scores: Tensor) -> Tensor:
        """A(scores) + A*(q) - <q, scores> of every row: (T, n)."""

    def takes(self, y: Tensor) -> Tensor:
        """Whether the targets of a row are such as the loss is for: (T, n)."""
        return torch.ones(y.shape[:2], dtype=torch.bool, device=y.device)

    @abstractmethod
    def limit(self, y: Tensor, p: Tensor, fit_intercept: bool) -> Tensor:
        """What a bias tends to where no finite one is best, else 0: (T, 1, C)."""

    def determined(self, bias: Tensor, finite: Tensor) -> Tensor:
        """What the loss determines of a bias, or of its cotangent: (T, 1, C)."""
        return torch.where(finite, bias, 0)

    def bias_hessian(self, mean: Tensor, p: Tensor) -> Tensor:
        """sum_i p_i of the Hessians, the identity on what a bias does not move: (T, C, C)."""
        C = mean.shape[2]
        eye = torch.eye(C, dtype=mean.dtype, device=mean.device)
        columns = [(p * self.curve(mean, direction.expand_as(mean))).sum(1) for direction in eye]
        hessian = torch.stack(columns, 2) if C else mean.new_zeros(len(mean), 0, 0)
        still = hessian.diagonal(dim1=1, dim2=2) < SMALLEST_CURVATURE
        return hessian + torch.diag_embed(still.to(mean.dtype))


class Squared(Loss):
    """1/2 ||scores - y||^2."""

    name, curvature = "squared", 1.0

    def mean(self, scores: Tensor) -> Tensor:
        return scores

    def curve(self, mean: Tensor, v: Tensor) -> Tensor:
        return v

    def divergence(self, q: Tensor, scores: Tensor) -> Tensor:
        return (scores - q).square().sum(2) / 2

    def limit(self, y: Tensor, p: Tensor, fit_intercept: bool) -> Tensor:
        return y.new_zeros(len(y), 1, y.shape[2])


class Multinomial(Loss):
    """logsumexp(scores) - <y, scores>, y a distribution over classes.

    A class without weight in a task is not one of its classes: its bias is -inf.
    """

    name, curvature = "multinomial", 0.5

    def mean(self, scores: Tensor) -> Tensor:
        return scores.softmax(2)

    def curve(self, mean: Tensor, v: Tensor) -> Tensor:
        return mean * (v - (mean * v).sum(2, keepdim=True))

    def divergence(self, q: Tensor, scores: Tensor) -> Tensor:
        return relative_entropy(q, scores.log_softmax(2)).sum(2)

    def takes(self, y: Tensor) -> Tensor:
        """Whether a row is a distribution, but for rounding in the caller's dtype: (T, n)."""
        return (y >= 0).all(2) & ((y.sum(2) - 1).abs() < ROUNDING)

    def limit(self, y: Tensor, p: Tensor, fit_intercept: bool) -> Tensor:
        weight = (p * y).sum(1, keepdim=True)  # (T, 1, C)
        absent = (weight == 0) & (weight > 0).any(2, keepdim=True)
        return torch.where(absent, -torch.inf, 0.0)

    def determined(self, bias: Tensor, finite: Tensor) -> Tensor:
        """As `Loss.determined`: of sum 0, since a shift of all classes changes nothing."""
        share = finite / finite.sum(2, keepdim=True).clamp_min(1)
        bias = torch.where(finite, bias, 0)
        return bias - share * bias.sum(2, keepdim=True)

    def bias_hessian(self, mean: Tensor, p: Tensor) -> Tensor:
        """As `Loss.bias_hessian`, and the shift of all classes, which changes nothing, curved."""
        present = (mean.amax(1) > 0).to(mean.dtype)  # (T, C)
        return super().bias_hessian(mean, p) + present[:, :, None] * present[:, None, :]


class Logistic(Loss):
    """sum_c softplus(scores_c) - y_c scores_c, each y_c in [0, 1] by itself.

    With an intercept, an output that is 0 (or 1) throughout a task has the bias -inf (or inf).
    """

    name, curvature = "logistic", 0.25

    def mean(self, scores: Tensor) -> Tensor:
        return scores.sigmoid()

    def curve(self, mean: Tensor, v: Tensor) -> Tensor:
        return mean * (1 - mean) * v

    def divergence(self, q: Tensor, scores: Tensor) -> Tensor:
        one = relative_entropy(q, logsigmoid(scores))
        zero = relative_entropy(1 - q, logsigmoid(-scores))
        return (one + zero).sum(2)

    def takes(self, y: Tensor) -> Tensor:
        """Whether every entry of a row is in [0, 1]: (T, n)."""
        return ((y >= 0) & (y <= 1)).all(2)

    def limit(self, y: Tensor, p: Tensor, fit_intercept: bool) -> Tensor:
        zero = y.new_zeros(len(y), 1, y.shape[2])
        if not fit_intercept:
            return zero
        used = p > 0
        some = used.any(1, keepdim=True)
        none = some & ~(used & (y > 0)).any(1, keepdim=True)
        all_ = some & ~(used & (y < 1)).any(1, keepdim=True)
        return zero.masked_fill(none, -torch.inf).masked_fill(all_, torch.inf)


SQUARED = 0
LOSSES: tuple[Loss, ...] = (Squared(), Multinomial(), Logistic())


def relative_entropy(q: Tensor, log_p: Tensor) -> Tensor:
    """q log(q/p) + p - q >= 0 of every entry, whose sum over distributions is sum q log(q/p).

    0 where q and p are; the terms p - q keep entries from cancelling.
    """
    p = log_p.exp()
    ratio = torch.where(q > 0, torch.where(q > 0, q, 1).log() - torch.where(q > 0, log_p, 0), 0)
    return q * ratio + p - q


def best_bias(
    loss: Loss, scores: Tensor, y: Tensor, p: Tensor, limit: Tensor, start: Tensor
) -> Tensor:
    """The finite part of argmin_b sum_i p_i l(scores_i + b; y_i): (T, 1, C).

    Newton's method, halving the step while it does not descend. Where only differences between
    classes count, those with a finite bias have sum 0 (from a start of sum 0).
    """

    def value(b: Tensor) -> Tensor:
        return (p[:, :, 0] * loss.divergence(y, scores + b + limit)).sum(1)[:, None, None]

    b, finite = start, limit == 0
    for _ in range(MAX_NEWTON_STEPS):
        mean = loss.mean(scores + b + limit)
        gradient = torch.where(finite, (p * (mean - y)).sum(1, keepdim=True), 0)
        step = torch.linalg.solve(loss.bias_hessian(mean, p), gradient.mT).mT
        decrement = (gradient * step).sum(2, keepdim=True)
        if not bool((decrement > SMALL_DECREMENT).any()):
            break
        length, before = torch.ones_like(decrement), value(b)
        for _ in range(MAX_HALVINGS):
            uphill = value(b - length * step) > before - length * decrement / 4
            uphill &= decrement > CERTAIN_DECREMENT
            if not bool(uphill.any()):
                break
            length = torch.where(uphill, length / 2, length)
        b = b - length * step
    return b
