"""Features kept on disk: a frozen encoder runs once for the same inputs."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def cached(
    features_of: Callable[[], Tensor],
    key_parts: Iterable[str | bytes],
    folder: str | Path | None = None,
) -> Tensor:
    """``features_of()``, computed only if ``folder`` does not hold the result for ``key_parts``.

    For example ``cached(lambda: encode_text(texts), [TEXT_ENCODER, *texts])``. The file is named
    by a SHA-256 over the parts, and appears whole or not at all. A damaged one is made anew.

    Args:
        features_of: computes the features, of any shape and any dtype that NumPy has.
        key_parts: all that the features depend on: name and version of the encoder, and the
            content of the inputs. Their order counts, and where one part ends.
        folder: where the files are; None, the default, is the environment variable
            ``SPARSEDIS_CACHE``, or ``~/.cache/sparsedis`` where that is not set. Made if absent.

    Returns:
        The features, on the CPU and detached.

    Raises:
        OSError: the folder cannot be read or written.

    Warns:
        RuntimeWarning: a file was damaged.
    """
    if folder is None:
        folder = os.environ.get("SPARSEDIS_CACHE", "~/.cache/sparsedis")
    path = Path(folder).expanduser() / f"{_digest(key_parts)}.npz"
    features = _read(path)
    if features is None:
        features = features_of().detach().cpu()
        _write(features, path)
    return features


def _digest(parts: Iterable[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        # The length keeps ("ab", "c") apart from ("a", "bc").
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _read(path: Path) -> Tensor | None:
    """The features at ``path``, or None if there are none or they are damaged."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        try:
            # The format is a zip file, whose check sum is compared on the way.
            with np.load(file, allow_pickle=False) as stored:
                return torch.from_numpy(stored["features"])
        except Exception as error:  # a damaged file can raise nearly anything
            warnings.warn(f"cached: {path} is damaged ({error}), made anew", RuntimeWarning, 3)
            return None


def _write(features: Tensor, path: Path) -> None:
    """Write to a temporary file in the same folder, within which replacing is atomic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, features=features.numpy())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
