"""Dispatch, streams, graphs, devices and sizes that only a CUDA device has."""

import pytest
import torch

import sparsedis_kernels as sk
from sparsedis_kernels import backends
from tests.gpu.cases import CASES, KERNELS, bound, no_waiting, with_gradients

pytestmark = pytest.mark.gpu

SHAPE = (60, 70, 5)
every_kernel = pytest.mark.parametrize("case", KERNELS.values(), ids=KERNELS)


def run(function, v, backend=None):
    """Outputs and the gradient in v."""
    return with_gradients(lambda leaf: function(leaf, backend), [v])


def assert_equal(actual, expected):
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_triton_serves_without_being_asked(device, case, monkeypatch):
    def refuse(op, device):
        raise AssertionError(f"the reference serves {op} on {device}")

    monkeypatch.setattr(backends, "report_fallback", refuse)
    v, function = bound(case, SHAPE, device)
    assert_equal(run(function, v), run(function, v, "triton"))


@every_kernel
def test_autocast_keeps_float32(device, case):
    v, function = bound(case, SHAPE, device)
    expected = function(v, None)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert_equal(function(v, None), expected)


@every_kernel
def test_forward_and_backward_never_wait(device, case):
    v, function = bound(case, SHAPE, device)
    expected = run(function, v)  # and compiles
    with no_waiting():
        actual = run(function, v)
    assert_equal(actual, expected)


@every_kernel
def test_runs_on_the_current_stream(device, case):
    """The stream is kept busy before it fills v: a kernel on another stream would read zeros."""
    v, function = bound(case, SHAPE, device)
    expected, late = run(function, v), torch.zeros_like(v)
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        late.copy_(v)
        actual = run(function, late)
    torch.cuda.current_stream(device).wait_stream(side)
    assert_equal(actual, expected)


@every_kernel
def test_replays_from_a_graph(device, case):
    v, function = bound(case, SHAPE, device)
    inputs = [v, 0.5 * v, 0.25 * v.flip(0)]
    expected = [run(function, u) for u in inputs]
    static = v.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(function, static)
    for u, outputs in zip(inputs, expected, strict=True):
        static.copy_(u)
        graph.replay()
        assert_equal(captured, outputs)


def test_in_place_replays_from_a_graph(device):
    penalty = sk.Penalty(l1=0.01, group=torch.tensor(0.05, device=device), ridge=0.1)
    start = torch.randn(SHAPE, device=device)
    eager, static = start.clone(), start.clone()
    sk.prox_(start, penalty)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sk.prox_(static, penalty)
    for _ in range(4):
        graph.replay()
        sk.prox_(eager, penalty)
        assert torch.equal(static, eager)
    assert 0 < int((static == 0).sum()) < static.numel()


@every_kernel
def test_tensors_on_a_device_that_is_not_the_current_one(device, case):
    devices = torch.cuda.device_count()
    if devices < 2:
        pytest.skip("there is one CUDA device only")
    v, function = bound(case, SHAPE, device)
    second, there = bound(case, SHAPE, torch.device("cuda", (device.index + 1) % devices))
    actual = run(there, second)
    assert torch.cuda.current_device() == device.index
    assert all(a.device == second.device for a in actual)
    assert_equal([a.to(device) for a in actual], run(function, v))


BEYOND = (2**16 + 1, 2**12, 8)  # the last task starts at element 2^31


@pytest.fixture
def beyond(device):
    """bfloat16 weights with more than 2^31 elements."""
    free, _ = torch.cuda.mem_get_info(device)
    needed = 2 * 2 * BEYOND[0] * BEYOND[1] * BEYOND[2]  # once more for what the op allocates
    if free < needed:
        pytest.skip(f"{needed / 1e9:.0f} GB of memory are needed, {free / 1e9:.0f} are free")
    torch.manual_seed(0)
    yield torch.empty(BEYOND, dtype=torch.bfloat16, device=device).normal_()
    torch.cuda.empty_cache()


@pytest.mark.parametrize("form", ["number", "feature"])
def test_prox_beyond_two_to_the_31_elements(beyond, form):
    group = 1.5 if form == "number" else 1 + torch.rand(1, BEYOND[1], device=beyond.device)
    penalty = sk.Penalty(l1=0.25, group=group)
    expected = {t: sk.prox(beyond[t : t + 1].clone(), penalty) for t in (0, 2**15, 2**16)}
    sk.prox_(beyond, penalty)
    for t, x in expected.items():
        assert torch.equal(beyond[t : t + 1], x)
        assert 0 < int((x == 0).sum()) < x.numel()


def test_feature_usage_beyond_two_to_the_31_elements(beyond):
    beyond[-1, ::3] = 0
    usage = sk.feature_usage(beyond)
    assert int(usage.features_per_task[-1]) == BEYOND[1] - -(-BEYOND[1] // 3)
    assert torch.equal(usage.tasks_per_feature.sum(), usage.features_per_task.sum())
    assert float(usage.entropy) == pytest.approx(torch.tensor(BEYOND[1]).log().item(), rel=1e-3)
