"""PTX of the self-test's CUDA sources, generated at run time, once per architecture."""

import functools
from pathlib import Path

from tests.ptx.cuda_compile import compile_ptx
from tests.ptx.execute import Kernel

HERE = Path(__file__).parent


@functools.cache
def ptx_of(name: str, arch: int = 80, **defines) -> str:
    """PTX of a .cu file of the self-test."""
    return compile_ptx(HERE / name, arch, defines=defines)


@functools.cache
def kernel_of(name: str, arch: int = 80, sanitize: str | None = None, **defines) -> Kernel:
    """Executable kernels of a .cu file of the self-test."""
    return Kernel(ptx_of(name, arch, **defines), sanitize)
