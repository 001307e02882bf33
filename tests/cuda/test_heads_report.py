"""CUDA's lambda_max and duality_gap, executed from their PTX on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sparsedis_kernels as sk
from tests.cuda.executed import MACHINE, executing
from tests.problems import HEAD_PENALTIES, LAYOUTS, heads_problem

F32, F64 = torch.float32, torch.float64
CAPABILITIES = (80, 90)
LOSSES = ("squared", "multinomial", "logistic")
PENALTY = sk.Penalty(l1=0.3, group=0.4, ridge=0.1)
capabilities = pytest.mark.parametrize("capability", CAPABILITIES)
losses = pytest.mark.parametrize("loss", LOSSES)


def targets(loss: str, y: Tensor) -> Tensor:
    """The targets as the loss takes them."""
    if loss == "multinomial":
        return torch.nn.functional.one_hot(y.argmax(-1), y.shape[-1]).to(y.dtype)
    return (y > y.mean()).to(y.dtype) if loss == "logistic" else y


def reports(
    backend: str, z: Tensor, y: Tensor, penalty: sk.Penalty, **options: Any
) -> list[Tensor]:
    """lambda_max, and the gap of weights that are the same for every backend."""
    T = len(y) if options.get("offsets") is None else len(options["offsets"]) - 1
    size = torch.Size((T, z.shape[-1], y.shape[-1]))
    weight = torch.cos(torch.arange(size.numel())).view(size).to(z.dtype) / 10
    weight = weight.abs() if penalty.nonneg else weight
    gap = sk.duality_gap(z, y, weight, penalty, backend=backend, **options)
    if penalty is HEAD_PENALTIES["ridge"]:
        return [gap]
    return [sk.lambda_max(z, y, penalty, backend=backend, **options), gap]


def assert_agree(z: Tensor, y: Tensor, penalty: sk.Penalty, **options: Any) -> None:
    """With the CPU's kernels, which sum up in double, too."""
    tolerance = 1e-6 if z.dtype == F32 else 1e-11
    ours = reports("cuda", z, y, penalty, **options)
    for actual, expected in zip(ours, reports("cpu", z, y, penalty, **options), strict=True):
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


@capabilities
@losses
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", HEAD_PENALTIES)
def test_agrees_with_the_cpu(capability, kind, layout, loss):
    samples, dtype = LAYOUTS[layout](), F32 if capability == 90 else F64
    y = targets(loss, samples.y).to(dtype)
    with executing(capability):
        assert_agree(samples.z.to(dtype), y, HEAD_PENALTIES[kind], loss=loss, **samples.keywords())


@losses
@pytest.mark.parametrize("M", [1, 7, 33, 129])
@pytest.mark.parametrize(("n", "C"), [(1, 5), (3, 65), (200, 1), (50, 2)])
def test_odd_sizes_agree_with_the_cpu(loss, M, n, C):
    samples = heads_problem(3, n, M, C, dtype=F32)
    with executing(80):
        assert_agree(samples.z, targets(loss, samples.y), PENALTY, loss=loss)


@losses
def test_what_does_not_fit_on_the_chip_gives_the_same_bits(loss):
    samples = heads_problem(5, 40, 33, 3, dtype=F32)
    y = targets(loss, samples.y)
    kept = {}
    for shared in (MACHINE[0], 12_000, 3_000, 0):
        with executing(80, (shared, 2)) as executor:
            kept[shared] = reports("cuda", samples.z, y, PENALTY, loss=loss)
            assert all(used <= shared for *_, used in executor.planned)
    for result in kept.values():
        assert all(map(torch.equal, result, kept[0]))


