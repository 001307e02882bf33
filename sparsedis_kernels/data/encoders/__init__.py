"""Frozen encoders of texts and images."""

from sparsedis_kernels.data.encoders.images import IMAGE_ENCODER, encode_images
from sparsedis_kernels.data.encoders.text import TEXT_ENCODER, encode_text

__all__ = ["IMAGE_ENCODER", "TEXT_ENCODER", "encode_images", "encode_text"]
