"""Where builds are kept, and how parallel test workers make each of them once."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_directory() -> Path:
    """Where builds are kept: $PTX_CACHE, $XDG_CACHE_HOME/ptx-cpu or the temporary directory."""
    if "PTX_CACHE" in os.environ:
        path = Path(os.environ["PTX_CACHE"])
    elif "XDG_CACHE_HOME" in os.environ:
        path = Path(os.environ["XDG_CACHE_HOME"]) / "ptx-cpu"
    else:
        path = Path(tempfile.gettempdir()) / f"ptx-cpu-{os.getuid()}"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """One process at a time for what is made at `target`."""
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def made_once(target: Path, make: Callable[[Path], object]) -> Path:
    """`target`; where it is not there, `make` writes it under another name, that none sees half."""
    if not target.exists():
        with locked(target):
            if not target.exists():
                unfinished = target.with_name(f"{target.name}.unfinished")
                make(unfinished)
                unfinished.rename(target)
    return target
