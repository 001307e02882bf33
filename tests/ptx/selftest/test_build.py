"""Builds are cached, and share a precompiled runtime."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from tests.ptx.execute import Kernel


def ptx_that_stores(number):
    return (
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out)\n{\n"
        ".reg .b64 %rd<4>;\n.reg .b32 %r<4>;\nld.param.u64 %rd1, [out];\n"
        f"mov.u32 %r1, {number};\nst.global.u32 [%rd1], %r1;\nret;\n}}\n"
    )


def run(number):
    out = np.zeros(1, np.int32)
    Kernel(ptx_that_stores(number)).launch("k", [out], 1, 1)
    return int(out[0])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PTX_CACHE", str(tmp_path))
    return tmp_path


def files(cache: Path, pattern: str):
    found = (path for path in cache.glob(pattern) if path.suffix != ".lock")
    return {path: path.stat().st_mtime_ns for path in found}


def test_modules_and_runtime_are_built_once(cache):
    assert run(3) == 3
    runtime, modules = files(cache, "runtime-*/*"), files(cache, "*.so")
    assert {path.name for path in runtime} == {"ptx_runtime.h.gch", "runtime.o"}
    assert (run(3), files(cache, "*.so")) == (3, modules)
    assert run(4) == 4
    assert len(files(cache, "*.so")) == 2
    assert files(cache, "runtime-*/*") == runtime


def test_an_unusable_precompiled_header_is_passed_over(cache):
    assert run(5) == 5
    (header,) = cache.glob("runtime-*/*.gch")
    header.write_bytes(b"of another compiler")
    assert run(6) == 6


def test_processes_that_start_together(cache):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(run, [7, 8, 7]) == [7, 8, 7]
    assert len(files(cache, "runtime-*/*.gch")) == 1
    assert len(files(cache, "*.so")) == 2
    assert {path.name[:7] for path in cache.iterdir() if path.is_dir()} == {"runtime"}
