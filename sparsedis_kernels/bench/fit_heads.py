"""Head fits over many tasks: ridge and sparse, cold and warm, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from sparsedis_kernels.bench.case import (
    COMPILED,
    Bar,
    Call,
    Case,
    Job,
    Provider,
    close_to,
    compiled,
)
from sparsedis_kernels.bench.heads import (
    Fit,
    at_share,
    certified,
    loosest_setting,
    moved_bytes,
    ours,
    problem,
    ridge_flops,
    warmed,
)
from sparsedis_kernels.bench.peers import estimators, fista, jax_solvers, linalg, scikit
from sparsedis_kernels.ops import fit_heads
from sparsedis_kernels.penalty import Penalty

STRENGTH = 0.1
RIDGE = Penalty(ridge=STRENGTH)
RIDGE_TASKS, SPARSE_TASKS = 200, 50
# (n, M, C): how many times as fast as the best peer forward, and with the gradient.
RIDGE_SIZES = {
    (25, 64, 5): (5.0, 6.0),
    (50, 64, 5): (5.0, 6.0),
    (50, 128, 5): (5.0, 6.0),
    (200, 128, 5): (2.5, 6.0),
    (50, 512, 5): (1.4, 6.0),
    (200, 512, 5): (1.4, 6.0),
}
OF_PEAK, FROM_FEATURES = 0.4, 128  # of the matrix product's peak, for that many features or more
# (n, M, C, share of lambda_max): times as fast as scikit-learn's kernel, cold and warm.
SPARSE_SIZES = {
    (50, 64, 5, 0.1): (10.0, 14.0),
    (25, 64, 5, 0.1): (10.0, 14.0),
    (50, 128, 5, 0.1): (10.0, 14.0),
    (50, 128, 5, 0.01): (10.0, 14.0),
    (50, 512, 5, 0.1): (10.0, 14.0),
    (200, 128, 5, 0.01): (8.0, 7.0),
    (50, 64, 1, 0.01): (5.0, 8.0),
    (200, 128, 1, 0.01): (4.0, 4.0),
    (50, 512, 1, 0.1): (14.0, 35.0),
}
PUBLIC = 20.0  # times as fast as scikit-learn's estimators
TOLERANCES = (1e-4, 1e-6)
# Sparse group, half of it l1: times as fast as batched FISTA.
NESTED_SIZES = {(50, 64, 5, 0.1): 40.0, (50, 128, 5, 0.1): 40.0, (50, 128, 5, 0.01): 60.0}
# Gradient of a group-sparse solution: times as fast as FISTA with a solve on the support, jaxopt.
GRADIENT_SIZES: list[tuple[int, int, int, float]] = [
    (50, 64, 5, 0.1),
    (50, 128, 5, 0.1),
    (50, 128, 5, 0.01),
    (200, 128, 5, 0.1),
]
GRADIENT = {"implicit function": 20.0, "jaxopt, implicit": 50.0}

KERNELS = ("scikit-learn kernel", "scikit-learn Gram kernel")


def cases(op: str, device_type: str, quick: bool) -> Iterator[Case]:
    """Ridge, sparse and nested heads, and gradients; of each the first if `quick`."""
    few = slice(0, 1 if quick else None)
    for ridge_size, (forward, both) in [*RIDGE_SIZES.items()][few]:
        yield ridge_case(ridge_size, forward)
        yield ridge_gradient_case(ridge_size, both)
    for size, factors in [*SPARSE_SIZES.items()][few]:
        for tol in TOLERANCES:
            for warm, factor in zip((False, True), factors, strict=True):
                yield sparse_case(size, tol, warm, factor)
    for size, times in [*NESTED_SIZES.items()][few]:
        yield nested_case(size, times)
    yield from map(gradient_case, GRADIENT_SIZES[few])


BOTH: dict[str, Provider] = {"ours": ours, "reference": partial(ours, backend="reference")}


# ---- ridge


def ridge_case(size: tuple[int, int, int], factor: float) -> Case:
    """The fit of ridge heads."""
    n, M, C = size

    def setup(device: torch.device) -> Job:
        fit = replace(problem(device, RIDGE_TASKS, *size), penalty=RIDGE)
        exact = ours(fit.double(), backend="reference")()
        flops = RIDGE_TASKS * ridge_flops(*size)
        return Job(fit, close_to(exact, 1e-3), moved_bytes(fit), flops)

    libraries: dict[str, Provider] = {
        "torch cholesky": partial(by_cholesky, linalg.torch_cholesky),
        COMPILED: partial(compiled, by_cholesky, linalg.torch_cholesky),
    }
    peers: dict[str, Provider] = {
        "numpy solve": linalg.numpy_solve,
        "scipy posv": linalg.scipy_posv,
        "jax": jax_solvers.ridge,
    }
    bars = [Bar(factor, (*libraries, *peers))]
    if M >= FROM_FEATURES:
        bars.append(Bar(OF_PEAK, ("matrix product",)))
    where = ("fit_heads", f"ridge n={n}", (RIDGE_TASKS, M, C), "forward")
    return Case(*where, setup, {**BOTH, **libraries}, peers, tuple(bars))


def by_cholesky(solve: Callable[..., Tensor], fit: Fit) -> Call:
    """The call of `torch_cholesky`, or of what became of it."""
    return lambda: solve(fit.z, fit.y, STRENGTH)


def ridge_gradient_case(size: tuple[int, int, int], factor: float) -> Case:
    """The fit of ridge heads, then the gradient in z."""
    n, M, C = size
    solvers: dict[str, Callable[[Fit, Tensor], Tensor]] = {
        "ours": lambda fit, z: fit_heads(z, fit.y, RIDGE).weight,
        "torch autograd": lambda fit, z: linalg.torch_cholesky(z, fit.y, STRENGTH),
        "implicit function": lambda fit, z: linalg.ImplicitRidge.apply(z, fit.y, STRENGTH),
    }

    def setup(device: torch.device) -> Job:
        fit = replace(problem(device, RIDGE_TASKS, *size), penalty=RIDGE)
        exact = gradient(solvers["ours"], fit.double())()
        return Job(fit, close_to(exact, 1e-3), 2 * moved_bytes(fit))

    providers = {name: partial(gradient, solve) for name, solve in solvers.items()}
    peers: dict[str, Provider] = {"jax": lambda f: jax_solvers.ridge_gradient(f, seed_of(f))}
    bars = (Bar(factor, ("implicit function", "jax")), Bar(25.0, ("torch autograd",)))
    where = ("fit_heads", f"ridge n={n}", (RIDGE_TASKS, M, C), "both")
    return Case(*where, setup, providers, peers, bars)


def seed_of(fit: Fit) -> Tensor:
    """A cotangent of the weights, (T, M, C)."""
    T, _, M, C = fit.sizes
    return torch.linspace(-1, 1, T * M * C).reshape(T, M, C).to(fit.z)


def gradient(solve: Callable[[Fit, Tensor], Tensor], fit: Fit) -> Call:
    """A call that solves and pulls `seed_of` back to z."""
    z, seed = fit.z.detach().requires_grad_(), seed_of(fit)
    return lambda: torch.autograd.grad(solve(fit, z), z, seed)[0]


# ---- sparse


def sparse_fit(
    device: torch.device, size: tuple[int, int, int, float], penalty: Penalty, tol: float
) -> Fit:
    """A fit at a share of every task's lambda_max."""
    *sizes, share = size
    fit = problem(device, SPARSE_TASKS, *sizes)
    return at_share(replace(fit, penalty=penalty, tol=tol), share)


