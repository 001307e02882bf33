"""Heads by accelerated proximal gradient steps in batched PyTorch (FISTA), and a gradient of them.

Beck and Teboulle (2009), restarted where the step turns against the momentum (O'Donoghue and
Candes, 2015). The number of steps is the least that meets what is asked, found beforehand: no time
goes into the stopping rule.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsedis_kernels.bench.case import Call, compiled
from sparsedis_kernels.bench.heads import Fit, loosest

Prox = Callable[[Tensor, Tensor], Tensor]  # of a point (T, M, C) and step sizes (T, 1, 1)
Gradient = Callable[[Tensor], Tensor]
BLOCK = 5  # steps that are compiled together


class Iterate(NamedTuple):
    """Where the steps are."""

    w: Tensor  # (T, M, C)
    v: Tensor  # w carried on by the momentum
    t: Tensor  # (T, 1, 1)


def steps(at: Iterate, gradient: Gradient, prox: Prox, step: Tensor, count: int) -> Iterate:
    """`count` steps on, each task restarted by itself."""
    w, v, t = at
    for _ in range(count):
        following = prox(v - step * gradient(v), step)
        move = following - w
        turned = ((v - following) * move).sum((1, 2), keepdim=True) > 0
        t = torch.where(turned, 1.0, t)
        ahead = (1 + (1 + 4 * t * t).sqrt()) / 2
        v = following + torch.where(turned, 0.0, (t - 1) / ahead) * move
        w, t = following, ahead
    return Iterate(w, v, t)


def nested_prox(fit: Fit) -> Prox:
    """The prox of l1, group and ridge strengths, of weights on the fit's design."""
    l1, group, ridge = map(fit.rows, ("l1", "group", "ridge"))
    has_l1, has_group = bool(l1.any()), bool(group.any())

    def prox(v: Tensor, step: Tensor) -> Tensor:
        if has_l1:
            v = v.sign() * F.relu(v.abs() - step * l1)
        if has_group:
            norm = v.norm(dim=2, keepdim=True).clamp(min=1e-30)
            v = v * F.relu(1 - step * group / norm)
        return v / (1 + step * ridge)

    return prox


def gradient_of(loss: str, z: Tensor, y: Tensor) -> Gradient:
    """Of a loss in the weights."""
    if loss == "squared":
        return squared_gradient(z, y)
    n, mean = z.shape[1], MEANS[loss]
    return lambda w: torch.bmm(z.mT, (mean(torch.bmm(z, w)) - y) / n)


MEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "multinomial": lambda scores: scores.softmax(2),
    "logistic": torch.sigmoid,
}


def squared_gradient(z: Tensor, y: Tensor) -> Gradient:
    """Of the squared loss, by the Gram matrix where that is the smaller work."""
    n, M = z.shape[1:]
    if 2 * n < M:
        return lambda w: torch.bmm(z.mT, torch.baddbmm(y, z, w, beta=-1)) / n
    gram, right = z.mT @ z / n, z.mT @ y / n
    return lambda w: torch.baddbmm(right, gram, w, beta=-1)


def largest_eigenvalue(z: Tensor) -> Tensor:
    """Of Z'Z/n, a little above, by power iteration on the smaller side: (T, 1, 1)."""
    n, M = z.shape[1:]
    inner = z @ z.mT / n if n < M else z.mT @ z / n
    v = torch.ones(len(z), len(inner[0]), 1).to(z)
    for _ in range(20):
        v = F.normalize(inner @ v, dim=1)
    return 1.05 * (inner @ v).norm(dim=1, keepdim=True)


def solution(
    fit: Fit,
    count: int,
    *,
    start: Tensor | None = None,
    several: Callable[..., Iterate] = steps,
    block: int = 1,
) -> Tensor:
    """Weights (T, M, C) after `count` blocks of steps, by default of one.

    Args:
        fit: what is fitted.
        count: how many blocks.
        start: `fit.start()`, the default.
        several: `steps`, or what became of it.
        block: steps in a block.
    """
    z, y = fit.design()
    w = fit.start() if start is None else start
    step = 1 / (fit.kind.curvature * largest_eigenvalue(z))
    gradient, prox = gradient_of(fit.loss, z, y), nested_prox(fit)
    at = Iterate(w, w, torch.ones_like(step))
    for _ in range(count):
        at = several(at, gradient, prox, step, block)
    return at.w[:, : fit.z.shape[2]]


def fista(fit: Fit) -> Call:
    """The eager provider."""
    start = fit.start()
    return loosest(fit, lambda count: solution(fit, int(count), start=start), 1, 1.25)


def compiled_fista(fit: Fit) -> Call:
    """The same with `BLOCK` steps compiled at a time."""
    start = fit.start()

    def make(several: Callable[..., Iterate], fit: Fit) -> Call:
        some = partial(solution, fit, start=start, several=several, block=BLOCK)
        return loosest(fit, lambda count: some(int(count)), 1, 1.25)

    return compiled(make, steps, fit)


class ImplicitHeads(torch.autograd.Function):
    """Group-sparse heads with their gradient written by hand: one solve on the padded supports."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, y: Tensor, fit: Fit, count: int) -> Tensor:
        """Weights after `count` steps."""
        weight = solution(fit, count)
        ctx.fit = fit
        ctx.save_for_backward(weight)
        return weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """u = H^-1 grad on the support, H = Z'Z/n + d (I - wh wh'); then r u' - (Z u) W' of Z."""
        (weight,) = ctx.saved_tensors
        z, y = ctx.fit.centred()
        n, C = z.shape[1], weight.shape[2]
        live = weight.abs().sum(2) > 0
        S = int(live.sum(1).max())
        index = live.float().topk(S, 1).indices  # (T, S), padded by rows of zeros
        rows = index[..., None].expand(-1, -1, C)
        w, g = weight.gather(1, rows), grad.gather(1, rows) * live.gather(1, index)[..., None]
        zs = z.gather(2, index[:, None].expand(-1, n, -1)) * live.gather(1, index)[:, None]
        u = torch.linalg.solve(_support_hessian(zs, w, ctx.fit), g.flatten(1)[..., None])
        u = u.view_as(w)
        zu, r = zs @ u, y - zs @ w
        grad_s = (r @ u.mT - zu @ w.mT) / n
        grad_z = torch.zeros_like(z).scatter_(2, index[:, None].expand(-1, n, -1), grad_s)
        return grad_z - grad_z.mean(1, keepdim=True), None, None, None


def _support_hessian(zs: Tensor, w: Tensor, fit: Fit) -> Tensor:
    """(T, S C, S C); the identity in the rows that pad."""
    T, S, C = w.shape
    norm = w.norm(dim=2)
    curvature = torch.where(norm > 0, fit.strength("group")[:, None] / norm, 1.0)
    unit = w / norm.clamp(min=1e-30)[..., None]
    eye = torch.eye(C, dtype=w.dtype)
    radial = curvature[..., None, None] * (eye - unit[..., :, None] * unit[..., None, :])
    hessian = torch.einsum("tab,cd->tacbd", zs.mT @ zs / zs.shape[1], eye).contiguous()
    hessian.diagonal(dim1=1, dim2=3).add_(radial.permute(0, 2, 3, 1))
    return hessian.view(T, S * C, S * C)
