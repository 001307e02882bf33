"""Frozen features of labelled files and texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sparsedis_kernels.data.cache import cached
from sparsedis_kernels.data.encoders import (
    IMAGE_ENCODER,
    TEXT_ENCODER,
    encode_images,
    encode_text,
)
from sparsedis_kernels.data.labelled import Labelled


def encoded(data: Labelled) -> Labelled:
    """The examples with features for inputs, (N, M) float32.

    Texts by ``encode_text`` (M = 384), files of images by ``encode_images`` (M = 1280). Features
    are kept by ``cached`` under the encoder's name and the examples' content, in their order.

    Args:
        data: N texts, or N paths of image files.

    Raises:
        OSError: a file cannot be read, or is no image.
        ImportError: a package of the extra ``text`` or ``images`` is not installed.
    """
    files = [path for path in data.inputs if isinstance(path, Path)]
    if files:
        features = cached(lambda: encode_images(files), _image_key(files))
    else:
        texts = [str(text) for text in data.inputs]
        features = cached(lambda: encode_text(texts), [TEXT_ENCODER, *texts])
    return replace(data, inputs=features)


def _image_key(files: list[Path]) -> Iterator[str | bytes]:
    """What the features depend on: a file may move, but not change."""
    yield IMAGE_ENCODER
    yield from (path.read_bytes() for path in files)
