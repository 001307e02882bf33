"""Ten evenly spaced hues."""

from __future__ import annotations

import colorsys

import torch
from torch import Tensor

N_HUES = 10


def palette(*, saturation: float = 1.0, value: float = 1.0) -> Tensor:
    """RGB of the ten hues 0, 36, ..., 324 degrees, (10, 3) float32 in [0, 1]."""
    hues = [hue / N_HUES for hue in range(N_HUES)]
    return torch.tensor([colorsys.hsv_to_rgb(hue, saturation, value) for hue in hues])
