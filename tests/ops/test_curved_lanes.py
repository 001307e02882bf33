"""Heads of small tasks under other losses than squares, which the CPU kernels solve together."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import sparsedis_kernels as sk
from tests.problems import NAN_TASK, UNEVEN_COUNTS, UNEVEN_FEATURES, uneven_task, uneven_tasks

T = len(UNEVEN_COUNTS)
LEVELS = {
    "l1": ("l1",), "group": ("group",), "all": ("l1", "group", "ridge"), "ridge": ("ridge",),
}  # fmt: skip
# Most steps that lanes take, as csrc/core/curved_lanes_solver.h has it.
LANE_STEPS = 30
losses = pytest.mark.parametrize("loss", ["multinomial", "logistic"])


def problem(loss: str, C: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Uneven tasks whose targets are classes, of which the small ones have not all."""
    z, y, weight, offsets = uneven_tasks(C, dtype)
    if loss == "multinomial":
        return z, F.one_hot(y.argmax(1), C).to(dtype), weight, offsets
    return z, (y > y.nanmean(0)).to(dtype), weight, offsets


def strengths(levels: tuple[str, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    """Those of every task and feature; some features have none, in one task all."""
    values = {}
    for level in levels:
        values[level] = 0.01 + 0.03 * torch.rand(T, UNEVEN_FEATURES, dtype=dtype)
        if level != "ridge":
            values[level][::5, ::7] = 0.0
            values[level][13] = 0.0
    return values


def solve(loss: str, data: tuple[Tensor, ...], penalty: sk.Penalty, **options) -> sk.HeadsFit:
    z, y, weight, offsets = data
    return sk.fit_heads(
        z, y, penalty, loss=loss, sample_weight=weight, offsets=offsets, on_error="flag", **options
    )


@losses
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("C", [1, 2, 5, 6])
@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.filterwarnings("ignore:fit_heads")  # where nothing holds weights, they have no bound
def test_a_task_beside_others_is_what_it_is_alone(levels, fit_intercept, nonneg, C, dtype, loss):
    """Bit for bit, whatever classes the others have and whether they start warm."""
    data = problem(loss, C, dtype)
    values = strengths(LEVELS[levels], dtype)
    init = 0.3 * torch.randn(T, UNEVEN_FEATURES, C, dtype=dtype)
    init[torch.rand(T, UNEVEN_FEATURES) < 0.6] = 0.0
    init[::3] = 0.0
    how = {"fit_intercept": fit_intercept, "tol": 1e-4, "max_iter": 60}
    together = solve(loss, data, sk.Penalty(**values, nonneg=nonneg), init=init, **how)
    assert together.weight.isnan().flatten(1).all(1).nonzero().flatten().tolist() == [NAN_TASK]
    for t in range(0, T, 3):
        own = uneven_task(data, t)
        penalty = sk.Penalty(**{k: v[t : t + 1] for k, v in values.items()}, nonneg=nonneg)
        alone = solve(loss, own, penalty, init=init[t : t + 1], **how)
        for a, b in zip(alone, together, strict=True):
            assert torch.equal(a[0].nan_to_num(), b[t].nan_to_num()), t


@losses
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("C", [1, 2, 5])
@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("levels", LEVELS)
def test_gaps_are_the_reference_s(levels, nonneg, C, dtype, loss):
    """Certified in double over all features: that of the weights, from the data, is no larger."""
    z, y, weight, offsets = data = problem(loss, C, dtype)
    values = {level: torch.full((1, 1), 0.02, dtype=dtype) for level in LEVELS[levels]}
    tol = 1e-5 if dtype == torch.float32 else 1e-9
    out = solve(loss, data, sk.Penalty(**values, nonneg=nonneg), tol=tol)
    assert out.converged.logical_not().nonzero().flatten().tolist() == [NAN_TASK]
    penalty = sk.Penalty(**{k: v.double() for k, v in values.items()}, nonneg=nonneg)
    gaps = sk.duality_gap(
        z.double(), y.double(), out.weight.double(), penalty, loss=loss,
        sample_weight=weight.double(), offsets=offsets, backend="reference",
    )  # fmt: skip
    # Float32 rounds samples as it centres them.
    rounding = 8 * torch.finfo(dtype).eps
    assert float(gaps[torch.arange(T) != NAN_TASK].max()) <= tol + rounding


@losses
def test_what_takes_many_steps_is_solved_all_the_same(loss):
    """Two tasks whose features are nearly one go on alone, from where lanes left them."""
    z = torch.randn(20, 40, 30, dtype=torch.float64)
    scores = 3 * z[:, :, :3] + torch.randn(20, 40, 3, dtype=torch.float64)
    classes = F.one_hot(scores.argmax(2), 3) if loss == "multinomial" else scores > 0
    y, penalty = classes.double(), sk.Penalty(group=0.02)
    before = sk.fit_heads(z, y, penalty, loss=loss, tol=1e-4)
    assert int(before.n_iter.max()) <= LANE_STEPS
    hard = [3, 11]
    z[hard] = z[hard, :, :1] + 0.02 * z[hard]
    out = sk.fit_heads(z, y, penalty, loss=loss, tol=1e-9)
    assert out.converged.all()
    again = sk.fit_heads(z, y, penalty, loss=loss, tol=1e-4)
    others = [t for t in range(20) if t not in hard]
    assert torch.equal(again.weight[others], before.weight[others])
    assert int(out.n_iter[hard].min()) > LANE_STEPS


@losses
@pytest.mark.parametrize("start", ["zero", "solution", "far"])
def test_any_start_leads_there(loss, start):
    z, y, weight, _ = problem(loss, 3, torch.float64)
    keep = torch.arange(T) != NAN_TASK
    rows = keep.repeat_interleave(torch.tensor(UNEVEN_COUNTS))
    counts = torch.tensor(UNEVEN_COUNTS)[keep]
    data = (z[rows], y[rows], weight[rows], torch.cat([torch.zeros(1).long(), counts.cumsum(0)]))
    penalty = sk.Penalty(l1=0.01, group=0.02, ridge=0.05)
    exact = solve(loss, data, penalty, tol=1e-12)
    init = {"zero": None, "solution": exact.weight, "far": 30 * torch.randn_like(exact.weight)}
    out = solve(loss, data, penalty, tol=1e-10, init=init[start])
    assert out.converged.all()
    torch.testing.assert_close(out.weight, exact.weight, rtol=0, atol=1e-4)
    torch.testing.assert_close(out.bias, exact.bias, rtol=0, atol=1e-4)
    if start == "solution":
        assert int(out.n_iter.max()) <= 3


@losses
@pytest.mark.parametrize("max_iter", [1, 5, 8, 9, 10, 20, 40])
@pytest.mark.filterwarnings("ignore:fit_heads")
def test_steps_are_as_many_as_allowed(loss, max_iter):
    data = problem(loss, 3, torch.float64)
    out = solve(loss, data, sk.Penalty(group=0.001), tol=0.0, max_iter=max_iter)
    assert int(out.n_iter.max()) == max_iter
