"""Which implementation serves which op on which device, and why not another.

Every raw op is defined in namespaces with one schema: ``sparsedis``, where the dispatcher picks
the native kernel of the tensor's device (C++; for CUDA tensors CUDA C++ or Triton) and falls back
to the reference; ``sparsedis_reference``, which is the reference and nothing else; and, for ops
with a Triton kernel, ``sparsedis_triton``.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger("sparsedis_kernels")

AUTOMATIC = "sparsedis"
REFERENCE = "sparsedis_reference"
TRITON = "sparsedis_triton"

# Raw ops with a Triton kernel, and the module of `sparsedis_kernels.triton` that holds it.
TRITON_MODULES = {
    "prox": "prox",
    "prox_": "prox",
    "prox_backward": "prox_backward",
    "prox_sgd_": "prox_step",
    "prox_adamw_": "prox_step",
    "radial_prox": "group_prox",
    "radial_prox_backward": "group_prox",
    "linf_prox": "group_prox",
    "linf_prox_backward": "group_prox",
    "feature_usage": "feature_usage",
    "feature_usage_backward": "feature_usage",
}
# Raw ops with a CUDA C++ kernel: those that are bound by arithmetic, where Triton's are by memory.
CUDA_OPS = {"lambda_max", "duality_gap", "fit_heads"}
# Public ops whose raw op has another name.
RAW_NAMES = {
    "prox_mcp": "radial_prox",
    "prox_scad": "radial_prox",
    "prox_l0": "radial_prox",
    "prox_linf": "linf_prox",
}
# Devices whose tensors Triton kernels may be given. ("cuda" is also what PyTorch calls AMD GPUs.)
TRITON_DEVICES = {"cuda"}
# Found, not imported: Triton costs time that only a launch should pay.
TRITON_ERROR = None if importlib.util.find_spec("triton") else "is not installed"


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
        # PyTorch's own error names the path, and the linker's reason is its cause.
        return Library(None, f"{path} did not load: {error.__cause__ or error}")
    return Library(path, None)


def _load_cuda() -> Library:
    # It asks PyTorch for the current stream, which a build without CUDA does not have.
    if torch.version.cuda is None:
        return Library(None, f"torch {torch.__version__} is built without CUDA")
    return _load("_C_cuda")


def _candidates(package: Path, name: str) -> list[Path]:
    # An editable install keeps the Python files in the source tree and the library in
    # site-packages: the package's search path lists both.
    import sparsedis_kernels

    return [Path(p) / f"{name}.so" for p in (str(package), *sparsedis_kernels.__path__)]


CPU_LIBRARY = _load("_C")
CUDA_LIBRARY = _load_cuda()
REQUESTED = os.environ.get("SPARSEDIS_BACKEND") or None


def available(op: str, device: str) -> dict[str, str | None]:
    """Each backend of `op` on `device` ("cpu", "cuda", ...) with None, or why it cannot serve."""
    native = CPU_LIBRARY.error if device == "cpu" else f"serves CPU tensors, not {device}"
    return {
        "cpu": native,
        "cuda": _why_not_cuda(op, device),
        "triton": _why_not_triton(op, device),
        "reference": None,
    }


def _why_not_cuda(op: str, device: str) -> str | None:
    if op not in CUDA_OPS:
        return "has no kernel for this op"
    if device != "cuda":
        return f"serves CUDA tensors, not {device}"
    return CUDA_LIBRARY.error


def _why_not_triton(op: str, device: str) -> str | None:
    if RAW_NAMES.get(op, op) not in TRITON_MODULES:
        return "has no kernel for this op"
    if device not in TRITON_DEVICES:
        return f"serves CUDA tensors, not {device}"
    return TRITON_ERROR


def namespace(op: str, device: torch.device, backend: str | None) -> str:
    """The namespace of `torch.ops` that serves `op` on `device`.

    Args:
        op: name of the op, for error messages.
        device: where its tensors are.
        backend: ``"cpu"``, ``"cuda"``, ``"triton"``, ``"reference"``, or None for the environment
            variable ``SPARSEDIS_BACKEND``, else the best one there is.

    Raises:
        RuntimeError: the backend asked for cannot serve this op on this device.
    """
    requested = backend or REQUESTED
    if requested is None:
        return AUTOMATIC
    there = available(op, device.type)
    reason = there.get(requested, "there is no such backend")
    if reason is not None:
        usable = [name for name, why_not in there.items() if why_not is None]
        raise RuntimeError(
            f"{op}: backend={requested!r} cannot serve a tensor on {device}: {reason}; "
            f"there is {', '.join(map(repr, usable))}"
        )
    return {"reference": REFERENCE, "triton": TRITON}.get(requested, AUTOMATIC)


def takes_half(ns: str, op: str, device: torch.device) -> bool:
    """Whether the kernel that serves `op` reads half precision itself; others are given float32.

    Triton's do, C++ and CUDA C++ do not.
    """
    if ns == AUTOMATIC:
        return device.type == "cuda" and _why_not_triton(op, device.type) is None
    return ns == TRITON


def triton_kernel(op: str) -> Callable[..., Any]:
    """The launcher of a raw op's Triton kernels.

    Raises:
        RuntimeError: Triton is there and cannot be imported.
    """
    try:
        module = importlib.import_module(f"sparsedis_kernels.triton.{TRITON_MODULES[op]}")
    except ImportError as error:
        raise RuntimeError(
            f"{op}: triton cannot be imported: {error}; "
            "repair it, or ask for backend='reference' or SPARSEDIS_BACKEND=reference"
        ) from error
    return getattr(module, op)


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
    """(op, device, backend that serves it, why none before it) for public ops on CPU and CUDA."""
    import sparsedis_kernels.ops

    functions = [name for name in sparsedis_kernels.ops.__all__ if name.islower()]
    rows = []
    for op in functions:
        for device in ("cpu", "cuda"):
            there = available(op, device)
            serves = next(name for name, reason in there.items() if reason is None)
            better = takewhile(lambda item: item[1] is not None, there.items())
            reasons = [f"{name}: {reason}" for name, reason in better]
            rows.append((op, device, serves, "; ".join(reasons)))
    return rows


_reported: set[tuple[str, str]] = set()


def report_fallback(op: str, device: str) -> None:
    """Log once per op and device that the reference serves it, and why."""
    if (op, device) in _reported:
        return
    _reported.add((op, device))
    there = available(op, device)
    if device == "cpu":
        reason = there["cpu"]
    elif op in CUDA_OPS:
        reason = there["cuda"]
    else:
        reason = f"triton {there['triton']}"
    logger.warning("%s on %s is served by the reference implementation: %s", op, device, reason)
