from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

import sparsedis_kernels as sk
from sparsedis_kernels.optim import ProxAdamW, ProxSGD

PENALTY = sk.Penalty(l1=0.02, group=0.05, shared=0.03, ridge=0.1)


def make_params(seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = [(3, 4, 2), (5, 6), (1, 1, 7)]
    params = [torch.randn(s, generator=g, dtype=dtype) for s in shapes]
    # A parameter that is not contiguous must be updated in place like any other.
    params.append(torch.randn(4, 3, 2, generator=g, dtype=dtype).transpose(0, 1))
    return [p.requires_grad_() for p in params]


def run(optimizer: torch.optim.Optimizer, params: list[Tensor], steps: int, seed: int = 1) -> None:
    """Steps on a curved loss with noise."""
    g = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        noise = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in params]
        sum(
            ((p**4).sum() / 4 + (p * e).sum() for p, e in zip(params, noise, strict=True))
        ).backward()
        optimizer.step()


def values(params: list[Tensor]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


SGD_OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.5, "weight_decay": 0.1},
    {"weight_decay": 0.1},
]
ADAMW_OPTIONS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.0},
    {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.3},
    {"betas": (0.0, 0.99)},
]
BASELINES = [(ProxSGD, torch.optim.SGD, o) for o in SGD_OPTIONS] + [
    (ProxAdamW, torch.optim.AdamW, o) for o in ADAMW_OPTIONS
]


@pytest.mark.parametrize(("ours", "theirs", "options"), BASELINES)
def test_without_penalty_it_is_the_torch_optimizer(
    ours: Callable[..., Any], theirs: Callable[..., Any], options: dict[str, Any]
) -> None:
    results = []
    for make in (ours, theirs):
        params = make_params()
        optimizer = make(
            [{"params": params[:2]}, {"params": params[2:], "lr": 0.02}], 0.05, **options
        )
        schedule = CosineAnnealingLR(optimizer, 20)
        for k in range(20):
            run(optimizer, params, 1, seed=k)
            schedule.step()
        results.append(values(params))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(("nesterov", "gradients"), [(False, 1.0), (True, 1.9)])
def test_first_sgd_step_is_the_prox_of_the_plain_one(nesterov: bool, gradients: float) -> None:
    """Nesterov's first step moves by 1 + momentum gradients, so the penalty counts as often."""
    options = {"momentum": 0.9, "nesterov": nesterov}
    plain, sparse = make_params(), make_params()
    run(torch.optim.SGD(plain, 0.1, **options), plain, 1)
    run(ProxSGD(sparse, 0.1, penalty=PENALTY, **options), sparse, 1)
    for a, b in zip(plain, sparse, strict=True):
        v = a.detach() if a.dim() == 3 else a.detach()[..., None]
        expected = sk.prox(v, PENALTY, 0.1 * gradients).reshape(a.shape)
        torch.testing.assert_close(b.detach(), expected, rtol=1e-14, atol=1e-15)


def heads_problem() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    z = torch.randn(3, 30, 6, generator=g, dtype=torch.float64)
    w = torch.randn(3, 6, 2, generator=g, dtype=torch.float64) * (torch.arange(6) < 3)[:, None]
    return z, z @ w + 0.3 * torch.randn(3, 30, 2, generator=g, dtype=torch.float64)


def heads_loss(z: Tensor, y: Tensor, w: Tensor) -> Tensor:
    return (z @ w - y).square().sum() / (2 * z.shape[1])


def solution(z: Tensor, y: Tensor, penalty: sk.Penalty) -> Tensor:
    return sk.fit_heads(z, y, penalty, fit_intercept=False, tol=1e-14).weight


@pytest.mark.parametrize(
    "penalty",
    [sk.Penalty(l1=0.2), sk.Penalty(group=0.2, ridge=0.1), sk.Penalty(l1=0.05, shared=0.3)],
)
@pytest.mark.parametrize("options", [{}, {"momentum": 0.5}, {"momentum": 0.5, "nesterov": True}])
def test_sgd_converges_to_the_solution_of_fit_heads(
    penalty: sk.Penalty, options: dict[str, Any]
) -> None:
    z, y = heads_problem()
    w = torch.zeros(3, 6, 2, dtype=torch.float64, requires_grad=True)
    optimizer = ProxSGD([w], 0.2, penalty=penalty, **options)
    for _ in range(400):
        optimizer.zero_grad()
        heads_loss(z, y, w).backward()
        optimizer.step()
    expected = solution(z, y, penalty)
    assert 0 < int((expected == 0).sum()) < expected.numel()
    assert torch.equal(w == 0, expected == 0)
    torch.testing.assert_close(w.detach(), expected, rtol=0, atol=1e-6)


