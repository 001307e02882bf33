"""What to say when a package of an optional extra is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


@contextmanager
def needs_extra(caller: str, extra: str) -> Iterator[None]:
    """Around an import from the optional ``extra``: a missing package becomes one plain sentence.

    Raises:
        ImportError: the package is not installed; names ``caller``, the package and the remedy.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        hint = f"pip install 'sparsedis-kernels[{extra}]'"
        raise ImportError(f"{caller} needs {package}: {hint}") from error


def train_extra(caller: str) -> AbstractContextManager[None]:
    """``needs_extra`` for the ``train`` extra."""
    return needs_extra(caller, "train")
