"""Compile CUDA C++ with nvcc to PTX or cubin; no GPU and no driver needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .ptx_types import PtxError


class NvccNotFoundError(PtxError):
    """There is no nvcc on this machine."""


class NvccError(PtxError):
    """nvcc refused the source."""


def find_nvcc() -> str:
    """Path of nvcc: $CUDA_HOME or $CUDA_PATH, then PATH, then /usr/local/cuda."""
    candidates = [
        Path(os.environ[name]) / "bin" / "nvcc"
        for name in ("CUDA_HOME", "CUDA_PATH")
        if os.environ.get(name)
    ]
    on_path = shutil.which("nvcc")
    candidates += [Path(on_path)] if on_path else []
    candidates.append(Path("/usr/local/cuda/bin/nvcc"))
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return str(candidate)
    raise NvccNotFoundError(
        "nvcc not found: install the CUDA toolkit (the compiler is enough) and set CUDA_HOME "
        f"or put nvcc on PATH; looked at {', '.join(map(str, candidates))}"
    )


@dataclass
class Compiled:
    """Output of one nvcc run; `log` is what ptxas -v printed (cubins only)."""

    data: bytes
    log: str


def _run_nvcc(
    source: str | Path,
    output_flags: Sequence[str],
    include_dirs: Sequence[str | Path],
    defines: Mapping[str, str | int | None],
    flags: Sequence[str],
) -> Compiled:
    command = [find_nvcc(), "-std=c++17", "-O3", *output_flags, *flags]
    command += [f"-I{path}" for path in include_dirs]
    command += [
        f"-D{name}" if value is None else f"-D{name}={value}" for name, value in defines.items()
    ]
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "output"
        run = subprocess.run(
            [*command, "-o", str(output), str(source)], capture_output=True, text=True
        )
        if run.returncode:
            raise NvccError(f"{' '.join(command)} {source}\n{run.stderr[:6000]}")
        return Compiled(output.read_bytes(), run.stderr)


def compile_ptx(
    source: str | Path,
    arch: str | int = 80,
    include_dirs: Sequence[str | Path] = (),
    defines: Mapping[str, str | int | None] | None = None,
    flags: Sequence[str] = (),
) -> str:
    """PTX text of a .cu file for one architecture (80, "90a", ...)."""
    output_flags = ["-ptx", f"-arch=compute_{arch}"]
    return _run_nvcc(source, output_flags, include_dirs, defines or {}, flags).data.decode()


def compile_cubin(
    source: str | Path,
    arch: str | int = 80,
    include_dirs: Sequence[str | Path] = (),
    defines: Mapping[str, str | int | None] | None = None,
    flags: Sequence[str] = (),
    ptx: str | int | None = None,
) -> Compiled:
    """Machine code of a .cu file for one architecture, by its own PTX or that of architecture
    `ptx`, with the ptxas -v log."""
    code = f"-gencode=arch=compute_{ptx or arch},code=sm_{arch}"
    output_flags = ["-cubin", code, "-Xptxas", "-v"]
    return _run_nvcc(source, output_flags, include_dirs, defines or {}, flags)
