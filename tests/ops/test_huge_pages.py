"""Large outputs of the CPU kernels lie in memory that asks for huge pages."""

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sparsedis_kernels as sk

MAPPINGS = Path("/proc/self/smaps")
HEADER = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) ", re.MULTILINE)

pytestmark = [
    pytest.mark.skipif(
        not Path("/sys/kernel/mm/transparent_hugepage").exists(),
        reason="the system has no huge pages",
    ),
    pytest.mark.skipif(
        os.environ.get("THP_MEM_ALLOC_ENABLE", "0") != "0",
        reason="PyTorch asks for huge pages itself",
    ),
]


def flags(tensor: Tensor) -> list[str]:
    """Those of the mapping that holds the middle of a tensor, two letters each."""
    middle = tensor.data_ptr() + tensor.nbytes // 2
    _, *parts = HEADER.split(MAPPINGS.read_text())
    for begin, end, mapping in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if int(begin, 16) <= middle < int(end, 16):
            return mapping.partition("VmFlags:")[2].splitlines()[0].split()
    raise AssertionError("no mapping holds the tensor")


def prox() -> Tensor:
    return sk.prox(torch.ones(4000, 512, 10), sk.Penalty(group=0.1), backend="cpu")


def grad_v() -> Tensor:
    v = torch.ones(4000, 512, 10, requires_grad=True)
    (grad,) = torch.autograd.grad(
        sk.prox(v, sk.Penalty(group=0.1), backend="cpu"), v, torch.ones(4000, 512, 10)
    )
    return grad


def weight() -> Tensor:
    z, y = torch.randn(4000, 2, 512), torch.randn(4000, 2, 10)
    return sk.fit_heads(z, y, sk.Penalty(ridge=1.0), backend="cpu").weight


def grad_z() -> Tensor:
    z, y = torch.randn(4000, 40, 128, requires_grad=True), torch.randn(4000, 40, 1)
    fit = sk.fit_heads(z, y, sk.Penalty(ridge=1.0), backend="cpu")
    (grad,) = torch.autograd.grad(fit.weight.sum(), z)
    return grad


def flags_of_ours_and_torchs(output: Callable[[], Tensor]) -> tuple[list[str], list[str]]:
    ours = flags(output())
    return ours, flags(torch.ones(4000, 512, 10))  # 82 MB, a mapping of its own


@pytest.fixture(scope="module")
def fresh() -> Iterator[Executor]:
    """A process without a past: a large hole of a used heap may carry an earlier advice."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        yield executor


@pytest.mark.parametrize("output", [prox, grad_v, weight, grad_z])
def test_large_outputs_ask_for_huge_pages(output: Callable[[], Tensor], fresh: Executor):
    ours, torchs = fresh.submit(flags_of_ours_and_torchs, output).result()
    assert "hg" in ours
    assert "hg" not in torchs
