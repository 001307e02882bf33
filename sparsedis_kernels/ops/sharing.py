"""Heads under a penalty on the entropy of feature usage, which has tasks share features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsedis_kernels import arrays, backends
from sparsedis_kernels.ops._define import define, raw
from sparsedis_kernels.ops._samples import PENALTY_SCHEMA, SAMPLES_SCHEMA, task_count
from sparsedis_kernels.ops.feature_usage import entropy_of_usage, slope_along
from sparsedis_kernels.penalty import SHARING_FLOOR
from sparsedis_kernels.reference.heads_batch import layout_of, not_finite
from sparsedis_kernels.reference.heads_gap import objective
from sparsedis_kernels.reference.heads_problem import make_problem

MAX_STEPS, MAX_HALVINGS = 50, 5
SMALL_FALL = 1e-4  # of the objective at zero weights, which every loss's default tol resolves
ROUNDING = 1e-13  # of the objective at zero weights: what sums in float64 may err by


class Heads(NamedTuple):
    """The arguments of the raw op `fit_heads` that state a problem."""

    z: Tensor
    y: Tensor
    offsets: Tensor | None
    sample_weight: Tensor | None
    loss: int
    l1: Tensor | None
    group: Tensor | None
    shared: Tensor | None
    ridge: Tensor | None
    scale: list[float]
    nonneg: bool
    fit_intercept: bool

    @property
    def l1_per_group(self) -> Tensor:
        """The l1 strength of every (task, feature): (T, M)."""
        T, M = task_count(self.z, self.y, self.offsets), self.z.shape[-1]
        l1 = self.z.new_ones(T, M) if self.l1 is None else self.l1
        return self.scale[0] * l1

    def reweighted(self, v: Tensor) -> Heads:
        """The problem with v (M,) added to the l1 strength of every feature."""
        return self._replace(l1=self.l1_per_group + v, scale=[1.0, *self.scale[1:]])


class Usage(NamedTuple):
    """How the tasks that are not marked with NaN use the features, in float64."""

    magnitude: Tensor  # (M,)
    entropy: Tensor  # floored, ()
    slope: Tensor  # (M,)
    tasks: Tensor  # their number, ()


def _usage(ns: str, weight: Tensor) -> Usage:
    good = ~not_finite(weight)
    w = torch.where(good[:, None, None], weight, 0).double()
    magnitude = raw(ns, "feature_usage")(w)[0]
    _, entropy, slope = entropy_of_usage(magnitude, SHARING_FLOOR)
    return Usage(magnitude, entropy, slope, good.sum())


def _lowest(l1: Tensor) -> Tensor:
    """The least v (M,) that leaves every l1 strength (T, M) >= 0; NaN marks no task but its own."""
    none = l1.new_full((1, l1.shape[1]), torch.inf)
    return -torch.cat([torch.where(l1.isfinite(), l1, torch.inf), none]).amin(0)


class Iterate(NamedTuple):
    """A solution of the problem reweighted by v, and what the whole objective says of it."""

    v: Tensor  # (M,)
    solution: tuple[Tensor, ...]  # what the raw op fit_heads returns
    objective: float  # J
    target: Tensor  # sharing T dH/da, clamped where it would leave an l1 strength < 0: (M,)


class SharingProblem:
    r"""J(W) = sum_t loss_t + Omega(W) + sharing T H(p(W)), with H floored by `SHARING_FLOOR`.

    T counts the tasks that are not marked bad. J(0) = sum_t loss_t, since H is 0 there.
    """

    def __init__(self, ns: str, heads: Heads, sharing: Tensor, tol: float, max_iter: int) -> None:
        self.ns, self.heads, self.sharing = ns, heads, sharing
        self.tol, self.max_iter = tol, max_iter
        layout, h = layout_of(heads.z, heads.y, heads.offsets), heads
        self.convex, _ = make_problem(
            layout, h.z, h.y, h.sample_weight, h.loss, (h.l1, h.group, h.shared, h.ridge), h.scale,
            h.nonneg, h.fit_intercept,
        )  # fmt: skip
        zero = torch.zeros_like(self.convex.correlate(self.convex.y))
        self.at_zero = float(objective(self.convex, zero))
        self.lowest = _lowest(heads.l1_per_group)
        self.n_iter: Tensor | int = 0  # (T,), over all solves

    def solve(self, v: Tensor, start: Tensor | None) -> Iterate:
        """The solution of the problem reweighted by v; for v = 0 the plain one, to the bit."""
        heads = self.heads.reweighted(v) if bool(v.any()) else self.heads
        solution = raw(self.ns, "fit_heads")(*heads, start, self.tol, self.max_iter)
        self.n_iter = self.n_iter + solution[3]
        usage = _usage(self.ns, solution[0])
        strength = self.sharing.double() * usage.tasks
        w = torch.nan_to_num(solution[0].double())
        value = float(objective(self.convex, w) + strength * usage.entropy)
        target = (strength * usage.slope).to(v.dtype).maximum(self.lowest)
        return Iterate(v, solution, value, target)

    def step(self, current: Iterate) -> Iterate | None:
        """The first of the full step to the target and its halves that J does not rise on."""
        for k in range(MAX_HALVINGS + 1):
            v = current.v.lerp(current.target, 0.5**k)
            following = self.solve(v, current.solution[0])
            if following.objective <= current.objective + ROUNDING * self.at_zero:
                return following
        return None

    def iterates(self, init: Tensor | None) -> Iterator[Iterate]:
        r"""Solutions of reweighted problems along which J does not rise.

        W(v) minimises the convex F_v = sum_t loss_t + Omega + sum_m v_m a_m, a_m = sum_tc |W_tmc|,
        with v >= -min_t l1_tm. A step goes from v towards w = sharing T dH/da at W(v), clamped, as
        an iteratively reweighted l1 does (Candes, Wakin and Boyd 2008), and is halved until J does
        not rise.

        J falls to first order where nothing is clamped: let a' be the derivative of a(W(v)) along
        w - v. Since F_v is stationary at W(v), that of J is <w - v, a'>, and it is <= 0, since a
        minimiser's a(W(v)) is a monotone decreasing function of v. It is 0 only where a does not
        move, as at a fixed point v = w. Not guaranteed: a global minimum; where weights are
        clamped, descent to first order, so that the scheme may stop short of a local minimum.

        Solutions are exact to their gap, and so J is compared as computed, up to its rounding: a
        solver's error may end the scheme early, but cannot raise J. It ends where J falls by
        at most min(tol, SMALL_FALL) of J(0), which is what the solver resolves, at a fixed point,
        where no step is accepted, or after MAX_STEPS.
        """
        current = self.solve(torch.zeros_like(self.lowest), init)
        yield current
        for _ in range(MAX_STEPS):
            if _is_fixed(current):
                return
            following = self.step(current)
            if following is None:
                return
            yield following
            if current.objective - following.objective <= min(self.tol, SMALL_FALL) * self.at_zero:
                return
            current = following


def _is_fixed(at: Iterate) -> bool:
    """Whether a full step would move v by rounding only."""
    eps = torch.finfo(at.v.dtype).eps
    return bool((at.target - at.v).norm() <= 4 * eps * at.target.norm())


def _fit(ns: str, *args: Any) -> tuple[Tensor, ...]:
    *heads, sharing, init, tol, max_iter = args
    problem = SharingProblem(ns, Heads(*heads), sharing, tol, max_iter)
    *_, last = problem.iterates(init)
    weight, bias, gap, _, status = last.solution
    return weight, bias, gap, torch.as_tensor(problem.n_iter), status, last.v.clone()


def _fit_fake(ns: str, z: Tensor, y: Tensor, offsets: Tensor | None, *_: Any) -> Any:
    T, M, C = task_count(z, y, offsets), z.shape[-1], y.shape[-1]
    n_iter = z.new_empty((T,), dtype=torch.int32)
    floats = [z.new_empty(shape) for shape in ((T, M, C), (T, C), (T,), (M,))]
    return *floats[:3], n_iter, torch.empty_like(n_iter), floats[3]


def _backward_fake(
    ns: str, grad_weight: Tensor, grad_bias: Tensor, weight: Tensor, v: Tensor, *args: Any
) -> tuple[Tensor, ...]:
    z, y, _, sample_weight = args[:4]
    T, M, _ = weight.shape
    samples = (0,) if sample_weight is None else sample_weight.shape
    return arrays.outputs(
        z, [z.shape, y.shape, samples, (T, M), (T, M), (M,), (T, M), ()], args[-1]
    )


def _backward(
    ns: str, grad_weight: Tensor, grad_bias: Tensor, weight: Tensor, v: Tensor, *args: Any
) -> tuple[Tensor, ...]:
    r"""Vector-Jacobian product of the fixed point v = clamp(sharing T dH/da(a(W(v)))).

    With A = da/dv, D = sharing T d2H/da2 and P the projection on the features that are not clamped,
    a cotangent of W brings g = (dW/dv)' grad_W to v, and x = P g + P A D x is what reaches the
    fixed point's right side (A and D are symmetric). So W's whole cotangent is grad_W +
    sign(W) D x, and a strength that clamps gets the cotangent of its v. Where the scheme stopped
    elsewhere, this is the derivative at a constant distance v - clamp(.).
    """
    *problem, sharing, needs = args
    heads, usage = Heads(*problem), _usage(ns, weight)
    reweighted, l1, strength = heads.reweighted(v), heads.l1_per_group, sharing * usage.tasks
    lowest = _lowest(l1)
    free = (strength * usage.slope > lowest).double()

    def pull_back(grad_weight: Tensor, grad_bias: Tensor, needs: list[bool]) -> Sequence[Tensor]:
        return raw(ns, "fit_heads_backward")(grad_weight, grad_bias, weight, *reweighted, needs)

    def to_v(grad_weight: Tensor, grad_bias: Tensor) -> Tensor:
        return pull_back(grad_weight, grad_bias, ONLY_L1)[3].double().nansum(0)

    def of_weight(x: Tensor) -> Tensor:
        on_magnitude = strength * slope_along(usage.magnitude, SHARING_FLOOR, x)
        return raw(ns, "feature_usage_backward")(on_magnitude.to(weight.dtype), weight)

    x = krylov_solve(
        lambda x: x - free * to_v(of_weight(x), torch.zeros_like(grad_bias)),
        free * to_v(grad_weight, grad_bias),
        torch.finfo(weight.dtype).eps ** 0.75,
    )
    grads = pull_back(grad_weight + of_weight(x), grad_bias, [*needs[:3], True, *needs[4:7]])
    at_v = (1 - free) * grads[3].double().nansum(0)
    clamping = (l1 == -lowest).double()
    share = clamping / clamping.sum(0).clamp_min(1)
    grad_l1 = heads.scale[0] * (grads[3] - (share * at_v).to(l1.dtype))
    grad_sharing = (usage.tasks * x * usage.slope).sum().to(sharing.dtype)
    every = (*grads[:3], grad_l1, *grads[4:], grad_sharing)
    return tuple(g if need else g.new_empty(0) for g, need in zip(every, needs, strict=True))


ONLY_L1 = [False, False, False, True, False, False, False]


def krylov_solve(apply: Callable[[Tensor], Tensor], rhs: Tensor, tol: float) -> Tensor:
    """Solve apply(x) = rhs, (M,), to `tol` of rhs, by GMRES (Saad and Schultz 1986).

    Least squares on an orthonormal basis of growing Krylov spaces; at most M applications.
    """
    basis: list[Tensor] = []
    images: list[Tensor] = []
    x, residual, ahead = torch.zeros_like(rhs), rhs, rhs
    while len(basis) < len(rhs) and bool((residual.norm() > tol * rhs.norm()) & (ahead.norm() > 0)):
        basis.append(ahead / ahead.norm())
        images.append(apply(basis[-1]))
        space, image = torch.stack(basis, 1), torch.stack(images, 1)
        y = torch.linalg.lstsq(image, rhs[:, None]).solution
        x, residual = (space @ y)[:, 0], rhs - (image @ y)[:, 0]
        ahead = images[-1]
        for _ in range(2):  # once leaves what rounding put back
            ahead = ahead - space @ (space.mT @ ahead)
    return x


define(
    f"fit_heads_sharing(str ns, {SAMPLES_SCHEMA}, {PENALTY_SCHEMA}, bool fit_intercept, "
    "Tensor sharing, Tensor? init, float tol, int max_iter) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=_fit,
    fake=_fit_fake,
    native=False,
)
define(
    f"fit_heads_sharing_backward(str ns, Tensor grad_weight, Tensor grad_bias, Tensor weight, "
    f"Tensor v, {SAMPLES_SCHEMA}, {PENALTY_SCHEMA}, bool fit_intercept, Tensor sharing, "
    "bool[] needs) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=_backward,
    fake=_backward_fake,
    native=False,
)


class _FitSharing(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        ns: str, z: Tensor, y: Tensor, offsets: Tensor | None, sample_weight: Tensor | None,
        loss: int, l1: Tensor | None, group: Tensor | None, shared: Tensor | None,
        ridge: Tensor | None, scale: list[float], nonneg: bool, fit_intercept: bool,
        sharing: Tensor, init: Tensor | None, tol: float, max_iter: int,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        return raw(backends.AUTOMATIC, "fit_heads_sharing")(
            ns, z, y, offsets, sample_weight, loss, l1, group, shared, ridge, scale, nonneg,
            fit_intercept, sharing, init, tol, max_iter,
        )  # fmt: skip

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.ns, ctx.loss = inputs[0], inputs[5]
        ctx.numbers = inputs[10:13]  # scale, nonneg, fit_intercept
        ctx.save_for_backward(output[0], output[5], *inputs[1:5], *inputs[6:10], inputs[13])
        ctx.mark_non_differentiable(*output[2:])

    @staticmethod
    def backward(
        ctx: Any, grad_weight: Tensor, grad_bias: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, ...]:
        weight, v, z, y, offsets, sample_weight, *penalty, sharing = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        needs = [wanted[1], wanted[2], wanted[4], *wanted[6:10], wanted[13]]
        grads = raw(backends.AUTOMATIC, "fit_heads_sharing_backward")(
            ctx.ns, grad_weight, grad_bias, weight, v, z, y, offsets, sample_weight, ctx.loss,
            *penalty, *ctx.numbers, sharing, needs,
        )  # fmt: skip
        grad_z, grad_y, grad_s, *levels, grad_sharing = arrays.wanted(grads, needs)
        return (
            None,
            grad_z,
            grad_y,
            None,
            grad_s,
            None,
            *levels,
            *3 * [None],
            grad_sharing,
            *(3 * [None]),
        )


def fit_sharing(ns: str, *args: Any) -> tuple[Tensor, ...]:
    """Run the scheme as one differentiable op, which `torch.compile` and `vmap` do not look into.

    Args:
        ns: the namespace of ops that solves the reweighted problems.
        args: what the raw op `fit_heads` takes, with sharing, (), before init.

    Returns:
        What it returns for the last reweighted problem, n_iter summed, and v (M,).
    """
    return _FitSharing.apply(ns, *args)
