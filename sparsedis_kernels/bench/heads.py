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
from sparsedis_kernels.bench.case import Call, Check, UnavailableError
from sparsedis_kernels.penalty import LEVELS, Penalty


@dataclass(frozen=True)
class Fit:
    """Heads that are to be fitted, with an intercept.

    Attributes:
        z, y: samples, (T, n, M) and (T, n, C), float32.
        penalty: its strengths are numbers or (T, 1).
        tol: relative duality gap that is asked.
        loss: as in `fit_heads`.
        init: where a warm start starts, (T, M, C).
    """

    z: Tensor
    y: Tensor
    penalty: Penalty
    tol: float
    loss: str = "squared"
    init: Tensor | None = None

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """T, n, M, C."""
        return *self.z.shape, self.y.shape[2]

    def centred(self) -> tuple[Tensor, Tensor]:
        """Samples without their means, which stand for the intercept of a squared loss."""
        return (self.z - self.z.mean(1, keepdim=True), self.y - self.y.mean(1, keepdim=True))

    def double(self) -> Fit:
        """The same in float64."""
        levels = {level: getattr(self.penalty, level) for level in LEVELS}
        exact: Any = {k: v.double() if isinstance(v, Tensor) else v for k, v in levels.items()}
        penalty = replace(self.penalty, **exact)
        return replace(self, z=self.z.double(), y=self.y.double(), penalty=penalty)

    def strength(self, level: str) -> Tensor:
        """A level's strength for every task, (T,)."""
        value = torch.as_tensor(getattr(self.penalty, level), dtype=self.z.dtype)
        return value.to(self.z.device).flatten().expand(len(self.z))

    def gap(self, weight: Tensor) -> float:
        """The largest relative duality gap of all tasks, in float64."""
        exact = self.double()
        gap = ops.duality_gap(exact.z, exact.y, weight.double(), exact.penalty, loss=self.loss)
        return float(gap.max())


def at_share(fit: Fit, share: float) -> Fit:
    """The fit with its penalty brought to a share of every task's lambda_max."""
    largest = ops.lambda_max(fit.z, fit.y, fit.penalty, loss=fit.loss)
    return replace(fit, penalty=fit.penalty.scaled(share * largest[:, None]))


def certified(fit: Fit) -> Check:
    """A check of the gap of weights (T, M, C), up to the rounding of a certificate in float32."""

    def check(weight: Tensor) -> None:
        gap = fit.gap(weight)
        assert gap <= 1.01 * fit.tol, f"misses the gap {fit.tol:g}: {gap:.2g}"

    return check


def loosest(fit: Fit, solve: Callable[[float], Tensor], start: float, ratio: float = 0.5) -> Call:
    """The call of `solve` at the setting of `loosest_setting`."""
    setting = loosest_setting(fit, solve, start, ratio)
    return lambda: solve(setting)


def loosest_setting(
    fit: Fit, solve: Callable[[float], Tensor], start: float, ratio: float = 0.5
) -> float:
    """The first of start, start ratio, ... at which `solve` meets the gap.

    Raises:
        UnavailableError: none of fifty does.
    """
    setting = start
    for _ in range(50):
        gap = fit.gap(solve(setting))
        if gap <= fit.tol:
            return setting
        setting *= ratio
    raise UnavailableError(f"misses the gap {fit.tol:g} at every setting tried: {gap:.2g}")


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
