"""What is built and shipped, and what a build without a compiler or torch says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from tests.cuda.executed import require_nvcc
from tests.cuda.library import cmake
from tests.ptx.cuda_compile import find_nvcc

ROOT = Path(__file__).parents[2]
THIS_PYTHON = f"-DPython_EXECUTABLE={sys.executable}"
PACKAGES = ["", "data/", "ops/", "reference/", "training/"]
SDIST = "from scikit_build_core.build import build_sdist; import sys; build_sdist(sys.argv[1])"
PROGRAM = """
import torch, sparsedis_kernels as sk
from sparsedis_kernels import backends
x = sk.prox(torch.tensor([[[3.0, 4.0]]]), sk.Penalty(group=1.0), backend="cpu")
print(sk.__file__, backends.CPU_LIBRARY.path, x.flatten().tolist(), sep="\\n")
"""


def run(*command: str | Path, **options: object) -> str:
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("scikit_build_core", reason="the build backend is not installed")
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-c", SDIST, folder, cwd=ROOT)
    (archive,) = folder.iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index")
    unoptimised = "--config-settings=cmake.build-type=Debug"  # in an eighth of the time
    run(*pip, unoptimised, sdist, "--wheel-dir", folder, cwd=folder)
    (archive,) = folder.iterdir()
    return archive


def test_the_sdist_holds_what_a_build_needs(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.split("/", 1)[1] for name in archive.getnames()}
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*") if p.is_file()}
    assert sources | {"pyproject.toml", "LICENSE", "README.md"} <= held
    assert not [name for name in held if name.startswith((".ci", ".github", "build/", ".venv"))]


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    _, _, python, abi, platform = wheel.stem.split("-")
    assert (python, abi) == ("py3", "none")
    assert platform != "any"
    held = zipfile.ZipFile(wheel).namelist()
    expected = [f"sparsedis_kernels/{package}__init__.py" for package in PACKAGES]
    assert {*expected, "sparsedis_kernels/_C.so"} <= set(held)
    tops = {name.split("/")[0] for name in held}
    assert tops == {"sparsedis_kernels", "sparsedis_kernels-0.1.0.dist-info"}
    assert {Path(name).suffix for name in held if name.startswith("sparsedis_kernels/")} <= {
        ".py",
        ".so",
        ".typed",
    }


@pytest.mark.slow
def test_the_wheel_runs_where_the_source_tree_is_not(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", wheel)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # torch comes from this environment, after the venv's own packages and without its hooks.
    (site / "torch.pth").write_text(str(Path(torch.__file__).parents[1]))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SPARSE"))}
    package, library, x = run(python, "-c", PROGRAM, cwd=tmp_path, env=environment).splitlines()
    assert Path(package).parent == Path(library).parent == site / "sparsedis_kernels"
    assert [round(float(v), 5) for v in x.strip("[]").split(",")] == [2.4, 3.2]


def failing_configure(folder: Path, *definitions: str, **variables: str) -> str:
    """What CMake prints for a build that cannot be configured, on one line."""
    result = cmake("-S", ROOT / "csrc", "-B", folder, *definitions, **variables)
    assert result.returncode != 0
    return " ".join(result.stderr.split())


def test_a_missing_compiler_is_one_sentence(tmp_path: Path) -> None:
    message = failing_configure(tmp_path, CXX="/nonexistent")
    assert "sparsedis_kernels needs a C++17 compiler: install one" in message
    assert message.count("CMake Error") == 1


def test_a_missing_torch_is_one_sentence(tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    message = failing_configure(tmp_path / "build", f"-DPython_EXECUTABLE={python}", PYTHONPATH="")
    assert f"needs torch >= 2.10 in the Python that builds it ({python}): pip install" in message
    assert message.count("CMake Error") == 1


def test_a_missing_nvcc_is_one_sentence_where_cuda_is_asked_for(tmp_path: Path) -> None:
    asked = {"SPARSEDIS_CUDA": "1", "CUDACXX": "/nonexistent"}
    message = failing_configure(tmp_path, THIS_PYTHON, **asked)
    assert (
        "SPARSEDIS_CUDA=1 asks for CUDA kernels, and there is no working nvcc: install the CUDA "
        "toolkit, or set the environment variable CUDACXX to its nvcc."
    ) in message
    assert message.count("CMake Error") == 1


def test_an_nvcc_that_comes_later_is_found(tmp_path: Path) -> None:
    """The build folder is kept from one installation to the next."""
    require_nvcc()
    failing_configure(tmp_path, THIS_PYTHON, SPARSEDIS_CUDA="1", CUDACXX="/nonexistent")
    asked = {"SPARSEDIS_CUDA": "1", "SPARSEDIS_CUDA_ARCHS": "80", "CUDACXX": find_nvcc()}
    assert "for 80-real;80-virtual" in configured(tmp_path, **asked)


def configured(folder: Path, **variables: str) -> str:
    result = cmake("-S", ROOT / "csrc", "-B", folder, THIS_PYTHON, **variables)
    assert result.returncode == 0, result.stderr
    return result.stdout


def torch_of_name_only(folder: Path, cuda: str | None) -> str:
    """A path with a module `torch`, which says that it is built for that release of CUDA."""
    (folder / "torch").mkdir(parents=True)
    module = f"__version__ = '2.13.0'\nclass version:\n    cuda = {cuda!r}\n"
    (folder / "torch" / "__init__.py").write_text(module)
    return str(folder)


def test_unless_asked_for_cuda_is_built_with_a_torch_that_has_it(tmp_path: Path) -> None:
    """With another, an installation takes no longer for a compiler that happens to be there."""
    require_nvcc()
    path = {cuda: torch_of_name_only(tmp_path / f"torch {cuda}", cuda) for cuda in (None, "13.0")}
    without = configured(tmp_path / "unset", PYTHONPATH=path[None])
    assert "CUDA kernels: not built (SPARSEDIS_CUDA=1 asks for them)" in without
    built = configured(tmp_path / "cuda", PYTHONPATH=path["13.0"], CUDACXX=find_nvcc())
    assert re.search(r"CUDA kernels: nvcc .* for 80-real;86-real;.*;80-virtual", built)
    declined = configured(tmp_path / "0", PYTHONPATH=path["13.0"], SPARSEDIS_CUDA="0")
    assert "CUDA kernels: not built" in declined
    lacking = configured(tmp_path / "none", PYTHONPATH=path["13.0"], CUDACXX="/nonexistent")
    assert "CUDA kernels: not built, there is no nvcc" in lacking


def test_an_architecture_that_nvcc_does_not_know_is_named(tmp_path: Path) -> None:
    require_nvcc()
    asked = {"SPARSEDIS_CUDA": "1", "SPARSEDIS_CUDA_ARCHS": "80,35", "CUDACXX": find_nvcc()}
    message = failing_configure(tmp_path, THIS_PYTHON, **asked)
    assert "SPARSEDIS_CUDA_ARCHS has 35, which nvcc" in message
    assert message.count("CMake Error") == 1
