"""The backbone: convolutional for images, linear for vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """Inputs to M features, with batch normalisation at the end.

    Images, `input_shape` = (channels, height, width), go through two strided convolutions and two
    linear layers; vectors, `input_shape` = (d,), such as the features of a frozen encoder, through
    one linear layer. The last layer has no scale and shift of its own: every feature has zero mean
    and unit variance over a training batch, so that a penalty on head weights cannot be dodged by
    larger features. The initial weights depend on `seed` alone.

    Raises:
        ValueError: `input_shape` is neither that of an image nor that of a vector.
    """

    def __init__(self, input_shape: tuple[int, ...], n_features: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                *_body(input_shape, n_features), nn.BatchNorm1d(n_features, affine=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Features (T, n, M) of inputs (T, n, *input_shape)."""
        return self.layers(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _body(input_shape: tuple[int, ...], n_features: int) -> list[nn.Module]:
    if len(input_shape) == 1:
        return [nn.Linear(*input_shape, n_features)]
    if len(input_shape) != 3:
        raise ValueError(
            f"Backbone: input_shape must be (channels, height, width) or (d,), got {input_shape}"
        )
    channels, height, width = input_shape
    flat = 32 * -(-height // 4) * -(-width // 4)
    return [
        nn.Conv2d(channels, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(flat, 128),
        nn.ReLU(),
        nn.Linear(128, n_features),
    ]
