"""Rendered scenes with known factors of variation: a stand-in for 3DShapes, not 3DShapes.

The factor grid is that of 3DShapes (Burgess and Kim, 2018), 10 x 10 x 10 x 8 x 4 x 15 = 480,000
scenes; the flat renderer, the shapes and the angles are this package's own, so results on it
are not comparable with results on 3DShapes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsedis_kernels.data.colour import palette
from sparsedis_kernels.data.tasks import Kind, Split, Tasks, draw_domains, eligible_domains

FACTORS = {
    "floor hue": 10,
    "wall hue": 10,
    "object hue": 10,
    "scale": 8,
    "shape": 4,
    "orientation": 15,
}
_SIZES = torch.tensor(list(FACTORS.values()))
_NOISE = 0.1

# Lengths are in half image widths from the centre.
_RADII = torch.linspace(0.35, 0.85, FACTORS["scale"])
_ANGLES = torch.deg2rad(torch.linspace(-45.0, 45.0, FACTORS["orientation"]))
_HORIZON = 0.25
_SUPERSAMPLE = 4


class ShapeTasks:
    """Regression on random subsets of the factors of rendered scenes; a ``TaskSource``.

    The scenes are a stand-in for 3DShapes, not 3DShapes (see ``render``). A task draws a non-empty
    subset of the six factors and a N(0, 1) weight for each, and its target is the weighted sum of
    the standardised factors plus noise of a tenth of its norm, scaled to unit power over the task.
    The splits are independent draws from the same law, and no domain is held out.

    Args:
        size: image height and width in pixels, 32 (default) or 64.
        correlation: equicorrelation of the factors' Gaussian copula, in [0, 1), default 0.

    Raises:
        ValueError: ``correlation`` is out of range.
    """

    name = "shapes"
    n_outputs = 1
    kind: Kind = "regression"
    domains: tuple[str, ...] = ("shapes",)
    held_out: int | None = None
    factor_names = tuple(FACTORS)

    def __init__(self, *, size: int = 32, correlation: float = 0.0) -> None:
        _check_correlation("ShapeTasks", correlation)
        self.input_shape: tuple[int, ...] = (3, size, size)
        self.correlation = correlation
        self.details: dict[str, Any] = {"size": size, "correlation": correlation}

    def sample(
        self,
        n_tasks: int,
        n_samples: int,
        generator: torch.Generator,
        *,
        split: Split = "train",
        held_out: bool = False,
    ) -> Tasks:
        """Draw tasks as ``TaskSource.sample`` says; x is in [0, 1]."""
        eligible = eligible_domains(self, split=split, held_out=held_out)
        domain = draw_domains(eligible, n_tasks, generator)
        weight = draw_weights(n_tasks, generator)
        x, factors = self.sample_inputs(n_tasks * n_samples, generator)
        x = x.view(n_tasks, n_samples, *self.input_shape)
        y = noisy_targets(factors.view(n_tasks, n_samples, len(FACTORS)), weight, generator)
        return Tasks(x=x, y=y, domain=domain)

    def sample_inputs(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw N scenes, (N, 3, size, size) float32, and their factors, (N, 6) int64."""
        factors = sample_factors(n, generator, correlation=self.correlation)
        return render(factors, size=self.input_shape[-1]), factors


def sample_factors(n: int, generator: torch.Generator, *, correlation: float = 0.0) -> Tensor:
    """Draw factor values with uniform marginals, (N, 6) int64 in the order of ``FACTORS``.

    Args:
        n: number of draws N.
        generator: the only source of randomness.
        correlation: equicorrelation rho of the Gaussian copula, in [0, 1), default 0: independent.

    Raises:
        ValueError: ``correlation`` is out of range.
    """
    _check_correlation("sample_factors", correlation)
    level = (sample_uniform(n, len(FACTORS), generator, correlation) * _SIZES).long()
    return level.minimum(_SIZES - 1)  # the uniform reaches 1 in float32


def sample_uniform(
    n: int, n_factors: int, generator: torch.Generator, correlation: float
) -> Tensor:
    """Draw from an equicorrelated Gaussian copula: uniform marginals, (N, K) float32 in [0, 1]."""
    own = torch.randn(n, n_factors, generator=generator)
    shared = torch.randn(n, 1, generator=generator)
    return torch.special.ndtr((1 - correlation) ** 0.5 * own + correlation**0.5 * shared)


def standardise(factors: Tensor) -> Tensor:
    """Factor values to zero mean and unit variance under uniform marginals, (..., 6) float32."""
    return (factors - (_SIZES - 1) / 2) / ((_SIZES**2 - 1) / 12).sqrt()


