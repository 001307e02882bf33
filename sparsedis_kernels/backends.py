"""Which implementation serves which op on which device, and why not another.

Every raw op is defined in two namespaces with one schema: ``sparsedis``, where the dispatcher
picks the native kernel of the tensor's device and falls back to the reference, and
``sparsedis_reference``, which is the reference and nothing else.
"""

from __future__ import annotations

import ctypes
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch

logger = logging.getLogger("sparsedis_kernels")

AUTOMATIC = "sparsedis"
REFERENCE = "sparsedis_reference"


@dataclass(frozen=True)
class Library:
    """A native library: where it was loaded from, or why it was not."""

    path: Path | None
    error: str | None


def _load(name: str) -> Library:
    package = Path(__file__).parent
    path = next((p for p in _candidates(package, name) if p.exists()), None)
    if path is None:
        return Library(None, f"{name}.so was not built into {package}")
    try:
        torch.ops.load_library(str(path))
    except (OSError, RuntimeError) as error:
        return Library(None, f"{path} did not load: {error}")
    return Library(path, None)


def _candidates(package: Path, name: str) -> list[Path]:
    # An editable install keeps the Python files in the source tree and the library in
    # site-packages: the package's search path lists both.
    import sparsedis_kernels

    return [Path(p) / f"{name}.so" for p in (str(package), *sparsedis_kernels.__path__)]


CPU_LIBRARY = _load("_C")
REQUESTED = os.environ.get("SPARSEDIS_BACKEND") or None


def available(device: str) -> dict[str, str | None]:
    """Each backend of `device` (``"cpu"``, ``"cuda"``, ...) with None, or why it cannot serve."""
    native = CPU_LIBRARY.error if device == "cpu" else f"serves CPU tensors, not {device}"
    return {"cpu": native, "reference": None}


def namespace(op: str, device: torch.device, backend: str | None) -> str:
    """The namespace of `torch.ops` that serves `op` on `device`.

    Args:
        op: name of the op, for error messages.
        device: where its tensors are.
        backend: ``"cpu"``, ``"reference"``, or None for the environment variable
            ``SPARSEDIS_BACKEND``, else the best one there is.

    Raises:
        RuntimeError: the backend asked for cannot serve this device.
    """
    requested = backend or REQUESTED
    if requested is None:
        return AUTOMATIC
    there = available(device.type)
    reason = there.get(requested, "there is no such backend")
    if reason is not None:
        usable = [name for name, why_not in there.items() if why_not is None]
        raise RuntimeError(
            f"{op}: backend={requested!r} cannot serve a tensor on {device}: {reason}; "
            f"there is {', '.join(map(repr, usable))}"
        )
    return REFERENCE if requested == "reference" else AUTOMATIC


def instruction_set() -> str:
    """What the CPU kernels run with: ``"baseline"``, ``"avx2"``, ``"avx512"``.

    ``"none"`` without the library, or where SPARSEDIS_ISA asks for what is not there.
    """
    if CPU_LIBRARY.path is None:
        return "none"
    name = ctypes.CDLL(str(CPU_LIBRARY.path)).sparsedis_instruction_set
    name.restype = ctypes.c_char_p
    return (name() or b"none").decode()


def op_table() -> list[tuple[str, str, str, str]]:
    """(op, device, backend that serves it, why no other) for every public op on CPU and CUDA."""
    import sparsedis_kernels.ops

    functions = [name for name in sparsedis_kernels.ops.__all__ if name.islower()]
    rows = []
    for op in functions:
        for device in ("cpu", "cuda"):
            there = available(device)
            serves = next(name for name, reason in there.items() if reason is None)
            reasons = [f"{name}: {reason}" for name, reason in there.items() if reason]
            rows.append((op, device, serves, "; ".join(reasons)))
    return rows


_reported: set[tuple[str, str]] = set()


def report_fallback(op: str, device: str) -> None:
    """Log once per op and device that the reference serves it, and why."""
    if (op, device) in _reported:
        return
    _reported.add((op, device))
    reason = available(device)["cpu"]
    logger.warning("%s on %s is served by the reference implementation: %s", op, device, reason)
