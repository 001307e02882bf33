"""The compiled library asks torch for the stable ABI only, and Python for nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sparsedis_kernels import backends

STABLE = re.compile(
    r"""
    (aoti_torch|torch)_\w+          # the stable ABI of libtorch
    | .+@(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+
    | _Z(NK?)?S[abdiost]\w*         # the C++ library, where the linker found no version
    | _ITM_\w+ | __gmon_start__     # weak, from the compiler's start files
    """,
    re.VERBOSE,
)
TORCH_TYPES = re.compile(r"N2at|N3c10|5torch")


def unstable(symbols: list[str]) -> list[str]:
    """Those of a library's undefined symbols that tie it to one release of torch or Python."""
    return [s for s in symbols if not STABLE.fullmatch(s) or TORCH_TYPES.search(s)]


def undefined_symbols(library: Path) -> list[str]:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm on the path (binutils)")
    listing = subprocess.run(
        [nm, "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True
    )
    return [line.split()[-1] for line in listing.stdout.splitlines()]


@pytest.fixture
def library() -> Path:
    assert backends.CPU_LIBRARY.path is not None, backends.CPU_LIBRARY.error
    return backends.CPU_LIBRARY.path


def test_the_library_uses_the_stable_abi_only(library: Path) -> None:
    symbols = undefined_symbols(library)
    assert "aoti_torch_library_init_impl" in symbols
    assert unstable(symbols) == []


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
