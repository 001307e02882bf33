"""Sparse heads by accelerated proximal gradient steps in batched PyTorch (FISTA), and its gradient.

Beck and Teboulle (2009), restarted where the step turns against the momentum (O'Donoghue and
Candes, 2015). The number of steps is the least that meets the gap, found beforehand: no time goes
into the stopping rule.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsedis_kernels.bench.case import Call, compiled
from sparsedis_kernels.bench.heads import Fit, loosest

Prox = Callable[[Tensor, Tensor], Tensor]  # of a point (T, M, C) and step sizes (T, 1, 1)
Gradient = Callable[[Tensor], Tensor]


def steps(w: Tensor, gradient: Gradient, prox: Prox, step: Tensor, count: int) -> Tensor:
    """`count` steps from w (T, M, C), each task restarted by itself."""
    x, v, t = w, w, torch.ones_like(step)
    for _ in range(count):
        following = prox(v - step * gradient(v), step)
        move = following - x
        turned = ((v - following) * move).sum((1, 2), keepdim=True) > 0
        t = torch.where(turned, 1.0, t)
        ahead = (1 + (1 + 4 * t * t).sqrt()) / 2
        v = following + torch.where(turned, 0.0, (t - 1) / ahead) * move
        x, t = following, ahead
    return x


def nested_prox(fit: Fit) -> Prox:
    """The prox of l1, group and ridge strengths."""
    l1, group, ridge = (fit.strength(k)[:, None, None] for k in ("l1", "group", "ridge"))
    has_l1, has_group = bool(l1.any()), bool(group.any())

    def prox(v: Tensor, step: Tensor) -> Tensor:
        if has_l1:
            v = v.sign() * F.relu(v.abs() - step * l1)
        if has_group:
            norm = v.norm(dim=2, keepdim=True).clamp(min=1e-30)
            v = v * F.relu(1 - step * group / norm)
        return v / (1 + step * ridge)

    return prox


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
    v = torch.ones(len(z), len(inner[0]), 1, dtype=z.dtype)
    for _ in range(20):
        v = F.normalize(inner @ v, dim=1)
    return 1.05 * (inner @ v).norm(dim=1, keepdim=True)


def squared_fista(fit: Fit, count: int) -> Tensor:
    """Weights after `count` steps."""
    z, y = fit.centred()
    start = z.new_zeros(len(z), z.shape[2], y.shape[2]) if fit.init is None else fit.init
    step = 1 / largest_eigenvalue(z)
    return steps(start, squared_gradient(z, y), nested_prox(fit), step, count)


def fista(fit: Fit) -> Call:
    """The eager provider."""
    return loosest(fit, lambda count: squared_fista(fit, int(count)), 20, 1.25)


def compiled_fista(fit: Fit) -> Call:
    """The same with ten steps compiled at a time."""
    z, y = fit.centred()
    start = z.new_zeros(len(z), z.shape[2], y.shape[2]) if fit.init is None else fit.init
    gradient, prox = squared_gradient(z, y), nested_prox(fit)

    def make(ten: Callable[..., Tensor], fit: Fit) -> Call:
        def solve(tens: float) -> Tensor:
            w, step = start, 1 / largest_eigenvalue(z)
            for _ in range(int(tens)):
                w = ten(w, step=step)
            return w

        return loosest(fit, solve, 2, 1.25)

    return compiled(make, partial(steps, gradient=gradient, prox=prox, count=10), fit)


class ImplicitHeads(torch.autograd.Function):
    """Group-sparse heads with their gradient written by hand: one solve on the padded supports."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, y: Tensor, fit: Fit, count: int) -> Tensor:
        """Weights after `count` steps."""
        weight = squared_fista(fit, count)
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
