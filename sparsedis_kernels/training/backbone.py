"""A small convolutional backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """Images to M features: two strided convolutions, two linear layers, batch normalisation.

    The last layer has no scale and shift of its own: every feature has zero mean and unit variance
    over a training batch, so that a penalty on head weights cannot be dodged by larger features.
    `input_shape` is (channels, height, width). The initial weights depend on `seed` alone.
    """

    def __init__(self, input_shape: tuple[int, ...], n_features: int, seed: int = 0) -> None:
        super().__init__()
        channels, height, width = input_shape
        flat = 32 * -(-height // 4) * -(-width // 4)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Conv2d(channels, 16, 5, stride=2, padding=2),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(flat, 128),
                nn.ReLU(),
                nn.Linear(128, n_features),
                nn.BatchNorm1d(n_features, affine=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Features (T, n, M) of images (T, n, channels, height, width)."""
        return self.layers(x.flatten(0, 1)).unflatten(0, x.shape[:2])