def sparse_case(size: tuple[int, int, int, float], tol: float, warm: bool, factor: float) -> Case:
    """Lasso for one output, else group-sparse heads."""
    n, M, C, share = size
    penalty = Penalty(l1=1.0) if C == 1 else Penalty(group=1.0)

    def setup(device: torch.device) -> Job:
        fit = sparse_fit(device, size, penalty, tol)
        fit = warmed(fit) if warm else fit
        return Job(fit, certified(fit), moved_bytes(fit))

    peers: dict[str, Provider] = {
        KERNELS[0]: scikit.kernel,
        "scikit-learn": estimators.scikit_learn,
        "celer": estimators.celer,
        "skglm": estimators.skglm,
        "jaxopt": jax_solvers.proximal_gradient,
    }
    if C == 1:
        peers[KERNELS[1]] = scikit.gram_kernel
    providers: Mapping[str, Provider] = {**BOTH, "torch FISTA": fista.fista}
    bars = (Bar(factor, KERNELS), Bar(PUBLIC, ("scikit-learn", "celer", "skglm", "jaxopt")))
    start = "warm" if warm else "cold"
    kind = f"{'lasso' if C == 1 else 'group'} {share} n={n} gap={tol:g} {start}"
    where = ("fit_heads", kind, (SPARSE_TASKS, M, C), "forward")
    return Case(*where, setup, providers, peers, bars if not warm else bars[:1])


def nested_case(size: tuple[int, int, int, float], factor: float) -> Case:
    """Sparse group heads, which no library but a FISTA fits fast."""
    n, M, C, share = size

    def setup(device: torch.device) -> Job:
        fit = sparse_fit(device, size, Penalty(l1=0.5, group=0.5), 1e-4)
        return Job(fit, certified(fit), moved_bytes(fit))

    providers: Mapping[str, Provider] = {
        **BOTH,
        "torch FISTA": fista.fista,
        COMPILED: fista.compiled_fista,
    }
    bars = (Bar(factor, ("torch FISTA", COMPILED)),)
    where = ("fit_heads", f"sparse group {share} n={n}", (SPARSE_TASKS, M, C), "forward")
    return Case(*where, setup, providers, {}, bars)


def gradient_case(size: tuple[int, int, int, float]) -> Case:
    """The fit of group-sparse heads to a gap of 1e-6, then the gradient in z."""
    n, M, C, share = size

    def setup(device: torch.device) -> Job:
        fit = sparse_fit(device, size, Penalty(group=1.0), 1e-6)
        exact = gradient(by_ours, replace(fit, tol=1e-12).double())()
        return Job(fit, close_to(exact, 1e-2), 2 * moved_bytes(fit))

    providers: dict[str, Provider] = {
        "ours": partial(gradient, by_ours),
        "implicit function": implicit_function,
    }
    peers: dict[str, Provider] = {
        "jaxopt, implicit": lambda f: jax_solvers.implicit_gradient(f, seed_of(f))
    }
    bars = tuple(Bar(factor, (name,)) for name, factor in GRADIENT.items())
    where = ("fit_heads", f"group {share} n={n}", (SPARSE_TASKS, M, C), "both")
    return Case(*where, setup, providers, peers, bars)


def by_ours(fit: Fit, z: Tensor) -> Tensor:
    """Weights that are differentiable in z."""
    return fit_heads(z, fit.y, fit.penalty, tol=fit.tol).weight


def implicit_function(fit: Fit) -> Call:
    """FISTA and one solve on the padded supports."""
    count = int(loosest_setting(fit, lambda c: fista.solution(fit, int(c)), 1, 1.25))
    return gradient(lambda f, z: fista.ImplicitHeads.apply(z, f.y, f, count), fit)