@pytest.mark.parametrize("kind", ["sparse_group", "nested"])
def test_a_task_does_not_depend_on_the_order_of_blocks_and_threads(kind):
    samples = heads_problem(6, 20, 9, 2, dtype=F32)
    results = []
    for blocks, seed in ((1, None), (4, 1), (6, 2)):
        with executing(80, (MACHINE[0], blocks), seed=seed):
            results.append(reports("cuda", samples.z, samples.y, HEAD_PENALTIES[kind]))
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@losses
@pytest.mark.parametrize("kind", ["sparse_group", "nested_ridge"])
def test_bad_tasks_spoil_no_other(loss, kind):
    samples = heads_problem(5, 12, 6, 3)
    z, y = samples.z.clone(), targets(loss, samples.y)
    z[1, 3, 2] = torch.nan
    y[3, 0, 0] = torch.inf
    weight = torch.rand(5, 12, dtype=F64)
    weight[4] = 0
    with executing(80):
        assert_agree(z, y, HEAD_PENALTIES[kind], loss=loss, sample_weight=weight)
        gap = reports("cuda", z, y, HEAD_PENALTIES[kind], loss=loss, sample_weight=weight)[-1]
    assert torch.isnan(gap).tolist() == [False, True, False, True, False]


@losses
@pytest.mark.parametrize("intercept", [True, False])
def test_sample_weights_agree_with_the_cpu(loss, intercept):
    samples = heads_problem(4, 15, 7, 2)
    weight = torch.rand(4, 15, dtype=F64) * (torch.rand(4, 15) < 0.7)
    options = {"loss": loss, "sample_weight": weight, "fit_intercept": intercept}
    with executing(80):
        assert_agree(samples.z, targets(loss, samples.y), PENALTY, **options)


def test_strengths_of_any_form_agree_with_the_cpu():
    samples = heads_problem(4, 15, 7, 2)
    for l1 in (torch.rand(4, 1), torch.rand(1, 7), torch.rand(4, 7), torch.rand(7, 4).T):
        with executing(80):
            assert_agree(samples.z, samples.y, sk.Penalty(l1=l1.double(), group=0.2).scaled(0.5))


@losses
def test_every_byte_is_read_once(loss):
    """A task on the chip: 1.1 times its samples, weights and strengths at most."""
    samples = heads_problem(3, 50, 64, 5, dtype=F32)
    y, strengths = targets(loss, samples.y), torch.rand(3, 64)
    weight = torch.randn(3, 64, 5)
    with executing(80) as executor:
        sk.duality_gap(
            samples.z, y, weight, sk.Penalty(l1=strengths, group=0.1), loss=loss, backend="cuda"
        )
    ((_, stats),) = executor.launches
    inputs = sum(4 * t.numel() for t in (samples.z, y, weight, strengths))
    assert inputs <= stats.bytes_loaded <= 1.1 * inputs
    assert stats.bytes_stored == 4 * 3
    # Features are copied number by number, to rows of an odd stride. What goes through registers is
    # read wide where it is aligned, as all targets but those of the second task are.
    assert stats.global_loads[16] > 0.8 * (y.numel() + weight.numel()) / 4


@pytest.mark.parametrize("kind", ["sparse_group", "nested_ridge"])
def test_no_threads_race(kind):
    samples = heads_problem(2, 9, 5, 3, dtype=F32)
    y = targets("multinomial", samples.y)
    with executing(80, sanitize="thread") as executor:
        reports("cuda", samples.z, y, HEAD_PENALTIES[kind], loss="multinomial")
    assert len(executor.launches) == (8 if kind == "nested_ridge" else 2)


def test_launches_are_few_and_blocks_take_several_tasks():
    samples = heads_problem(7, 9, 5, 3, dtype=F32)
    with executing(80, (MACHINE[0], 3)) as executor:
        reports("cuda", samples.z, samples.y, HEAD_PENALTIES["sparse_group"])
        reports("cuda", samples.z, samples.y, HEAD_PENALTIES["nested"])
    assert [planned.grid for planned in executor.planned] == [3, 3, 3, 5, 3, 5, 1, 3, 5, 1]
