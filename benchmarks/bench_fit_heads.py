"""Head solves over many tasks, against batched PyTorch and scikit-learn's public estimators."""

from functools import partial

import torch

import sparsedis_kernels as sk
from sparsedis_kernels.bench.case import Case, Job, UnavailableError, bytes_of
from tests.problems import Samples, heads_problem

RIDGE_SIZES = [(25, 64, 5), (50, 128, 5), (200, 128, 5)]  # n, M, C
SPARSE_SIZES = [(50, 64, 5, 0.1), (50, 128, 5, 0.1), (50, 128, 5, 0.01), (50, 512, 1, 0.1)]
RIDGE = sk.Penalty(ridge=0.1)


def problem(device: torch.device, *shape: int) -> Samples:
    """The same samples (T, n, M, C) for every provider."""
    torch.manual_seed(0)
    samples = heads_problem(*shape, dtype=torch.float32)
    return Samples(samples.z.to(device), samples.y.to(device))


def ridge_case(n: int, M: int, C: int, T: int = 200) -> Case:
    def setup(device):
        samples = problem(device, T, n, M, C)
        exact = sk.fit_heads(samples.z.double(), samples.y.double(), RIDGE).weight
        bytes_moved = bytes_of(samples.z, samples.y) + bytes_of(exact) // 2
        return Job(samples, exact, bytes_moved, tolerance=1e-3)

    providers = {
        "ours": lambda samples: lambda: sk.fit_heads(samples.z, samples.y, RIDGE).weight,
        "torch cholesky": lambda samples: lambda: torch_ridge(samples),
    }
    return Case("fit_heads", f"ridge n={n}", (T, M, C), "forward", setup, providers)


def group_case(n: int, M: int, C: int, share: float, direction: str, T: int = 20) -> Case:
    """Group-sparse heads at a share of every task's lambda_max."""

    def setup(device):
        samples = problem(device, T, n, M, C)
        strengths = share * sk.lambda_max(samples.z, samples.y, sk.Penalty(group=1.0))
        penalty = sk.Penalty(group=strengths[:, None])
        z, y = samples.z.double(), samples.y.double()
        moved = bytes_of(samples.z, samples.y) + 4 * T * M * C
        if direction == "backward":
            return Job((samples, penalty), gradient(Samples(z, y), penalty)(), 2 * moved)
        exact = sk.fit_heads(z, y, penalty, tol=1e-10).weight
        return Job((samples, penalty), exact, moved, tolerance=0.1)

    providers = {
        "forward": {name: partial(within_gap, make) for name, make in GROUP.items()},
        "backward": {"ours": lambda data: gradient(*data)},
    }
    kind = f"group n={n} lambda={share}"
    return Case("fit_heads", kind, (T, M, C), direction, setup, providers[direction])


def within_gap(make, data):
    """The call, whose weights meet the gap that every provider is asked for."""
    call, (samples, penalty) = make(*data), data
    gap = sk.duality_gap(samples.z, samples.y, call(), penalty)
    assert (gap <= 1.01e-4).all(), f"misses the gap: {float(gap.max()):.2g}"
    return call


def cold(samples, penalty):
    return lambda: sk.fit_heads(samples.z, samples.y, penalty).weight


def warm(samples, penalty):
    """The training situation: the features moved by a percent."""
    moved = samples.z * (1 + 0.01 * torch.randn_like(samples.z))
    start = sk.fit_heads(moved, samples.y, penalty).weight
    return lambda: sk.fit_heads(samples.z, samples.y, penalty, init=start).weight


def gradient(samples, penalty):
    z = samples.z.detach().requires_grad_()
    weight = sk.fit_heads(z, samples.y, penalty, tol=1e-6).weight
    seed = torch.linspace(-1, 1, weight.numel()).reshape(weight.shape).to(weight)
    return lambda: torch.autograd.grad(weight, z, seed, retain_graph=True)[0]


def scikit_learn(samples, penalty):
    """At the loosest tolerance, which is relative to ||y||^2, that meets the gap."""
    fit = partial(sklearn_group, samples, penalty)
    for tol in (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6):
        if (sk.duality_gap(samples.z, samples.y, fit(tol), penalty) <= 1e-4).all():
            return lambda: fit(tol)
    raise UnavailableError("misses the gap at every tolerance tried")


def sklearn_group(samples: Samples, penalty: sk.Penalty, tol: float) -> torch.Tensor:
    """One MultiTaskLasso (a Lasso for one output) per task."""
    try:
        from sklearn import linear_model
    except ImportError as error:
        raise UnavailableError("scikit-learn is not installed") from error
    single = samples.y.shape[2] == 1
    kind = linear_model.Lasso if single else linear_model.MultiTaskLasso
    tasks = zip(
        samples.z.numpy(force=True), samples.y.numpy(force=True), penalty.group, strict=True
    )
    weights = []
    for z, y, strength in tasks:
        model = kind(float(strength), tol=tol, max_iter=100_000)
        weights.append(torch.from_numpy(model.fit(z, y[:, 0] if single else y).coef_.T))
    shape = (*samples.z.shape[::2], samples.y.shape[2])
    return torch.stack(weights).reshape(shape).to(samples.z)


GROUP = {"ours": cold, "ours warm": warm, "scikit-learn": scikit_learn}


def torch_ridge(samples: Samples) -> torch.Tensor:
    """Centred ridge by torch.linalg.cholesky, of the smaller side."""
    z = samples.z - samples.z.mean(dim=1, keepdim=True)
    y = samples.y - samples.y.mean(dim=1, keepdim=True)
    n, M = z.shape[1:]
    if n < M:
        inner = z @ z.mT + n * 0.1 * torch.eye(n, device=z.device)
        return z.mT @ torch.cholesky_solve(y, torch.linalg.cholesky(inner))
    inner = z.mT @ z + n * 0.1 * torch.eye(M, device=z.device)
    return torch.cholesky_solve(z.mT @ y, torch.linalg.cholesky(inner))


CASES = [
    *(ridge_case(*size) for size in RIDGE_SIZES),
    *(group_case(*size, "forward") for size in SPARSE_SIZES),
    *(group_case(*size, "backward") for size in SPARSE_SIZES),
]


def bench_fit_heads(timed, case, provider):
    timed(case, provider)
