"""Where inputs come from known factors: mixed by a network, or rendered as scenes.

A world draws K = 6 factors with uniform marginals, zero mean and unit variance, correlated by a
Gaussian copula, and makes inputs of them. It also says which encoder fits its inputs.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sparsedis_kernels.data.shapes import (
    FACTORS,
    draw_weights,
    render,
    sample_factors,
    sample_uniform,
    standardise,
)

K = len(FACTORS)
_MIXED = 12  # inputs of the mixing network
_SLOPE = 0.2  # of its leaky ReLU


class World(Protocol):
    """Factors, inputs made of them, and the layers of an encoder for such inputs."""

    def sample(self, n: int, correlation: float, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw factors (N, 6) and inputs (N, ...), both float32."""
        ...

    def layers(self, n_features: int) -> list[nn.Module]:
        """Layers from inputs to features; the weights come from torch's global generator."""
        ...


class Mixed:
    """x = B3 f(B2 f(B1 z + b)) in 12 dimensions, f a leaky ReLU, B random and orthonormal."""

    def __init__(self, generator: Generator) -> None:
        self.first = _orthonormal(_MIXED, K, generator)
        self.second = _orthonormal(_MIXED, _MIXED, generator)
        self.third = _orthonormal(_MIXED, _MIXED, generator)
        self.shift = 0.5 * torch.randn(_MIXED, generator=generator)

    def sample(self, n: int, correlation: float, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw factors (N, 6) and inputs (N, 12)."""
        factors = (sample_uniform(n, K, generator, correlation) - 0.5) * 12**0.5
        hidden = F.leaky_relu(factors @ self.first.T + self.shift, _SLOPE)
        return factors, F.leaky_relu(hidden @ self.second.T, _SLOPE) @ self.third.T

    def layers(self, n_features: int) -> list[nn.Module]:
        """12 - 128 - 128 - M."""
        wide = [nn.Linear(_MIXED, 128), nn.LeakyReLU(), nn.Linear(128, 128), nn.LeakyReLU()]
        return [*wide, nn.Linear(128, n_features)]


class Scenes:
    """Rendered scenes of 32 x 32 pixels with the factors of 3DShapes: a stand-in for that data."""

    def sample(self, n: int, correlation: float, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw factors (N, 6), standardised values of a grid, and images (N, 3, 32, 32)."""
        levels = sample_factors(n, generator, correlation=correlation)
        return standardise(levels), render(levels)

    def layers(self, n_features: int) -> list[nn.Module]:
        """Two convolutions without overlap, a hidden layer of 128, M features."""
        patches = [nn.Conv2d(3, 32, 4, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 2, stride=2)]
        hidden = [nn.ReLU(), nn.Flatten(), nn.Linear(64 * 4 * 4, 128), nn.ReLU()]
        return [*patches, *hidden, nn.Linear(128, n_features)]


class Encoder(nn.Module):
    """A world's layers, then batch normalisation without scale and shift: to (T, n, M)."""

    def __init__(self, world: World, n_features: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = world.layers(n_features)
        self.layers = nn.Sequential(*layers, nn.BatchNorm1d(n_features, affine=False))

    def forward(self, x: Tensor) -> Tensor:
        """Features of every task's inputs."""
        return self.layers(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def draw_tasks(n_tasks: int, n_outputs: int, dense: bool, generator: Generator) -> Tensor:
    """N(0, 1) weights of the factors, (T, 6, C): on a non-empty subset of them, or on all."""
    support = torch.ones(n_tasks, K) if dense else (draw_weights(n_tasks, generator) != 0).float()
    return support[..., None] * torch.randn(n_tasks, K, n_outputs, generator=generator)


def _orthonormal(rows: int, columns: int, generator: Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator)).Q
