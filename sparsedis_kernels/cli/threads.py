"""The number of threads that a command uses."""

from __future__ import annotations


def set_threads(threads: int) -> None:
    """Let torch use as many CPU threads as ``--threads`` says.

    Raises:
        ValueError: it is less than 1.
    """
    import torch

    if threads < 1:
        raise ValueError(f"--threads must be >= 1, got {threads}")
    torch.set_num_threads(threads)
