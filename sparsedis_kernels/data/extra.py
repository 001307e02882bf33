"""What to say when a package of the optional ``train`` extra is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def train_extra(caller: str) -> Iterator[None]:
    """Around an import from the ``train`` extra: a missing package becomes one plain sentence.

    Raises:
        ImportError: the package is not installed; names ``caller``, the package and the remedy.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        hint = "pip install 'sparsedis-kernels[train]'"
        raise ImportError(f"{caller} needs {package}: {hint}") from error