def draw_weights(n_tasks: int, generator: torch.Generator) -> Tensor:
    """Weights of each task's factors, (T, 6) float32: N(0, 1) on a non-empty subset, else 0.

    Every factor is in the subset with probability 1/2, given that the subset is not empty.
    """
    n_factors = len(FACTORS)
    # The bits of a uniform 1 .. 2^6 - 1 are fair coins conditioned on not all being tails.
    subset = torch.randint(1, 2**n_factors, (n_tasks, 1), generator=generator)
    mask = (subset >> torch.arange(n_factors)) & 1
    return mask * torch.randn(n_tasks, n_factors, generator=generator)


def noisy_targets(factors: Tensor, weight: Tensor, generator: torch.Generator) -> Tensor:
    """Weighted sums of standardised factors, with noise, at unit power, (T, n, 1) float32.

    The noise is Gaussian with 0.1 of the signal's norm; then mean_i y_ti^2 = 1 for every task.

    Args:
        factors: factor values, (T, n, 6) int64.
        weight: weights of the factors, (T, 6) float32.
        generator: the only source of randomness.
    """
    return add_noise(standardise(factors) @ weight[..., None], generator)


def add_noise(signal: Tensor, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise of 0.1 of the norm over n, then scale to mean square 1, (T, n, C)."""
    noise = F.normalize(torch.randn(signal.shape, generator=generator), dim=1)
    noisy = signal + _NOISE * signal.norm(dim=1, keepdim=True) * noise
    return F.normalize(noisy, dim=1) * signal.shape[1] ** 0.5


def render(factors: Tensor, size: int = 32) -> Tensor:
    """Draw the scenes: a stand-in for 3DShapes, not 3DShapes.

    A tilted horizon parts a light wall from a dark floor; before it lies a rectangle, an ellipse,
    a triangle or a ring. Orientation (-45 to 45 degrees) tilts horizon and object together, and
    scale is the object's half length (0.35 to 0.85 of half the width).

    Args:
        factors: factor values, (N, 6) int64 in the order of ``FACTORS``.
        size: image height and width in pixels, 32 (default) or 64.

    Returns:
        Images, (N, 3, size, size) float32 in [0, 1].

    Raises:
        ValueError: ``factors`` is not (N, 6), or a value is out of its factor's range.
    """
    _check_factors(factors)
    floor_hue, wall_hue, object_hue, scale, shape, orientation = factors.unbind(1)
    below_horizon, inside_object = _coverage(size)
    # Light wall, dark floor, vivid object: apart even where their hues agree.
    wall = palette(saturation=0.45)[wall_hue][..., None, None]
    floor = palette(value=0.6)[floor_hue][..., None, None]
    thing = palette()[object_hue][..., None, None]  # (N, 3, 1, 1)
    scene = wall.lerp(floor, below_horizon[orientation, None])
    return scene.lerp(thing, inside_object[scale, shape, orientation, None])


@cache
def _coverage(size: int) -> tuple[Tensor, Tensor]:
    """Share of each pixel under the horizon, (15, size, size), and object, (8, 4, 15, ...)."""
    fine = size * _SUPERSAMPLE
    axis = (torch.arange(fine) + 0.5) * (2 / fine) - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    cos, sin = _ANGLES.cos()[:, None, None], _ANGLES.sin()[:, None, None]
    u, v = cos * x + sin * y, cos * y - sin * x  # (15, fine, fine)
    radius = _RADII[:, None, None, None]
    objects = [_share(inside) for inside in _silhouettes(u / radius, v / radius)]
    return _share(v > _HORIZON), torch.stack(objects, 1)


def _silhouettes(u: Tensor, v: Tensor) -> list[Tensor]:
    """Which points of the unit frame lie in a rectangle, ellipse, triangle, ring."""
    rectangle = (u.abs() <= 1) & (v.abs() <= 0.6)
    ellipse = u**2 + (v / 0.6) ** 2 <= 1
    triangle = (v <= 0.7) & (v >= 1.7 * u.abs() - 1)
    hole = (u / 0.6) ** 2 + (v / 0.35) ** 2 <= 1
    ring = (u**2 + (v / 0.75) ** 2 <= 1) & ~hole
    return [rectangle, ellipse, triangle, ring]


def _share(inside: Tensor) -> Tensor:
    """Average over the points of each pixel, (..., fine, fine) bool -> (..., size, size)."""
    return F.avg_pool2d(inside.float().flatten(0, -3), _SUPERSAMPLE).unflatten(0, inside.shape[:-2])


def _check_factors(factors: Tensor) -> None:
    if factors.dim() != 2 or factors.shape[1] != len(FACTORS):
        raise ValueError(f"render: factors must be (N, {len(FACTORS)}), got {tuple(factors.shape)}")
    for (name, size), value in zip(FACTORS.items(), factors.T, strict=True):
        outside = value[(value < 0) | (value >= size)]
        if len(outside):
            raise ValueError(f"render: {name} must be in [0, {size}), got {outside[0]}")


def _check_correlation(caller: str, correlation: float) -> None:
    if not 0 <= correlation < 1:
        raise ValueError(f"{caller}: correlation must be in [0, 1), got {correlation}")
