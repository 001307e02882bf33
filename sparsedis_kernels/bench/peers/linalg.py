"""Ridge heads by a factor of the smaller side in torch, NumPy and SciPy, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsedis_kernels.bench.case import Call
from sparsedis_kernels.bench.heads import Fit, require


def torch_cholesky(z: Tensor, y: Tensor, ridge: float) -> Tensor:
    """Weights (T, M, C) by batched torch.linalg."""
    z, y = z - z.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    n, M = z.shape[1:]
    if n < M:
        inner = z @ z.mT + n * ridge * torch.eye(n, device=z.device)
        return z.mT @ torch.cholesky_solve(y, torch.linalg.cholesky(inner))
    inner = z.mT @ z + n * ridge * torch.eye(M, device=z.device)
    return torch.cholesky_solve(z.mT @ y, torch.linalg.cholesky(inner))


def columns(y: Tensor) -> Tensor:
    """Targets (T, n, C) of one design beside each other, (n, T C)."""
    return y.transpose(0, 1).flatten(1).contiguous()


def heads(weight: Tensor, T: int) -> Tensor:
    """Weights (M, T C) of one design as those of its tasks, a view (T, M, C)."""
    return weight.unflatten(1, (T, -1)).transpose(0, 1)


def one_factor(fit: Fit) -> Call:
    """Ridge heads of one design in torch: one factor for all targets."""
    z, y = fit.z, columns(fit.y)

    def call() -> Tensor:
        zc, factor = _factored(z, float(fit.penalty.ridge))
        if len(factor) < z.shape[1]:
            return heads(zc.mT @ torch.cholesky_solve(y, factor), len(fit.y))
        return heads(torch.cholesky_solve(zc.mT @ y, factor), len(fit.y))

    return call


def one_operator(fit: Fit) -> Call:
    """The same by the matrix that takes targets to weights."""
    z, y = fit.z, columns(fit.y)

    def call() -> Tensor:
        zc, factor = _factored(z, float(fit.penalty.ridge))
        dual = len(factor) < z.shape[1]
        half = torch.cholesky_solve(zc if dual else zc.mT, factor)
        return heads((half.mT if dual else half) @ y, len(fit.y))

    return call


def _factored(z: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """The centred design (n, M) and the factor of its smaller side."""
    zc = z - z.mean(0)
    inner = zc @ zc.mT if len(z) < z.shape[1] else zc.mT @ zc
    inner.diagonal().add_(len(z) * ridge)
    return zc, torch.linalg.cholesky(inner)


def numpy_solve(fit: Fit) -> Call:
    """By np.linalg.solve, batched."""
    z, y, ridge = fit.z.numpy(), fit.y.numpy(), np.float32(fit.penalty.ridge)

    def call() -> Tensor:
        zc, yc = z - z.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
        n, M = z.shape[1:]
        zt = zc.transpose(0, 2, 1)
        if n < M:
            inner = zc @ zt + n * ridge * np.eye(n, dtype=z.dtype)
            return torch.from_numpy(zt @ np.linalg.solve(inner, yc))
        inner = zt @ zc + n * ridge * np.eye(M, dtype=z.dtype)
        return torch.from_numpy(np.linalg.solve(inner, zt @ yc))

    return call


def scipy_posv(fit: Fit) -> Call:
    """By LAPACK's posv, task by task."""
    require("scipy")
    from scipy.linalg import lapack

    z, y, ridge = fit.z.numpy(), fit.y.numpy(), np.float32(fit.penalty.ridge)

    def solve(zc: Any, yc: Any) -> Any:
        n, M = zc.shape
        dual = n < M
        inner = zc @ zc.T if dual else zc.T @ zc
        inner.flat[:: len(inner) + 1] += n * ridge
        x = lapack.sposv(inner, yc if dual else zc.T @ yc, overwrite_a=1)[1]
        return zc.T @ x if dual else x

    def call() -> Tensor:
        zc, yc = z - z.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
        return torch.from_numpy(np.stack([solve(a, b) for a, b in zip(zc, yc, strict=True)]))

    return call


class ImplicitRidge(torch.autograd.Function):
    """The ridge solution with its gradient written by hand, from the factor of the forward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, y: Tensor, ridge: float) -> Tensor:
        """Weights (T, M, C) by the smaller side."""
        z, y = z - z.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
        n, M = z.shape[1:]
        ctx.dual, ctx.shift = n < M, n * ridge
        inner = z @ z.mT if ctx.dual else z.mT @ z
        inner.diagonal(dim1=1, dim2=2).add_(ctx.shift)
        factor = torch.linalg.cholesky_ex(inner).L
        right = y if ctx.dual else z.mT @ y
        x = torch.cholesky_solve(right, factor)
        weight = z.mT @ x if ctx.dual else x
        ctx.save_for_backward(z, y, factor, weight)
        return weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """With u = K^-1 grad: r u' - (Z u) W' of Z, where r is the residual."""
        z, y, factor, weight = ctx.saved_tensors
        if ctx.dual:
            u = (grad - z.mT @ torch.cholesky_solve(z @ grad, factor)) / ctx.shift
        else:
            u = torch.cholesky_solve(grad, factor)
        zu = z @ u
        grad_z = torch.baddbmm(zu @ weight.mT, y - z @ weight, u.mT, beta=-1)
        return grad_z - grad_z.mean(1, keepdim=True), None, None
