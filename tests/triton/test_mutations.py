"""Mistakes in a kernel that the tests must notice: a mask, an index, a barrier and the like."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest
import torch

import sparsedis_kernels as sk
from sparsedis_kernels import backends
from tests.ops import test_feature_usage, test_prox
from tests.ptx.execute import DataRaceError
from tests.ptx.mutate import try_all
from tests.triton.implementations import executing

PACKAGE = Path(sk.__file__).parent / "triton"


@pytest.fixture
def mutate(tmp_path, monkeypatch):
    """Let a changed copy of the kernels and launchers serve."""

    def change(file, right, wrong):
        copy = tmp_path / f"mutant_{tmp_path.name}"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for path in copy.rglob("*.py"):
            text = path.read_text().replace("sparsedis_kernels.triton", copy.name)
            if path == copy / file:
                assert right in text
                text = text.replace(right, wrong)
            path.write_text(text)
        monkeypatch.syspath_prepend(tmp_path)

        def kernel(op):
            return getattr(
                importlib.import_module(f"{copy.name}.{backends.TRITON_MODULES[op]}"), op
            )

        monkeypatch.setattr(backends, "triton_kernel", kernel)

    yield change
    for name in [name for name in sys.modules if name.startswith("mutant_")]:
        del sys.modules[name]


def sizes():
    test_prox.test_any_number_of_outputs_agrees_with_the_reference("triton", 5, ("l1", "group"))


def layouts():
    test_prox.test_layouts_in_memory_agree_with_a_dense_copy("triton", "features_first")


def optimality():
    test_prox.test_is_optimal("triton", ("group",), "float", False, False)


def usage():
    test_feature_usage.test_sizes_and_layouts_agree_with_the_reference("triton", "strided")


MUTATIONS = {
    "mask": (
        "kernels/groups.py",
        "m < tl.minimum(M, m0 + TILE.filled)",
        "m < m0 + TILE.filled",
        sizes,
        "out of bounds",
    ),
    "index": (
        "kernels/groups.py",
        "pointer + t * stride_t + m * stride_m",
        "pointer + t * stride_m + m * stride_t",
        layouts,
        "Tensor-likes are not close|out of bounds",
    ),
    "threshold": (
        "kernels/groups.py",
        "tl.where(excess > 0.0, factor,",
        "tl.where(size > 0.0, factor,",
        optimality,
        "assert",
    ),
    "padding": (
        "kernels/feature_usage.py",
        "w_t, w_m, w_c, 0.0, TILE",
        "w_t, w_m, w_c, 1.0, TILE",
        usage,
        "not close|not equal",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_is_noticed(mutate, name):
    file, right, wrong, check, complaint = MUTATIONS[name]
    with executing(80):
        check()
    mutate(file, right, wrong)
    with executing(80), pytest.raises(Exception, match=complaint):
        check()


@pytest.mark.parametrize("C", [5, 700])
def test_every_dropped_barrier_is_a_race(C):
    """One program walks through two tasks: between them, too, a barrier is needed."""
    v = torch.randn(1030, max(9, 1000 // C), C)[:, :-1]

    def solve(**options):
        with executing(80, blocks=(0, 1), **options) as launches:
            sk.prox(v, sk.Penalty(l1=0.1, group=0.2), backend="triton")
        return launches[0].compiled.asm["ptx"]

    ptx = solve(sanitize="thread")
    outcomes = try_all(ptx, lambda mutant: solve(sanitize="thread", ptx=mutant))
    assert outcomes
    assert all(o.reason.startswith(DataRaceError.__name__) for o in outcomes)
