"""A head fit as the providers get it, and when their answer is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from sparsedis_kernels import ops
from sparsedis_kernels.bench.case import (
    Call,
    Check,
    UnavailableError,
    bytes_of,
    require_native,
)
from sparsedis_kernels.bench.problems import heads_problem
from sparsedis_kernels.ops._samples import loss_index
from sparsedis_kernels.penalty import LEVELS, Penalty
from sparsedis_kernels.reference.losses import LOSSES, Loss, best_bias

OPTIMAL = 1e-10  # gap of weights whose objective stands for the optimum
ROUNDING = 2.0**-24  # of a relative gap whose samples are centred in float32
MOVE = 0.01  # of the features, between a warm start and the fit


@dataclass(frozen=True)
class Fit:
    """Heads that are to be fitted, with an intercept.

    Attributes:
        z, y: samples, (T, n, M) and (T, n, C), float32; of one design for all tasks z is (n, M),
            which `ours` takes.
        penalty: its strengths are numbers or (T, 1).
        tol: what `error` may be.
        loss: as in `fit_heads`.
        init: where a warm start starts, (T, M, C).
        optimum: the least objective, (T,), where suboptimality is asked and not a gap.
    """

    z: Tensor
    y: Tensor
    penalty: Penalty
    tol: float
    loss: str = "squared"
    init: Tensor | None = None
    optimum: Tensor | None = None

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """T, n, M, C."""
        return *self.z.shape, self.y.shape[2]

    def centred(self) -> tuple[Tensor, Tensor]:
        """Samples without their means, which stand for the intercept of a squared loss."""
        return (self.z - self.z.mean(1, keepdim=True), self.y - self.y.mean(1, keepdim=True))

    def design(self) -> tuple[Tensor, Tensor]:
        """Samples of a fit without an intercept: a squared loss loses its means.

        Any other loss gets a last feature that is 1, whose weights are the intercept.
        """
        z, y = self.centred()
        if self.loss == "squared":
            return z, y
        return torch.cat([z, torch.ones_like(z[:, :, :1])], 2), self.y

    def start(self) -> Tensor:
        """Where weights on `design` start, at the best intercept: (T, M or M + 1, C)."""
        T, _, M, C = self.sizes
        w = self.z.new_zeros(T, M, C) if self.init is None else self.init
        if self.loss == "squared":
            return w
        z, _ = self.centred()
        return torch.cat([w, self.intercept((z @ w).double()).to(w)], 1)

    def rows(self, level: str) -> Tensor:
        """A level's strengths for weights on `design`: (T, 1, 1) or (T, M + 1, 1)."""
        strength = self.strength(level)[:, None, None]
        if self.loss == "squared":
            return strength
        penalised = torch.ones(self.z.shape[2] + 1, 1).to(self.z)
        penalised[-1] = 0
        return strength * penalised

    def double(self) -> Fit:
        """The same in float64."""
        levels = {level: getattr(self.penalty, level) for level in LEVELS}
        exact: Any = {k: v.double() if isinstance(v, Tensor) else v for k, v in levels.items()}
        penalty = replace(self.penalty, **exact)
        return replace(self, z=self.z.double(), y=self.y.double(), penalty=penalty)

    @property
    def kind(self) -> Loss:
        """The loss."""
        return LOSSES[loss_index("bench", self.loss)]

    def strength(self, level: str) -> Tensor:
        """A level's strength for every task, (T,)."""
        value = torch.as_tensor(getattr(self.penalty, level), dtype=self.z.dtype)
        return value.to(self.z.device).flatten().expand(len(self.z))

    def gap(self, weight: Tensor) -> float:
        """The largest relative duality gap of all tasks, in float64."""
        exact = self.double()
        gap = ops.duality_gap(exact.z, exact.y, weight.double(), exact.penalty, loss=self.loss)
        return float(gap.max())

    def intercept(self, scores: Tensor) -> Tensor:
        """The best of scores (T, n, C) in float64 without one: (T, 1, C)."""
        T, n, _, C = self.sizes
        zero = scores.new_zeros(T, 1, C)
        share = scores.new_full((T, n, 1), 1 / n)
        return best_bias(self.kind, scores, self.y.double(), share, zero, zero)

    def objective(self, weight: Tensor) -> Tensor:
        """The value at weights (T, M, C) with their best intercept, in float64: (T,)."""
        exact, w = self.double(), weight.double()
        scores = exact.z @ w
        loss = self.kind.divergence(exact.y, scores + self.intercept(scores)).mean(1)
        l1, group, ridge = (exact.strength(level) for level in ("l1", "group", "ridge"))
        rows = w.norm(dim=2).sum(1)
        squares = w.square().sum((1, 2))
        return loss + l1 * w.abs().sum((1, 2)) + group * rows + ridge / 2 * squares

    @property
    def allowed(self) -> float:
        """The largest error with which `tol` counts as met."""
        return self.tol + ROUNDING

    def error(self, weight: Tensor) -> float:
        """The gap or, where an optimum is given, the excess over it: the largest of all tasks.

        The gap is relative to the objective at zero weights, the excess to the optimum.
        """
        if self.optimum is None:
            return self.gap(weight)
        return float((self.objective(weight) / self.optimum - 1).max())

    @property
    def asked(self) -> str:
        """What `tol` bounds."""
        return "gap" if self.optimum is None else "suboptimality"


