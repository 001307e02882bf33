"""Versions of the package and what it runs on."""

from __future__ import annotations

import platform
from importlib import metadata

import numpy as np
import torch

import sparsedis_kernels
from sparsedis_kernels import backends


def versions() -> dict[str, str]:
    """Versions of the package and what it runs on, and the CPU kernels' instruction set."""
    return {
        "sparsedis_kernels": sparsedis_kernels.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "triton": version_of("triton"),
        "instruction_set": backends.instruction_set(),
    }


def version_of(package: str) -> str:
    """The version of an installed package, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
