"""Run CUDA kernels, as the PTX that nvcc or Triton emits for them, on a machine without a GPU."""

# Absolute, since pytest imports this file a second time as the package `ptx` (`tests` has no
# __init__.py): both then hold the same classes.
from tests.ptx.execute import (
    DataRaceError,
    Kernel,
    LaunchError,
    LaunchStats,
    PtxCompileError,
    SanitizerError,
)
from tests.ptx.ptx_types import PtxError, UnsupportedPtxError
from tests.ptx.translate import Translation, translate

__all__ = [
    "DataRaceError",
    "Kernel",
    "LaunchError",
    "LaunchStats",
    "PtxCompileError",
    "PtxError",
    "SanitizerError",
    "Translation",
    "UnsupportedPtxError",
    "translate",
]