def problem(device: torch.device, T: int, n: int, M: int, C: int) -> Fit:
    """The same samples in every run, without a penalty."""
    torch.manual_seed(0)
    samples = heads_problem(T, n, M, C, dtype=torch.float32)
    return Fit(samples.z.to(device), samples.y.to(device), Penalty(), 1e-4)


def moved_bytes(fit: Fit) -> int:
    """Bytes of the samples and the weights."""
    T, _, M, C = fit.sizes
    return bytes_of(fit.z, fit.y) + 4 * T * M * C


def at_share(fit: Fit, share: float) -> Fit:
    """The fit with its penalty brought to a share of every task's lambda_max."""
    largest = ops.lambda_max(fit.z, fit.y, fit.penalty, loss=fit.loss)
    return replace(fit, penalty=fit.penalty.scaled(share * largest[:, None]))


def warmed(fit: Fit) -> Fit:
    """The fit, started from the solution before its features moved by a percent."""
    exact = fit.double()
    start = ops.fit_heads(exact.z, exact.y, exact.penalty, loss=fit.loss, tol=1e-8).weight
    generator = torch.Generator(fit.z.device).manual_seed(1)
    noise = torch.randn(fit.z.shape, generator=generator, device=fit.z.device)
    return replace(fit, z=fit.z * (1 + MOVE * noise), init=start.to(fit.z))


def with_optimum(fit: Fit) -> Fit:
    """The fit, asked for suboptimality: against weights whose gap is some 1e-10.

    Raises:
        UnavailableError: there are none.
    """
    exact = replace(fit, tol=OPTIMAL).double()
    weight = ops.fit_heads(exact.z, exact.y, exact.penalty, loss=fit.loss, tol=OPTIMAL).weight
    gap = exact.gap(weight)
    if not gap <= 2 * OPTIMAL:
        raise UnavailableError(f"no optimum is known: gap {gap:.2g}")
    return replace(fit, optimum=fit.objective(weight))


def certified(fit: Fit) -> Check:
    """A check of the error of weights (T, M, C)."""

    def check(weight: Tensor) -> None:
        error = fit.error(weight)
        assert error <= fit.allowed, f"misses the {fit.asked} {fit.tol:g}: {error:.2g}"

    return check


def loosest(fit: Fit, solve: Callable[[float], Tensor], start: float, ratio: float = 0.5) -> Call:
    """The call of `solve` at the setting of `loosest_setting`."""
    setting = loosest_setting(fit, solve, start, ratio)
    return lambda: solve(setting)


def loosest_setting(
    fit: Fit, solve: Callable[[float], Tensor], start: float, ratio: float = 0.5
) -> float:
    """The first of start, start ratio, ... at which the error of `solve` is allowed.

    Raises:
        UnavailableError: none of fifty does.
    """
    setting = start
    for _ in range(50):
        error = fit.error(solve(setting))
        if error <= fit.allowed:
            return setting
        setting *= ratio
    missed = f"misses the {fit.asked} {fit.tol:g} at every setting tried: {error:.2g}"
    raise UnavailableError(missed)


def ours(fit: Fit, *, backend: str | None = None) -> Call:
    """This package's fit; without `backend` only if a native kernel serves it."""
    if backend is None:
        require_native("fit_heads", fit.z.device)
    options: dict[str, Any] = {"loss": fit.loss, "init": fit.init, "tol": fit.tol}
    return lambda: ops.fit_heads(fit.z, fit.y, fit.penalty, backend=backend, **options).weight


def loosest_ours(fit: Fit, *, backend: str | None = None) -> Call:
    """This package's fit at the loosest tolerance that meets what is asked."""
    tol = loosest_setting(fit, lambda tol: ours(replace(fit, tol=tol), backend=backend)(), 0.1)
    return ours(replace(fit, tol=tol), backend=backend)


def require(module: str) -> Any:
    """A module of a package of the extra `peers`, or `UnavailableError` if it does not import."""
    try:
        return import_module(module)
    except Exception as error:  # an import can break in many ways where versions do not fit
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnavailableError(f"{module}: {reason}") from error


def ridge_flops(n: int, M: int, C: int) -> int:
    """Operations of a ridge fit of the smaller side: Gram triangle, factor, products, solve."""
    side, other = min(n, M), max(n, M)
    gram, factor = side * side * other, side**3 / 3
    return math.ceil(gram + factor + 2 * n * M * C + 2 * side * side * C)
