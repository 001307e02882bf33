"""Examples in batches, with a bar."""

from __future__ import annotations

from collections.abc import Iterator

from sparsedis_kernels.data.extra import needs_extra


def batches(n: int, batch_size: int, progress: bool, caller: str, extra: str) -> Iterator[slice]:
    """The consecutive parts of n examples, with a bar on a terminal."""
    if batch_size < 1:
        raise ValueError(f"{caller}: batch_size must be at least 1, got {batch_size}")
    with needs_extra(caller, extra):
        from tqdm import tqdm
    bar = tqdm(range(0, n, batch_size), desc=caller, disable=None if progress else True)
    return (slice(first, first + batch_size) for first in bar)
