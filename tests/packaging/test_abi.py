"""The compiled libraries ask torch for the stable ABI only, and Python for nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sparsedis_kernels import backends
from tests.cuda.library import built

STABLE = re.compile(
    r"""
    (aoti_torch|torch)_\w+          # the stable ABI of libtorch
    | .+@(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+
    | _Z(NK?)?S[abdiost]\w*         # the C++ library, where the linker found no version
    | __tls_get_addr@\S+           # the loader
    | _ITM_\w+ | __gmon_start__     # weak, from the compiler's start files
    """,
    re.VERBOSE,
)
TORCH_TYPES = re.compile(r"N2at|N3c10|5torch")


def unstable(symbols: list[str]) -> list[str]:
    """Those of a library's undefined symbols that tie it to one release of torch or Python."""
    return [s for s in symbols if not STABLE.fullmatch(s) or TORCH_TYPES.search(s)]


def listing(tool: str, *options: str) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool} on the path (binutils)")
    return subprocess.run([tool, *options], capture_output=True, text=True, check=True).stdout


def undefined_symbols(library: Path) -> list[str]:
    lines = listing("nm", "-D", "--undefined-only", str(library)).splitlines()
    return [line.split()[-1] for line in lines]


@pytest.fixture
def library() -> Path:
    assert backends.CPU_LIBRARY.path is not None, backends.CPU_LIBRARY.error
    return backends.CPU_LIBRARY.path


def test_the_library_uses_the_stable_abi_only(library: Path) -> None:
    symbols = undefined_symbols(library)
    assert "aoti_torch_library_init_impl" in symbols
    assert unstable(symbols) == []


@pytest.fixture(scope="module")
def cuda_library() -> Path:
    return built() / "cuda" / "_C_cuda.so"


@pytest.mark.slow
def test_the_cuda_library_uses_the_stable_abi_only(cuda_library: Path) -> None:
    symbols = undefined_symbols(cuda_library)
    assert "aoti_torch_get_current_cuda_stream" in symbols
    assert unstable(symbols) == []


@pytest.mark.slow
def test_the_cuda_library_has_a_cuda_runtime_of_its_own(cuda_library: Path) -> None:
    """Linked in and not exported, so that it is never taken for PyTorch's, or PyTorch's for it."""
    needed = listing("readelf", "--dynamic", str(cuda_library))
    assert "libcudart" not in needed
    assert "libtorch.so" in needed  # which brings PyTorch's CUDA, and of which no symbol is named
    exported = listing("nm", "-D", "--defined-only", str(cuda_library))
    assert not re.search(r"\b_*cuda\w+$", exported, re.MULTILINE)


def test_the_audit_finds_what_is_not_stable() -> None:
    bad = [
        "_ZN2at10TensorBase9new_emptyEN3c108ArrayRefIlEE",
        "_ZN3c106detail14torchCheckFailEPKcS2_jS2_",
        "_ZNSt6vectorIN2at6TensorESaIS1_EED1Ev",
        "_ZN5torch7LibraryC1Ev",
        "_ZTIN3c105ErrorE",
        "PyObject_GetAttrString",
        "_Py_Dealloc",
        "omp_get_max_threads",
    ]
    assert unstable(["memcpy@GLIBC_2.14", "aoti_torch_get_size", *bad, "_ZSt9terminatev"]) == bad