def test_adamw_rests_at_the_solution() -> None:
    """The prox in any other metric than that of the step would leave it."""
    z, y = heads_problem()
    penalty = sk.Penalty(l1=0.05, group=0.2, ridge=0.1)
    expected = solution(z, y, penalty)
    w = expected.clone().requires_grad_()
    optimizer = ProxAdamW([w], 0.05, weight_decay=0.0, penalty=penalty)
    for _ in range(20):
        optimizer.zero_grad()
        heads_loss(z, y, w).backward()
        optimizer.step()
    torch.testing.assert_close(w.detach(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_first_adamw_step_has_the_bias_corrected_threshold(decay: float) -> None:
    """At step 1 the step is lr sign(g) and the threshold lr l1 / |g|, whatever the betas."""
    lr, l1, eps = 0.1, 0.2, 1e-12
    g = torch.tensor([[0.5, -0.02, 0.5, -0.02]], dtype=torch.float64)
    threshold = lr * l1 / g.abs()
    margin = torch.tensor([[1 - 1e-6, 1 - 1e-6, 1 + 1e-6, 1.5]], dtype=torch.float64)
    v = threshold * margin * g.sign()
    w = ((v + lr * g.sign()) / (1 - lr * decay)).requires_grad_()
    w.grad = g
    penalty = sk.Penalty(l1=l1)
    ProxAdamW([w], lr, (0.9, 0.999), eps=eps, weight_decay=decay, penalty=penalty).step()
    assert torch.equal(w[0, :2], torch.zeros(2, dtype=torch.float64))
    expected = (v - threshold * g.sign())[0, 2:]
    torch.testing.assert_close(w.detach()[0, 2:], expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("excess", [-1e-3, -1e-5, 0.0, 1e-5, 1e-3])
def test_groups_near_the_threshold_keep_their_sign(excess: float) -> None:
    """The radius of a group is the root of a secular equation: never a negative one."""
    lr, shape = 0.01, (20, 30, 5)
    rand = torch.Generator().manual_seed(5)
    start, grad = torch.randn(2, *shape, generator=rand)
    grad = grad * 10 ** (4 * torch.rand(shape, generator=rand) - 3)
    plain, w = (start.clone().requires_grad_() for _ in range(2))
    plain.grad, w.grad = grad.clone(), grad.clone()
    torch.optim.AdamW([plain], lr).step()
    v = plain.detach()
    radius = ((grad.abs().double() + 1e-8) * v.double()).norm(dim=2)
    group = (radius / lr / (1 + excess)).float()
    ProxAdamW([w], lr, penalty=sk.Penalty(group=group)).step()
    w = w.detach()
    assert bool((w * v >= 0).all())
    assert bool((w.abs() <= v.abs() * (1 + 1e-6)).all())
    zero = (w == 0).all(2)
    if excess != 0:  # on the threshold itself rounding decides
        assert bool(zero.all() if excess < 0 else not zero.any())


@pytest.mark.parametrize("make", [ProxSGD, ProxAdamW])
def test_weights_inside_the_threshold_become_exactly_zero(make: Callable[..., Any]) -> None:
    params = make_params(dtype=torch.float32)
    before = values(params)
    run(make(params, 0.1, penalty=sk.Penalty(l1=1.0)), params, 1)
    zeros = sum(int((p == 0).sum()) for p in params)
    assert 5 < zeros < sum(p.numel() for p in params)
    assert not any(bool((p == 0).any()) for p in before)


OPTIMIZERS: list[Callable[..., Any]] = [
    lambda p: ProxSGD(p, 0.05, 0.9, nesterov=True, weight_decay=0.1, penalty=PENALTY),
    lambda p: ProxAdamW(p, 0.05, penalty=PENALTY),
]


@pytest.mark.parametrize("make", OPTIMIZERS, ids=["sgd", "adamw"])
def test_state_dict_continues_bit_for_bit(make: Callable[..., Any]) -> None:
    params = make_params()
    optimizer = make(params)
    schedule = StepLR(optimizer, 4, 0.5)
    for k in range(5):
        run(optimizer, params, 1, seed=k)
        schedule.step()
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), schedule.state_dict(), values(params)], file)
    file.seek(0)
    state, schedule_state, copies = torch.load(file, weights_only=True)
    copies = [p.requires_grad_() for p in copies]
    other = make(copies)
    other_schedule = StepLR(other, 4, 0.5)
    other.load_state_dict(state)
    other_schedule.load_state_dict(schedule_state)
    for k in range(5, 10):
        run(optimizer, params, 1, seed=k)
        run(other, copies, 1, seed=k)
        schedule.step()
        other_schedule.step()
    for a, b in zip(params, copies, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("make", [ProxSGD, ProxAdamW])
def test_each_group_has_its_own_penalty(make: Callable[..., Any]) -> None:
    """Groups with penalties act as separate optimisers would; None is a plain step."""
    penalties = [PENALTY, sk.Penalty(group=0.5), None]
    together, apart = make_params()[:3], make_params()[:3]
    groups = [{"params": [p], "penalty": q} for p, q in zip(together, penalties, strict=True)]
    optimizer = make(groups, 0.05)
    run(optimizer, together, 3)
    for k, penalty in enumerate(penalties):
        single = make([apart[k]], 0.05, penalty=penalty)
        g = torch.Generator().manual_seed(1)
        for _ in range(3):
            noise = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in apart]
            apart[k].grad = apart[k].detach() ** 3 + noise[k]
            single.step()
        torch.testing.assert_close(together[k], apart[k], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("make", [ProxSGD, ProxAdamW])
def test_parameters_without_gradient_keep_their_values(make: Callable[..., Any]) -> None:
    params = make_params()
    before = values(params)
    optimizer = make(params, 0.1, penalty=PENALTY)
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    params[0].grad = torch.ones_like(params[0])
    optimizer.step()
    assert not torch.equal(params[0], before[0])
    assert all(torch.equal(p, b) for p, b in zip(params[1:], before[1:], strict=True))


@pytest.mark.parametrize("make", [ProxSGD, ProxAdamW])
def test_parameters_count_their_own_steps(make: Callable[..., Any]) -> None:
    """A parameter that gets its first gradient late starts then, as alone."""
    late, alone = make_params()[:2], make_params()[1]
    optimizer = make(late, 0.05, penalty=PENALTY)
    late[0].grad = torch.ones_like(late[0])
    optimizer.step()
    late[1].grad, alone.grad = torch.ones_like(alone), torch.ones_like(alone)
    optimizer.step()
    make([alone], 0.05, penalty=PENALTY).step()
    torch.testing.assert_close(late[1], alone, rtol=1e-14, atol=0)


@pytest.mark.parametrize("make", [ProxSGD, ProxAdamW])
def test_matrix_counts_as_one_output(make: Callable[..., Any]) -> None:
    matrix = make_params()[1]
    tensor = matrix.detach().clone()[..., None].requires_grad_()
    for p in (matrix, tensor):
        optimizer = make([p], 0.05, penalty=PENALTY)
        run(optimizer, [p], 5)
    assert torch.equal(matrix, tensor[..., 0])


@pytest.mark.parametrize("make", [ProxSGD, ProxAdamW])
def test_closure_is_evaluated_with_gradients(make: Callable[..., Any]) -> None:
    w = torch.ones(1, 2, 1, requires_grad=True)

    def closure() -> Tensor:
        w.grad = None
        loss = (3 * w).sum()
        loss.backward()
        return loss

    assert make([w], 0.1).step(closure).item() == 6
    assert float(w.detach().max()) < 1


@pytest.mark.parametrize("make", [ProxSGD, ProxAdamW])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 4, 5)])
def test_other_shapes_are_refused(make: Callable[..., Any], shape: tuple[int, ...]) -> None:
    p = torch.zeros(shape, requires_grad=True)
    with pytest.raises(ValueError, match=rf"{make.__name__}: params .*got \({str(shape)[1:-1]}\)"):
        make([p], 0.1, penalty=PENALTY)
    w = torch.ones(1, 2, 1, requires_grad=True)
    optimizer = make([w], 0.1, penalty=PENALTY)
    with pytest.raises(ValueError, match="params with a penalty"):
        optimizer.add_param_group({"params": [p]})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [p], "penalty": None})


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (ProxSGD, {"lr": -1.0}, "ProxSGD: lr must be >= 0, got -1.0"),
        (ProxSGD, {"lr": 0.1, "momentum": 1.0}, r"ProxSGD: momentum must be in \[0, 1\), got 1.0"),
        (ProxSGD, {"lr": 0.1, "nesterov": True}, "nesterov=True needs momentum > 0"),
        (ProxAdamW, {"weight_decay": -0.1}, "ProxAdamW: weight_decay must be >= 0, got -0.1"),
        (ProxAdamW, {"betas": (0.9, 1.0)}, r"ProxAdamW: betas must be in \[0, 1\)"),
        (ProxAdamW, {"eps": 0.0}, "ProxAdamW: eps must be > 0, got 0.0"),
    ],
)
def test_options_out_of_range(
    make: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    weight = torch.zeros(1, 1, 1, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        make([weight], **options)
    with pytest.raises(ValueError, match=message):  # of one group, too
        make([{"params": [weight], **options}], lr=0.1)
