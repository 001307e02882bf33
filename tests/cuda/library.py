"""The CUDA library, built as an installation builds it, for one architecture."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.core.build import CSRC, compiler, fingerprint
from tests.cuda.executed import require_nvcc
from tests.ptx.cache import cache_directory, locked
from tests.ptx.cuda_compile import find_nvcc

TORCH_LIBRARIES = Path(torch.__file__).parent / "lib"
FAKE_RUNTIME = Path(__file__).with_name("fake_runtime.cpp")


def cmake(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run CMake, which makes files for Ninja; the test is skipped where there is none."""
    # pip puts cmake and ninja beside the interpreter, which need not be on the path.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = shutil.which("cmake", path=path)
    if command is None:
        pytest.skip("no cmake")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SPARSEDIS_")}
    return subprocess.run(
        [command, *map(str, arguments)],
        env={**kept, "PATH": path, "CMAKE_GENERATOR": "Ninja", **variables},
        capture_output=True,
        text=True,
    )


def built() -> Path:
    """The build folder of `_C_cuda` for sm_80, from the cache where the same was built before."""
    require_nvcc()
    asked = {"SPARSEDIS_CUDA": "1", "SPARSEDIS_CUDA_ARCHS": "80", "CUDACXX": find_nvcc()}
    scripts = [p.read_text() for p in (CSRC / "CMakeLists.txt", CSRC / "cuda" / "CMakeLists.txt")]
    folder = cache_directory() / f"cuda-{fingerprint([*scripts, sys.prefix])}"
    folder.mkdir(exist_ok=True)
    with locked(folder):  # parallel test workers build it once
        if not (folder / "cuda" / "_C_cuda.so").exists():
            python = f"-DPython_EXECUTABLE={sys.executable}"
            release = "-DCMAKE_BUILD_TYPE=Release"
            for step in (("-S", CSRC, "-B", folder, python, release),
                         ("--build", folder, "--target", "_C_cuda")):  # fmt: skip
                result = cmake(*step, **asked)
                assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder


def built_with_fake_runtime(folder: Path) -> Path:
    """The library's own objects, linked with what takes the place of a GPU."""
    objects = built() / "cuda" / "CMakeFiles" / "_C_cuda.dir"
    library = folder / "_C_cuda.so"
    command = [compiler(), "-std=c++17", "-shared", "-fPIC", "-Wall", str(FAKE_RUNTIME)]
    command += [*map(str, objects.rglob("*.o")), f"-L{TORCH_LIBRARIES}", "-ltorch_cpu"]
    subprocess.run([*command, "-o", str(library)], check=True)
    return library
