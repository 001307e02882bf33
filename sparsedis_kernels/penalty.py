"""The one place where a regulariser is described."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsedis_kernels.arrays import accumulated, readable

LEVELS = ("l1", "group", "shared", "ridge")
SHARING_FLOOR = 1e-4  # of the usage, so that a feature nobody uses can come back


class Strengths(NamedTuple):
    """A penalty as kernels see it: level k has strength ``scale[k] * tensor`` (None means 1)."""

    l1: Tensor | None  # (T, M)
    group: Tensor | None  # (T, M)
    shared: Tensor | None  # (M,)
    ridge: Tensor | None  # (T, M)
    scale: list[float]  # l1, group, shared, ridge
    nonneg: bool

    @property
    def tensors(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """The four optional tensors, in the order of `LEVELS`."""
        return self.l1, self.group, self.shared, self.ridge

    def has(self, level: str) -> bool:
        """Whether `level` may be non-zero (a tensor always may)."""
        k = LEVELS.index(level)
        return self[k] is not None or self.scale[k] > 0.0


@dataclass(frozen=True)
class Penalty:
    r"""A nested group-sparse penalty on head weights W of shape (T, M, C).

    .. math::
        \Omega(W) = l_1 \sum_{tmc} |W_{tmc}| + group \sum_{tm} \|W_{tm:}\|_2
                  + shared \sum_m \|W_{:m:}\|_F + \tfrac{ridge}{2} \|W\|_F^2

    Elements lie inside (task, feature) groups, which lie inside features: a tree, so its proximal
    operator is exact (Jenatton, Mairal, Obozinski and Bach, JMLR 2011).

    Args:
        l1: strength on every entry. A float, or a tensor: 0-dim, per task ``(T,)`` or ``(T, 1)``,
            per feature ``(M,)`` or ``(1, M)``, or per group ``(T, M)``. Default 0.
        group: strength on the norm of each (task, feature) group, same forms. Default 0.
        shared: strength on the norm of each feature over all tasks: a float, 0-dim, or ``(M,)``
            (a value per task has no meaning here). Couples the tasks. Default 0.
        ridge: strength on half the squared norm, same forms as `l1`. Default 0.
        nonneg: restrict the weights to be >= 0. Default False.
        sharing: strength, a float or a 0-dim tensor, of T times the entropy of feature usage over
            all tasks (`feature_usage` with floor `SHARING_FLOOR`), which has tasks share features.
            It is no part of :math:`\Omega`: it is not convex, and `fit_heads` alone takes it; every
            other op refuses a penalty that has it. Couples the tasks. Default 0.

    Raises:
        ValueError: a strength is negative or NaN, or `sharing` is not one finite number. (Tensors
            are checked when the penalty is made, which on a GPU waits for the device once; not
            inside `torch.compile` or `vmap`.)
    """

    l1: float | Tensor = 0.0
    group: float | Tensor = 0.0
    shared: float | Tensor = 0.0
    ridge: float | Tensor = 0.0
    nonneg: bool = False
    sharing: float | Tensor = 0.0
    # The strengths of Omega, unless one is a tensor; derived.
    _numbers: tuple[float, ...] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.sharing, Tensor) and self.sharing.dim() != 0:
            raise ValueError(
                f"Penalty: sharing has shape {tuple(self.sharing.shape)}, expected one number, ()"
            )
        for level in (*LEVELS, "sharing"):
            value = getattr(self, level)
            if readable(value) and not bool(_all_nonnegative(value)):
                raise ValueError(f"Penalty: {level} must be >= 0 everywhere, got {value}")
        if readable(self.sharing) and not bool(self.sharing < math.inf):
            raise ValueError(f"Penalty: sharing must be finite, got {self.sharing}")
        values = (self.l1, self.group, self.shared, self.ridge)
        numbers = None if any(map(_is_tensor, values)) else tuple(map(float, values))
        object.__setattr__(self, "_numbers", numbers)

    @property
    def shares(self) -> bool:
        """Whether `sharing` may be non-zero (a tensor always may)."""
        return isinstance(self.sharing, Tensor) or self.sharing > 0

    def refuse_sharing(self, op: str) -> None:
        """Raise ValueError if there is a `sharing` term, which `op` cannot honour."""
        if self.shares:
            raise ValueError(
                f"{op}: penalty.sharing = {self.sharing} is honoured by fit_heads alone; leave it "
                "out with dataclasses.replace(penalty, sharing=0.0)"
            )

    def scaled(self, factor: float | Tensor) -> Penalty:
        """The penalty with l1, group and shared multiplied by `factor` (ridge, sharing are kept).

        ``penalty.scaled(0.1 * lambda_max(z, y, penalty))`` is a tenth of the strength at which
        every weight is zero.

        Args:
            factor: a float, 0-dim tensor, or one value per task ``(T,)`` (not with `shared`).

        Raises:
            ValueError: `factor` is not finite, or one value per task meets a strength ``(T,)``,
                which may be one per feature as well.
        """
        if isinstance(factor, Tensor) and factor.dim() == 1:
            factor = factor[:, None]  # (T, 1): never mistaken for a value per feature
        scaled: dict[str, Any] = {k: _scaled(k, getattr(self, k), factor) for k in LEVELS[:3]}
        return replace(self, **scaled)

    def strengths(
        self, op: str, shape: Sequence[int], like: Tensor, step: float | Tensor = 1.0
    ) -> Strengths:
        """The penalty times `step`, as the numbers a kernel takes.

        Args:
            op: name of the calling op, for error messages.
            shape: starts with T, M, to which every tensor strength is expanded without a copy.
            like: a tensor on whose device, and in the dtype of whose sums, the strengths are.
            step: step size that multiplies every level.

        Raises:
            ValueError: a strength's shape does not fit (T, M), or fits both T and M; or there is a
                `sharing` term, which no kernel takes.
        """
        self.refuse_sharing(op)
        if self._numbers is not None and not isinstance(step, Tensor):  # kept short: most calls
            step = float(step)
            scale = [number * step for number in self._numbers]
            return Strengths(None, None, None, None, scale, self.nonneg)
        step = _as(like, step)
        values = (self.l1, self.group, self.shared, self.ridge)
        pairs = [_times(_as(like, value), step) for value in values]
        l1, group, shared, ridge = (
            None if tensor is None else _expand(op, level, tensor, tuple(shape[:2]))
            for level, (tensor, _) in zip(LEVELS, pairs, strict=True)
        )
        return Strengths(l1, group, shared, ridge, [scale for _, scale in pairs], self.nonneg)


# An optimiser's state holds its penalty, so torch.load(weights_only=True) meets one.
torch.serialization.add_safe_globals([Penalty])


def _scaled(level: str, value: float | Tensor, factor: float | Tensor) -> float | Tensor:
    if not isinstance(value, Tensor) and value == 0:
        return 0.0
    if isinstance(factor, Tensor) and factor.dim() == 2:
        _check_clear(level, value, len(factor))
    if readable(factor):
        _check_finite(torch.as_tensor(factor).detach().flatten())
    return value * factor


def _check_clear(level: str, value: float | Tensor, T: int) -> None:
    if T > 1 and isinstance(value, Tensor) and value.shape == (T,):
        raise ValueError(
            f"Penalty.scaled: {level} has shape ({T},) and factor has {T} values, one per task; "
            f"pass {level} as ({T}, 1) for tasks or (1, {T}) for features"
        )


def _check_finite(factor: Tensor) -> None:
    wrong = (~factor.isfinite()).nonzero().flatten()
    if wrong.numel():
        t = int(wrong[0])
        place = f" for task {t}" if factor.numel() > 1 else ""
        raise ValueError(
            f"Penalty.scaled: factor is {float(factor[t])}{place}, expected a finite one; "
            "lambda_max is infinite where a feature that no level penalises has a gradient, and "
            "NaN for samples that fit_heads does not take"
        )


def _all_nonnegative(value: float | Tensor) -> bool | Tensor:
    return (value.detach() >= 0).all() if isinstance(value, Tensor) else value >= 0


def _is_tensor(value: float | Tensor) -> bool:
    return isinstance(value, Tensor)


def _as(like: Tensor, value: float | Tensor) -> float | Tensor:
    """The value in the dtype that is computed in, before anything multiplies it."""
    if not isinstance(value, Tensor):
        return value
    return value.to(dtype=accumulated(like.dtype), device=like.device)


def _times(value: float | Tensor, step: float | Tensor) -> tuple[Tensor | None, float]:
    """`value * step` as (tensor, factor); a level that is absent stays absent."""
    if not isinstance(value, Tensor):
        if value == 0 or not isinstance(step, Tensor):
            return None, float(value) * (1.0 if isinstance(step, Tensor) else float(step))
        return step, float(value)
    if isinstance(step, Tensor):
        return value * step, 1.0
    return value, float(step)


def _expand(op: str, level: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    T, M = shape
    if level == "shared":
        return _expand_shared(op, value, M)
    if value.dim() == 1 and value.shape[0] != 1:
        if T == M and value.shape[0] == T:
            raise ValueError(
                f"{op}: penalty.{level} has shape ({T},), which fits both T = {T} tasks and "
                f"M = {M} features; pass ({T}, 1) for tasks or (1, {M}) for features"
            )
        value = value[:, None] if value.shape[0] == T else value
    if value.dim() > 2 or any(
        s not in (1, n) for s, n in zip(value.shape[::-1], (M, T), strict=False)
    ):
        raise ValueError(
            f"{op}: penalty.{level} has shape {tuple(value.shape)}, which does not fit "
            f"(T, M) = {shape}"
        )
    return value.expand(T, M)


def _expand_shared(op: str, value: Tensor, M: int) -> Tensor:
    flat = value.reshape(-1) if math.prod(value.shape[:-1]) == 1 else value
    if flat.dim() != 1 or flat.shape[0] not in (1, M):
        raise ValueError(
            f"{op}: penalty.shared has shape {tuple(value.shape)}, expected () or (M,) = ({M},)"
        )
    return flat.expand(M)
