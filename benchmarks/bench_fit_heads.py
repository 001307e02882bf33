"""Head solves over many tasks, against batched PyTorch and scikit-learn's public estimators."""

import pytest
import torch

import sparsedis_kernels as sk
from tests.problems import Samples, heads_problem

RIDGE_SIZES = [(25, 64, 5), (50, 128, 5), (200, 128, 5)]
SPARSE_SIZES = [(50, 64, 5, 0.1), (50, 128, 5, 0.1), (50, 128, 5, 0.01), (50, 512, 1, 0.1)]
RIDGE = sk.Penalty(ridge=0.1)


def torch_ridge(samples: Samples) -> torch.Tensor:
    """Centred ridge by torch.linalg.cholesky, of the smaller side."""
    z = samples.z - samples.z.mean(dim=1, keepdim=True)
    y = samples.y - samples.y.mean(dim=1, keepdim=True)
    n, M = z.shape[1:]
    if n < M:
        inner = z @ z.mT + n * 0.1 * torch.eye(n)
        return z.mT @ torch.cholesky_solve(y, torch.linalg.cholesky(inner))
    inner = z.mT @ z + n * 0.1 * torch.eye(M)
    return torch.cholesky_solve(z.mT @ y, torch.linalg.cholesky(inner))


def sklearn_group(samples: Samples, strengths: torch.Tensor, tol: float) -> torch.Tensor:
    """One MultiTaskLasso (a Lasso for one output) per task."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    single = samples.y.shape[2] == 1
    kind = linear_model.Lasso if single else linear_model.MultiTaskLasso
    weights = []
    for z, y, strength in zip(samples.z.numpy(), samples.y.numpy(), strengths, strict=True):
        model = kind(float(strength), tol=tol, max_iter=100_000)
        weights.append(torch.from_numpy(model.fit(z, y[:, 0] if single else y).coef_.T))
    return torch.stack(weights).reshape(*samples.z.shape[::2], -1).float()


def loosest(samples: Samples, strengths: torch.Tensor, penalty: sk.Penalty) -> float:
    """The loosest tolerance at which scikit-learn, whose own is relative to ||y||^2, meets 1e-4."""
    for tol in (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6):
        weight = sklearn_group(samples, strengths, tol)
        if (sk.duality_gap(samples.z, samples.y, weight, penalty) <= 1e-4).all():
            return tol
    pytest.skip("scikit-learn misses the gap at every tolerance tried")


def bytes_of(samples: Samples) -> int:
    T, _, M = samples.z.shape
    return 4 * (samples.z.numel() + samples.y.numel() + T * M * samples.y.shape[2])


@pytest.mark.parametrize("size", RIDGE_SIZES, ids=str)
@pytest.mark.parametrize("provider", ["cpu", "torch cholesky"])
def bench_fit_heads_ridge(timed, size, provider):
    samples = heads_problem(200, *size, dtype=torch.float32)
    expected = sk.fit_heads(samples.z.double(), samples.y.double(), RIDGE).weight.float()
    calls = {
        "cpu": lambda: sk.fit_heads(samples.z, samples.y, RIDGE).weight,
        "torch cholesky": lambda: torch_ridge(samples),
    }
    timed(calls[provider], expected, tasks=200, bytes_moved=bytes_of(samples), tolerance=1e-3)


@pytest.mark.parametrize("size", SPARSE_SIZES, ids=str)
@pytest.mark.parametrize("provider", ["cpu", "cpu warm", "scikit-learn"])
def bench_fit_heads_group(timed, size, provider):
    *shape, share = size
    samples = heads_problem(20, *shape, dtype=torch.float32)
    strengths = share * sk.lambda_max(samples.z, samples.y, sk.Penalty(group=1.0))
    penalty = sk.Penalty(group=strengths[:, None])
    exact = sk.fit_heads(samples.z.double(), samples.y.double(), penalty, tol=1e-10).weight.float()
    moved = samples.z * (1 + 0.01 * torch.randn_like(samples.z))
    calls = {"cpu": lambda: sk.fit_heads(samples.z, samples.y, penalty).weight}
    if provider == "scikit-learn":
        tol = loosest(samples, strengths, penalty)
        calls[provider] = lambda: sklearn_group(samples, strengths, tol)
    if provider == "cpu warm":  # the training situation: the features moved by a percent
        start = sk.fit_heads(moved, samples.y, penalty).weight
        calls[provider] = lambda: sk.fit_heads(samples.z, samples.y, penalty, init=start).weight
    gap = sk.duality_gap(samples.z, samples.y, calls[provider](), penalty)
    assert (gap <= 1.01e-4).all(), f"{provider} misses the gap: {float(gap.max()):.2g}"
    timed(calls[provider], exact, tasks=20, bytes_moved=bytes_of(samples), tolerance=0.1)


@pytest.mark.parametrize("size", SPARSE_SIZES, ids=str)
def bench_fit_heads_backward(timed, size):
    *shape, share = size
    samples = heads_problem(20, *shape, dtype=torch.float32)
    strengths = share * sk.lambda_max(samples.z, samples.y, sk.Penalty(group=1.0))
    penalty = sk.Penalty(group=strengths[:, None])
    z = samples.z.requires_grad_()
    weight = sk.fit_heads(z, samples.y, penalty).weight
    seed = torch.randn_like(weight)
    (expected,) = torch.autograd.grad(weight, z, seed, retain_graph=True)
    timed(
        lambda: torch.autograd.grad(weight, z, seed, retain_graph=True)[0],
        expected,
        tasks=20,
        bytes_moved=2 * bytes_of(samples),
    )
