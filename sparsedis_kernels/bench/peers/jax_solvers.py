"""Heads by jax, compiled and vectorised over tasks: ridge by linear algebra, the rest by jaxopt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsedis_kernels.bench.case import Call
from sparsedis_kernels.bench.heads import Fit, loosest, loosest_setting, require


def ridge(fit: Fit) -> Call:
    """By a Cholesky factor of the smaller side."""
    jax, solve = _ridge(fit)
    z, y = (jax.numpy.asarray(v.numpy()) for v in (fit.z, fit.y))
    run = jax.jit(jax.vmap(solve))
    return lambda: _tensor(run(z, y))


def ridge_gradient(fit: Fit, seed: Tensor) -> Call:
    """The gradient in z of <seed, W>, through the factor."""
    jax, solve = _ridge(fit)
    z, y, s = (jax.numpy.asarray(v.numpy()) for v in (fit.z, fit.y, seed))
    run = jax.jit(jax.vmap(jax.grad(lambda z, y, s: (solve(z, y) * s).sum())))
    return lambda: _tensor(run(z, y, s))


def _ridge(fit: Fit) -> tuple[Any, Callable[..., Any]]:
    require("jax")
    import jax
    import jax.numpy as jnp

    strength = float(fit.penalty.ridge)

    def solve(z: Any, y: Any) -> Any:
        z, y = z - z.mean(0), y - y.mean(0)
        n, M = z.shape
        if n < M:
            inner = z @ z.T + n * strength * jnp.eye(n)
            return z.T @ jax.scipy.linalg.solve(inner, y, assume_a="pos")
        inner = z.T @ z + n * strength * jnp.eye(M)
        return jax.scipy.linalg.solve(inner, z.T @ y, assume_a="pos")

    return jax, solve


def proximal_gradient(fit: Fit) -> Call:
    """jaxopt's ProximalGradient with its own acceleration, the samples scaled to curvature 1."""
    solve, _ = _solver(fit, _proximal(fit))
    return loosest(fit, solve, 1, 1.25)


def lbfgs(fit: Fit) -> Call:
    """jaxopt's LBFGS, of a loss with a ridge."""
    solve, _ = _solver(fit, _smooth(fit))
    return loosest(fit, solve, 2, 1.25)


def _solver(
    fit: Fit, one_task: Callable[..., Any]
) -> tuple[Callable[[float], Tensor], tuple[Any, ...]]:
    """Weights after a number of steps, and what they are of: z, y, l1, group, ridge, start."""
    import jax
    import jax.numpy as jnp

    run = jax.jit(jax.vmap(one_task, in_axes=(0,) * 6 + (None,)))
    strengths = [fit.rows(level) for level in ("l1", "group", "ridge")]
    data = tuple(jnp.asarray(v.numpy()) for v in (*fit.design(), *strengths, fit.start()))
    M = fit.z.shape[2]
    return lambda count: _tensor(run(*data, int(count)))[:, :M], data


def _proximal(fit: Fit) -> Callable[..., Any]:
    """A task's weights by proximal gradient steps."""
    require("jaxopt")
    import jax
    import jax.numpy as jnp
    import jaxopt

    loss, curvature = _loss(fit.loss), fit.kind.curvature

    def prox(w: Any, strengths: Any, scaling: Any = 1.0) -> Any:
        l1, group, ridge = (scaling * s for s in strengths)
        w = jnp.sign(w) * jax.nn.relu(jnp.abs(w) - l1)
        norm = jnp.maximum(jnp.linalg.norm(w, axis=1, keepdims=True), 1e-30)
        return w * jax.nn.relu(1 - group / norm) / (1 + ridge)

    def value(w: Any, z: Any, y: Any, largest: Any) -> Any:
        return loss(z @ w, y) / (len(z) * largest)

    def solve(z: Any, y: Any, l1: Any, group: Any, ridge: Any, start: Any, maxiter: int) -> Any:
        # A traced step size is refused: the objective is scaled instead.
        largest = curvature * jax.lax.stop_gradient(_largest_eigenvalue(z))
        strengths = tuple(s / largest for s in (l1, group, ridge))
        solver = jaxopt.ProximalGradient(value, prox, stepsize=1.0, maxiter=maxiter, tol=0.0)
        return solver.run(start, strengths, z, y, largest).params

    return solve


def _smooth(fit: Fit) -> Callable[..., Any]:
    """A task's weights by LBFGS."""
    require("jaxopt")
    import jaxopt

    loss = _loss(fit.loss)

    def value(w: Any, z: Any, y: Any, ridge: Any) -> Any:
        return loss(z @ w, y) / len(z) + (ridge * w**2).sum() / 2

    def solve(z: Any, y: Any, l1: Any, group: Any, ridge: Any, start: Any, maxiter: int) -> Any:
        solver = jaxopt.LBFGS(value, maxiter=maxiter, tol=0.0, linesearch="zoom")
        return solver.run(start, z, y, ridge).params

    return solve


def _loss(name: str) -> Callable[[Any, Any], Any]:
    """The sum over samples of a loss of scores (n, C)."""
    import jax

    losses: dict[str, Callable[[Any, Any], Any]] = {
        "squared": lambda u, y: ((u - y) ** 2).sum() / 2,
        "multinomial": lambda u, y: (jax.nn.logsumexp(u, axis=1) - (y * u).sum(1)).sum(),
        "logistic": lambda u, y: (jax.nn.softplus(u) - y * u).sum(),
    }
    return losses[name]


def _largest_eigenvalue(z: Any) -> Any:
    """As in `fista`: of Z'Z/n, a little above."""
    import jax.numpy as jnp

    n, M = z.shape
    inner = (z @ z.T if n < M else z.T @ z) / n
    v = jnp.ones(len(inner))
    for _ in range(20):
        v = inner @ v
        v = v / jnp.maximum(jnp.linalg.norm(v), 1e-12)
    return 1.05 * jnp.linalg.norm(inner @ v)


def implicit_gradient(fit: Fit, seed: Tensor) -> Call:
    """The gradient in z of <seed, W>, by jaxopt's implicit differentiation of the fixed point."""
    one = _proximal(fit)
    solve, data = _solver(fit, one)
    count = int(loosest_setting(fit, solve, 1, 1.25))
    import jax

    def functional(z: Any, y: Any, l1: Any, group: Any, ridge: Any, start: Any, s: Any) -> Any:
        return (one(z - z.mean(0), y, l1, group, ridge, start, count) * s).sum()

    grad = jax.jit(jax.vmap(jax.grad(functional)))
    s = jax.numpy.asarray(seed.numpy())
    return lambda: _tensor(grad(*data, s))


def _tensor(array: Any) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.array(array.block_until_ready()))
