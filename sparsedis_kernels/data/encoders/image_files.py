"""Image files as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparsedis_kernels.data.extra import needs_extra


def read_images(files: Sequence[Path], side: int) -> Tensor:
    """Red, green and blue of B files, scaled to squares (bicubic), (B, 3, side, side) float32.

    Args:
        files: B files of any format and mode that Pillow reads.
        side: height and width in pixels.

    Raises:
        OSError: a file cannot be read, or is no image.
        ImportError: Pillow is not installed.
    """
    with needs_extra("read_images", "images"):
        from PIL import Image
    pixels = np.empty((len(files), side, side, 3), np.uint8)
    for row, file in zip(pixels, files, strict=True):
        with Image.open(file) as image:
            try:
                row[:] = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            except (OSError, SyntaxError) as error:  # Pillow's, of a file cut short or damaged
                raise OSError(f"{file}: {error}") from error
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
