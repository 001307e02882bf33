"""What is specific to the fused optimiser steps: launches, bytes, and the optimisers on them."""

import pytest
import torch

import sparsedis_kernels as sk
from sparsedis_kernels import backends
from tests.triton.implementations import CAPABILITIES, executing


@pytest.fixture(params=CAPABILITIES, ids="sm_{}".format)
def launches(request):
    with executing(request.param) as launches:
        yield launches


def step(weights, penalty, **options):
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    grads, steps = [torch.randn_like(w) for w in weights], [torch.zeros(()) for _ in weights]
    sk.prox_adamw_(
        weights, grads, first, second, steps, penalty, lr=0.1, backend="triton", **options
    )


@pytest.mark.parametrize("penalty", [sk.Penalty(l1=0.1), sk.Penalty(l1=0.1, group=0.1)])
@pytest.mark.parametrize("shape", [(64, 50, 5), (3, 1000, 1), (16, 40, 8)])
def test_every_array_is_read_once_and_written_once(launches, penalty, shape):
    w = torch.randn(shape)
    step([w], penalty)
    (launch,) = launches
    counter = launch.stats.global_loads.pop(4)  # every warp reads the number of the step
    assert launch.stats.global_loads == {16: 4 * w.nbytes // 16}
    assert launch.stats.global_stores == {16: 3 * w.nbytes // 16}
    assert 4 * counter <= 0.02 * 7 * w.nbytes


def test_sgd_reads_each_array_once_and_writes_it_once(launches):
    w = torch.randn(64, 50, 5)
    buffers, grads = [torch.zeros_like(w)], [torch.randn_like(w)]
    options = {"lr": 0.1, "momentum": 0.9, "backend": "triton"}
    sk.prox_sgd_([w], grads, buffers, [torch.zeros(())], sk.Penalty(group=0.1), **options)
    (launch,) = launches
    assert launch.stats.global_loads[16] == 3 * w.nbytes // 16
    assert launch.stats.global_stores == {16: 2 * w.nbytes // 16}


def test_many_weights_take_few_launches(launches):
    """Up to 64 weights of one C in a launch, whatever their sizes."""
    weights = [torch.randn(1 + i % 3, 1 + i % 29, 4) for i in range(70)]
    before = [w.clone() for w in weights]
    step(weights, sk.Penalty(group=0.1))
    assert len(launches) == 2
    assert not any(torch.equal(w, b) for w, b in zip(weights, before, strict=True))


def test_sizes_do_not_recompile(launches):
    """Triton makes a kernel anew for an integer that is 1 or a multiple of 16; sizes are coded."""
    for sizes in [(3, 5), (16, 32), (1, 1), (7, 64)]:
        step([torch.randn(2, m, 4) for m in sizes], sk.Penalty(group=0.1))
    assert len({id(launch.compiled) for launch in launches}) == 1


@pytest.mark.parametrize(("kind", "too_many"), [("sgd", 260), ("adamw", 140)])
def test_more_tasks_than_a_tile_holds_take_more_launches(launches, kind, too_many):
    """The step in one kernel, then the prox; fewer tasks take one launch in all."""
    penalty, counts, options = sk.Penalty(group=0.2, shared=4.0), [], {"lr": 0.1}
    for tasks in (30, too_many):
        w = torch.randn(tasks, 3, 12, dtype=torch.float64)
        grad, results = torch.randn_like(w), []
        for backend in ("triton", "reference"):
            del launches[:]
            state = [w.clone(), torch.zeros_like(w), torch.zeros_like(w), torch.zeros(())]
            if kind == "sgd":
                arrays = ([state[0]], [grad], [state[1]], [state[3]])
                sk.prox_sgd_(*arrays, penalty, momentum=0.9, backend=backend, **options)
            else:
                arrays = ([state[0]], [grad], [state[1]], [state[2]], [state[3]])
                sk.prox_adamw_(*arrays, penalty, backend=backend, **options)
            counts.append(len(launches))
            results.append(state)
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-11)
    assert counts[0] == 1
    assert counts[2] > 1


@pytest.mark.parametrize("make", [sk.optim.ProxSGD, sk.optim.ProxAdamW])
def test_optimisers_step_as_on_the_cpu(launches, monkeypatch, make):
    start = [torch.randn(3, 7, 5), torch.randn(4, 6)]
    results = []
    for backend in ("triton", "cpu"):
        monkeypatch.setattr(backends, "REQUESTED", backend)
        params = [w.clone().requires_grad_() for w in start]
        optimizer = make(params, 0.05, penalty=sk.Penalty(l1=0.05, group=0.1))
        for _ in range(3):
            optimizer.zero_grad()
            sum((p**4).sum() for p in params).backward()
            optimizer.step()
        results.append([p.detach() for p in params])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    assert len(launches) == 6  # two values of C, three steps
