"""Builds Python modules for tests of what needs no torch, with the system's C++ compiler.

`sparsedis_core` holds the core and the CPU kernels, `sparsedis_cuda_jobs` how CUDA kernels are
launched.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pybind11
import pytest

from tests.ptx.cache import made_once

CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = {
    "sparsedis_core": [CSRC / "testing" / "core_module.cpp", CSRC / "cpu" / "kernels.cpp"],
    "sparsedis_cuda_jobs": [CSRC / "testing" / "cuda_module.cpp"],
}
FLAGS = ["-std=c++17", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Werror"]
SHARED = ["-shared", "-fPIC", "-fvisibility=hidden"]
INCLUDES = [f"-isystem{pybind11.get_include()}", f"-isystem{sysconfig.get_path('include')}"]


def shipped(isa: str) -> list[str]:
    """The options with which the package's kernels for an instruction set are compiled."""
    text = (CSRC / "CMakeLists.txt").read_text()
    patterns = (r"set\(kernel_flags (.*)\)", rf"add_kernels\({isa} (.*)\)")
    found = [flag for pattern in patterns for flag in re.findall(pattern, text)[0].split()]
    return [*found, "-O3", "-DNDEBUG", f"-DSPARSEDIS_ISA={isa}"]  # two of them by CMake's Release


# Unoptimised code is compiled in a third of the time, and hides no access from the sanitizer.
BUILDS = {
    "plain": ["-O1"],
    "memory": ["-O0", "-g1", "-march=native", "-fsanitize=address,undefined"],
    "threads": ["-O1", "-g1", "-march=native", "-fsanitize=thread"],
    "avx2": shipped("avx2"),
    "cuda": ["-O1", "-DSPARSEDIS_ISA=cuda"],
}


def compiler() -> str:
    """The system's C++ compiler; without one the test is skipped."""
    found = shutil.which("c++") or shutil.which("g++")
    if found is None:
        pytest.skip("no C++ compiler: neither c++ nor g++ is on the path")
    return found


def build(kind: str, cache: Path, name: str = "sparsedis_core") -> Path:
    """The module `name` of a kind, from `cache` where the same was built before."""
    command = [compiler(), *FLAGS, *SHARED, *BUILDS[kind], "-fno-sanitize-recover=all", *INCLUDES]
    command += map(str, SOURCES[name])
    module = cache / fingerprint(command) / f"{name}.so"
    module.parent.mkdir(parents=True, exist_ok=True)
    return made_once(
        module, lambda output: subprocess.run([*command, "-o", str(output)], check=True)
    )


def fingerprint(command: list[str]) -> str:
    digest = hashlib.sha256(" ".join(command).encode())
    for path in sorted(CSRC.glob("*/*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
