"""The optimisers' steps on a CUDA device: values, no waiting, and replay from a graph."""

import pytest
import torch

import sparsedis_kernels as sk
from tests.gpu.cases import no_waiting

pytestmark = pytest.mark.gpu

SHAPES = [(3, 4, 2), (5, 6), (1, 1, 3000), (40, 130, 5)]
MAKERS = {
    "sgd": lambda params, p: sk.optim.ProxSGD(params, lr=0.05, penalty=p),
    "momentum": lambda params, p: sk.optim.ProxSGD(
        params, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1, penalty=p
    ),
    "adamw": lambda params, p: sk.optim.ProxAdamW(params, lr=0.05, penalty=p),
}
every_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


class Run:
    """Parameters with an optimiser, on a device; `gradients(k)` sets those of step k in place."""

    def __init__(self, make, device):
        torch.manual_seed(0)
        start = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
        self.params = [p.to(device).requires_grad_() for p in start]
        for p in self.params:
            p.grad = torch.zeros_like(p)
        self.l1 = torch.tensor(0.02, dtype=torch.float64, device=device)
        self.optimizer = make(
            self.params, sk.Penalty(l1=self.l1, group=0.05, shared=0.03, ridge=0.1)
        )

    def gradients(self, k):
        torch.manual_seed(k)
        for p in self.params:
            p.grad.copy_(torch.randn(p.shape, dtype=torch.float64))

    def steps(self, *numbers):
        for k in numbers:
            self.gradients(k)
            self.optimizer.step()


def assert_alike(run, expected):
    for p, q in zip(run.params, expected.params, strict=True):
        torch.testing.assert_close(p.detach().cpu(), q.detach().cpu(), rtol=1e-10, atol=1e-12)
    zeros = sum(int((p == 0).sum()) for p in run.params)
    assert 0 < zeros < sum(p.numel() for p in run.params)


@every_optimizer
def test_steps_equal_those_on_the_cpu(device, make):
    here, there = Run(make, "cpu"), Run(make, device)
    here.steps(*range(6))
    there.steps(*range(6))
    assert_alike(there, here)


@every_optimizer
def test_a_step_never_waits(device, make):
    run, expected = Run(make, device), Run(make, device)
    for r in (run, expected):
        r.steps(0)  # compiles and makes the state
        r.gradients(1)
    expected.optimizer.step()
    with no_waiting():
        run.optimizer.step()
    assert_alike(run, expected)


@every_optimizer
def test_replayed_steps_equal_eager_ones(device, make):
    """A step counter or a strength that the host had read would be stale in the replays."""
    replayed, eager = Run(make, device), Run(make, device)
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        replayed.steps(0, 1)
    torch.cuda.current_stream(device).wait_stream(side)
    eager.steps(0, 1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed.optimizer.step()
    for k in range(2, 7):
        for run in (replayed, eager):
            run.gradients(k)
            run.l1.mul_(1.2)
        graph.replay()
        eager.optimizer.step()
        assert_alike(replayed, eager)
