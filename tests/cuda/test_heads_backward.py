"""The gradient of CUDA's fit_heads, executed from its PTX on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sparsedis_kernels as sk
from tests.cuda.executed import MACHINE, NAMESPACE, executing
from tests.cuda.test_heads_fit import kinds
from tests.cuda.test_heads_report import LOSSES, losses, targets
from tests.problems import HEAD_PENALTIES, LAYOUTS, Samples, heads_problem, one_design

F32, F64 = torch.float32, torch.float64


def inputs_of(samples: Samples, penalty: sk.Penalty, loss: str) -> tuple[list[Tensor], list[str]]:
    """Samples, weights and strengths as tensors, strengths at a share of lambda_max."""
    y, keywords = targets(loss, samples.y), {"loss": loss, "offsets": samples.offsets}
    penalty = penalty.scaled(0.3)
    if penalty.l1 or penalty.group or penalty.shared:
        largest = sk.lambda_max(samples.z, y, penalty, **keywords)
        penalty = penalty.scaled(0.15 * float(largest[largest.isfinite()].max()))
    T = len(y) if samples.offsets is None else len(samples.offsets) - 1
    weight = 0.5 + torch.rand(y.shape[:-1], dtype=y.dtype)
    names = [name for name in ("l1", "group", "shared", "ridge") if getattr(penalty, name)]
    uneven = 0.9 + 0.2 * torch.rand(T, samples.z.shape[-1], dtype=y.dtype)
    levels = [getattr(penalty, k) * (uneven[0] if k == "shared" else uneven) for k in names]
    return [samples.z, y, weight, *levels], names


def solve(inputs: list[Tensor], names: list[str], *, nonneg: bool = False, **how: Any) -> Tensor:
    """The CPU's weights: gradients are compared at the same ones."""
    z, y, weight, *strengths = inputs
    penalty = sk.Penalty(**dict(zip(names, strengths, strict=True)), nonneg=nonneg)
    return sk.fit_heads(z, y, penalty, sample_weight=weight, backend="cpu", **how).weight


def gradients(
    namespace: str, solution: Tensor, inputs: list[Tensor], names: list[str], *,
    loss: str = "squared", offsets: Tensor | None = None, nonneg: bool = False,
) -> list[Tensor]:  # fmt: skip
    """Of a function of weights and biases, in all inputs."""
    z, y, weight, *strengths = inputs
    levels = dict(zip(names, strengths, strict=True))
    k = torch.arange(solution.numel(), dtype=z.dtype).view_as(solution)
    penalty = [levels.get(name) for name in ("l1", "group", "shared", "ridge")]
    needs = [True, True, True, *(level is not None for level in penalty)]
    grads = getattr(torch.ops, namespace).fit_heads_backward(
        torch.cos(k), torch.sin(k[:, 0]), solution, z, y, offsets, weight, LOSSES.index(loss),
        *penalty, [float(p is not None) for p in penalty], nonneg, True, needs,
    )  # fmt: skip
    return [g for g, need in zip(grads, needs, strict=True) if need]


def assert_agree(inputs: list[Tensor], names: list[str], tolerance: float, **how: Any) -> None:
    """CUDA's gradients with the CPU's, each in units of the largest of its kind."""
    at = {key: how[key] for key in ("loss", "offsets", "nonneg") if key in how}
    solution = solve(inputs, names, **how)
    given = (solution, inputs, names)
    for ours, theirs in zip(
        gradients(NAMESPACE, *given, **at), gradients("sparsedis", *given, **at), strict=True
    ):
        size = float(theirs.abs().max()) + 1e-12
        torch.testing.assert_close(ours / size, theirs / size, rtol=tolerance, atol=tolerance)


@losses
@pytest.mark.parametrize("layout", LAYOUTS)
@kinds
def test_gradients_agree_with_the_cpu(kind, layout, loss):
    samples, penalty = LAYOUTS[layout](), HEAD_PENALTIES[kind]
    if (kind, loss) == ("lasso", "multinomial"):
        # l1 alone leaves a shift of all classes of a feature undetermined: here some class is at 0.
        torch.manual_seed(1)
        samples = heads_problem(3, 20, 9, 3)
    inputs, names = inputs_of(samples, penalty, loss)
    how = {"loss": loss, "offsets": samples.offsets, "nonneg": penalty.nonneg}
    with executing(80, (MACHINE[0], 3)):
        assert_agree(inputs, names, 1e-9, tol=1e-9, **how)


