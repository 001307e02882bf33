"""Threads that meet in shared memory, and programs that could meet in global memory."""

import itertools

import pytest
import torch

import sparsedis_kernels as sk
from tests.triton.implementations import CAPABILITIES, executing


def usage(w):
    return sk.feature_usage(w, backend="triton").entropy


def nested(v):
    return sk.prox(v, sk.Penalty(l1=0.1, group=0.2, shared=0.3), backend="triton")


# With a C whose groups are gathered, and one whose sums go across warps.
OPS = {
    "nested": (nested, 12),
    "nested, tasks in one tile": (nested, 3),
    "group": (lambda v: sk.prox(v, sk.Penalty(group=0.2), backend="triton"), 700),
    "mcp": (lambda v: sk.prox_mcp(v, 0.3, backend="triton"), 5),
    "linf": (lambda v: sk.prox_linf(v, 0.3, backend="triton"), 5),
    "usage": (usage, 3),
}


def problem(T, C):
    """Weights and a gradient whose tasks do not follow one another in memory, and stay tasks.

    A task has entries for several warps, which meet at barriers.
    """
    return torch.randn(2, T, max(9, 1000 // C), C)[:, :, :-1]


def value_and_gradient(op, v, seed):
    v = v.detach().requires_grad_()
    x = op(v)
    return x.detach(), *torch.autograd.grad(x, v, seed if x.dim() else seed[0, 0, 0])


def first_two(grid):
    return 0, min(grid[0], 2)


@pytest.fixture
def _poison():
    """Programs that are left out leave NaN to later kernels, not numbers of chance."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_poison")
@pytest.mark.parametrize(
    ("name", "capability"), list(zip(OPS, itertools.cycle(CAPABILITIES), strict=False))
)
def test_threads_of_a_program_do_not_race(name, capability):
    op, C = OPS[name]
    v, seed = problem(1030, C)  # so many tasks that a program walks through two
    with executing(capability, sanitize="thread", blocks=first_two) as launches:
        value_and_gradient(op, v, seed)
    assert all(launch.stats.barriers for launch in launches)
    assert not [warning for launch in launches for warning in launch.stats.warnings]


@pytest.mark.parametrize("name", OPS)
def test_programs_do_not_meet_and_their_order_does_not_matter(name):
    """Nor that of threads, and nothing is read from shared memory before it is written."""
    op, C = OPS[name]
    v, seed = problem(70, C)
    checks = {"check_block_races": True, "check_shared_init": True}
    results = []
    for order in (1, 2):
        with executing(80, seed=order, **checks):
            results.append(value_and_gradient(op, v, seed))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
