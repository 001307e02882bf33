"""The fit of heads that share features, as a differentiable op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsedis_kernels import arrays, backends
from sparsedis_kernels.ops._define import call, define, raw, raw_backward
from sparsedis_kernels.ops._samples import PENALTY_SCHEMA, SAMPLES_SCHEMA, task_count
from sparsedis_kernels.ops.feature_usage import slope_along
from sparsedis_kernels.ops.sharing import Heads, SharingProblem, lowest_v, usage_of
from sparsedis_kernels.penalty import SHARING_FLOOR

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
        # The default driver on a CPU pivots, and its last bits differ from call to call.
        y = torch.linalg.lstsq(image, rhs[:, None], driver="gels").solution
        x, residual = (space @ y)[:, 0], rhs - (image @ y)[:, 0]
        ahead = images[-1]
        for _ in range(2):  # once leaves what rounding put back
            ahead = ahead - space @ (space.mT @ ahead)
    return x


@torch.no_grad()
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


@torch.no_grad()
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
    heads, usage = Heads(*problem), usage_of(ns, weight)
    reweighted, l1, strength = heads.reweighted(v), heads.l1_per_group, sharing * usage.tasks
    lowest = lowest_v(l1, weight)
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
        grads = raw_backward(
            backends.AUTOMATIC, "fit_heads_sharing", ctx.ns, grad_weight, grad_bias, weight, v, z,
            y, offsets, sample_weight, ctx.loss, *penalty, *ctx.numbers, sharing, needs,
        )  # fmt: skip
        grad_z, grad_y, grad_s, *levels, grad_sharing = arrays.wanted(grads, needs)
        nones = 3 * [None]
        return None, grad_z, grad_y, None, grad_s, None, *levels, *nones, grad_sharing, *nones


def fit_sharing(ns: str, *args: Any) -> tuple[Tensor, ...]:
    """Run the scheme as one differentiable op, which `torch.compile` and `vmap` do not look into.

    Args:
        ns: the namespace of ops that solves the reweighted problems.
        args: what the raw op `fit_heads` takes, with sharing, (), before init.

    Returns:
        What it returns for the last reweighted problem, n_iter summed, and v (M,).
    """
    return call(_FitSharing, ns, *args)