@losses
@pytest.mark.parametrize("kind", ["sparse_group_ridge", "nested_ridge"])
def test_autograd_reaches_every_input(kind, loss):
    samples = heads_problem(3, 20, 9, 3)
    inputs, names = inputs_of(samples, HEAD_PENALTIES[kind], loss)
    results = []
    for backend in ("cuda", "cpu"):
        leaves = [x.detach().requires_grad_() for x in inputs]
        penalty = sk.Penalty(**dict(zip(names, leaves[3:], strict=True)))
        with executing(80):
            fitted = sk.fit_heads(
                *leaves[:2], penalty, sample_weight=leaves[2], loss=loss, tol=1e-13, backend=backend
            )
            value = fitted.weight.sin().sum() + fitted.bias.square().sum()
            results.append(torch.autograd.grad(value, leaves))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@losses
def test_gradients_of_free_features_agree_with_the_cpu(loss):
    """A feature that nothing penalises moves its own ridge, the floor."""
    samples = heads_problem(2, 30, 5, 2)
    inputs, names = inputs_of(samples, HEAD_PENALTIES["elastic_net"], loss)
    for strength in inputs[3:]:
        strength[:, 2] = 0
    with executing(80):
        assert_agree(inputs, names, 1e-5, loss=loss, tol=1e-9)  # the floor is 1e-10


@losses
@pytest.mark.parametrize("kind", ["ridge", "sparse_group_ridge"])
@pytest.mark.parametrize(
    ("n", "M", "C"), [(1, 7, 5), (3, 33, 1), (60, 129, 2), (40, 9, 17), (200, 1, 65)]
)
def test_odd_sizes_in_float32_agree_with_the_cpu(loss, kind, n, M, C):
    samples = heads_problem(2, n, M, C)
    inputs, names = inputs_of(samples, HEAD_PENALTIES[kind], loss)
    with executing(90):
        assert_agree([x.float() for x in inputs], names, 1e-4, loss=loss, tol=1e-5)


@losses
def test_backward_off_the_chip_gives_the_same_bits(loss):
    samples = heads_problem(3, 20, 9, 3)
    inputs, names = inputs_of(samples, HEAD_PENALTIES["sparse_group"], loss)
    results = []
    for shared, blocks, seed in ((MACHINE[0], 3, None), (9_000, 2, 1), (0, 1, 2)):
        with executing(80, (shared, blocks), seed=seed):
            solution = solve(inputs, names, loss=loss)
            results.append(gradients(NAMESPACE, solution, inputs, names, loss=loss))
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


@pytest.mark.parametrize("kind", ["group", "nested"])
@pytest.mark.parametrize("T", [1, 5, 37])
def test_sums_over_tasks_of_one_design_agree_with_the_cpu(T, kind):
    samples = one_design(T, 12, 6, 2)
    inputs, names = inputs_of(samples, HEAD_PENALTIES[kind], "squared")
    inputs[2] = inputs[2][0]  # one weight for each row of the design
    results = []
    for blocks in (16, 4):
        with executing(80, (MACHINE[0], blocks), seed=blocks):
            results.append(gradients(NAMESPACE, solve(inputs, names), inputs, names))
            assert_agree(inputs, names, 1e-9)
    assert all(map(torch.equal, *results))


@losses
@pytest.mark.parametrize("kind", ["group", "nested"])
def test_gradients_of_bad_tasks_spoil_no_other(kind, loss):
    samples = heads_problem(4, 12, 6, 3)
    inputs, names = inputs_of(samples, HEAD_PENALTIES[kind], loss)
    inputs[0] = inputs[0].clone()
    inputs[0][1, 3, 2], inputs[2][2] = torch.nan, 0
    solution = solve(inputs, names, loss=loss, on_error="flag")
    with executing(80):
        ours = gradients(NAMESPACE, solution, inputs, names, loss=loss)
    theirs = gradients("sparsedis", solution, inputs, names, loss=loss)
    assert ours[0].isnan().flatten(1).all(1).tolist() == [False, True, False, False]
    assert not ours[0][2].any()
    assert ours[0][[0, 3]].isfinite().all()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize("loss", LOSSES[:2])
def test_no_threads_race(loss):
    samples = one_design(3, 9, 5, 3)
    inputs, names = inputs_of(samples, HEAD_PENALTIES["sparse_group"], loss)
    with executing(80, sanitize="thread") as executor:
        solution = solve(inputs, names, loss=loss)
        gradients(NAMESPACE, solution, inputs, names, loss=loss)
    assert [name for name, _ in executor.launches] == ["fit_heads_backward", "add_sums"]
