"""The number of threads that a command uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def set_threads(threads: int) -> None:
    """Let torch use as many CPU threads as ``--threads`` says.

    Raises:
        ValueError: it is less than 1.
    """
    import torch

    _require_positive(threads)
    torch.set_num_threads(threads)


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Hold what starts within to `threads` threads, and where the system can (Linux) CPUs.

    Libraries with thread pools of their own do not know torch's setting, but they start no more
    threads than there are CPUs for: the first import of such a library has to come within.

    Raises:
        ValueError: `threads` is less than 1.
    """
    _require_positive(threads)
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if before:
        os.sched_setaffinity(0, sorted(before)[:threads])
    try:
        set_threads(threads)
        yield
    finally:
        if before:
            os.sched_setaffinity(0, before)


def _require_positive(threads: int) -> None:
    if threads < 1:
        raise ValueError(f"--threads must be >= 1, got {threads}")
