"""Frozen features of labelled files and texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sparsedis_kernels.data.cache import cached
from sparsedis_kernels.data.encoders import (
    IMAGE_ENCODER,
    TEXT_ENCODER,
    encode_images,
    encode_text,
)
from sparsedis_kernels.data.labelled import Labelled

# Examples whose features share a file: an interruption loses the minutes that these take.
_PART = 2000


def encoded(data: Labelled) -> Labelled:
    """The examples with features for inputs, (N, M) float32.

    Texts by ``encode_text`` (M = 384), files of images by ``encode_images`` (M = 1280). Features
    are kept by ``cached`` under the encoder's name and the examples' content, 2,000 at a time in
    their order, so that an interrupted call can be made again.

    Args:
        data: N texts, or N paths of image files.

    Raises:
        OSError: a file cannot be read, or is no image.
        ImportError: a package of the extra ``text`` or ``images`` is not installed.
    """
    starts = range(0, len(data.inputs), _PART)
    parts = [_features(data.inputs[start : start + _PART]) for start in starts]
    return replace(data, inputs=torch.cat(parts))


def _features(inputs: Sequence[Path] | Sequence[str] | Tensor) -> Tensor:
    files = [path for path in inputs if isinstance(path, Path)]
    if files:
        return cached(lambda: encode_images(files), _image_key(files))
    texts = [str(text) for text in inputs]
    return cached(lambda: encode_text(texts), [TEXT_ENCODER, *texts])


def _image_key(files: list[Path]) -> Iterator[str | bytes]:
    """What the features depend on: a file may move, but not change."""
    yield IMAGE_ENCODER
    yield from (path.read_bytes() for path in files)
