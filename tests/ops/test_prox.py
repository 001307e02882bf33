import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsedis_kernels as sk
from tests.problems import LEVEL_SETS, LEVELS, assert_as_accurate, random_penalty

F64 = torch.float64
FORMS = ["float", "task", "feature", "group"]


def weights(T, M, C):
    """Weights of which some groups, and some features, are inside any threshold."""
    small = torch.rand(T, M, 1, dtype=F64) * torch.rand(1, M, 1, dtype=F64)
    return 4 * small * torch.randn(T, M, C, dtype=F64)


def strength(penalty, level, v):
    """The strength of a level on every entry of v."""
    value = torch.as_tensor(getattr(penalty, level), dtype=v.dtype)
    if level == "shared":
        return value.expand(v.shape[1])
    return value.expand(v.shape[:2])[:, :, None]


def optimality(v, x, penalty, step=1.0, metric=None):
    """How far r = d (v - x) - ridge x is from a subgradient of the sparse levels at x.

    (slack, violation): r is one iff Omega(x) = <r, x>, and the nested balls leave nothing of it.
    """
    d = torch.ones_like(v) if metric is None else metric
    l1, group, shared, ridge = (
        step * strength(penalty, k, v) for k in ("l1", "group", "shared", "ridge")
    )
    r = d * (v - x) - ridge * x
    norms, feature = x.norm(dim=2, keepdim=True), x.norm(dim=(0, 2))
    value = (l1 * x.abs()).sum() + (group * norms).sum() + (shared * feature).sum()
    left = r.clamp(min=0) if penalty.nonneg else r.abs()
    left = (left - l1).clamp(min=0).norm(dim=2)
    left = (left - group[:, :, 0]).clamp(min=0).norm(dim=0)
    return float(value - (r * x).sum()), float((left - shared).clamp(min=0).max())


CASES = [
    pytest.param(
        levels, form, metric, nonneg,
        id=f"{'+'.join(levels)}-{form}{'-metric' * metric}{'-nonneg' * nonneg}",
    )
    for levels, form, metric, nonneg in itertools.product(
        LEVEL_SETS, FORMS, (False, True), (False, True)
    )
]  # fmt: skip


@pytest.mark.parametrize(("levels", "form", "with_metric", "nonneg"), CASES)
def test_is_optimal(any_backend, levels, form, with_metric, nonneg):
    v = weights(5, 7, 3)
    metric = (1.5 * torch.randn_like(v)).exp() if with_metric else None
    penalty = random_penalty(levels, 5, 7, like=form, nonneg=nonneg)
    x = sk.prox(v, penalty, 0.8, metric=metric, backend=any_backend)
    slack, violation = optimality(v, x, penalty, 0.8, metric)
    assert abs(slack) < 1e-11
    assert violation < 1e-12
    assert not nonneg or (x >= 0).all()


@pytest.mark.parametrize(("levels", "form", "with_metric", "nonneg"), CASES)
def test_float32_is_as_accurate_as_the_reference(native, levels, form, with_metric, nonneg):
    v = weights(6, 65, 4)
    metric = (1.5 * torch.randn_like(v)).exp() if with_metric else None
    penalty = random_penalty(levels, 6, 65, like=form, nonneg=nonneg)
    exact = sk.prox(v, penalty, metric=metric, backend="reference")
    narrow = None if metric is None else metric.float()
    ours, theirs = (
        sk.prox(v.float(), penalty, metric=narrow, backend=b) for b in (native, "reference")
    )
    assert_as_accurate(ours, theirs, exact)


@pytest.mark.parametrize("C", [1, 5, 65, 700])
def test_float32_of_any_number_of_outputs_is_as_accurate_as_the_reference(native, C):
    v = weights(4, 21, C)
    penalty = sk.Penalty(l1=0.3, group=0.9, ridge=0.1)
    exact = sk.prox(v, penalty, backend="reference")
    ours, theirs = (sk.prox(v.float(), penalty, backend=b) for b in (native, "reference"))
    assert_as_accurate(ours, theirs, exact)


def test_zeros_near_the_threshold_are_proven_crossings(any_backend):
    """Within an ulp of ||v|| = group the answer may flip; a flip must be a crossing in float64."""
    group, C = 0.703125, 5  # exact in float32, so that both sides of the band are alike
    v = torch.randn(400, 50, C)
    v = v / v.norm(dim=2, keepdim=True) * group * (1 + 3e-6 * torch.randn(400, 50, 1))
    x = sk.prox(v, sk.Penalty(group=group), backend=any_backend)
    margin = v.double().norm(dim=2) / group - 1
    zero = (x == 0).all(dim=2)
    wrong = zero != (margin <= 0)
    assert wrong.float().mean() < 0.05
    band = {"reference": 4.0, "triton": 0.5, "cpu": 0.5}[any_backend]
    assert (margin[wrong].abs() < band * torch.finfo(torch.float32).eps).all()
    if any_backend == "cpu":  # sums in float64; a sum that rounds to the level has one side
        assert margin[wrong].sign().sum().abs() <= 4 + 3 * wrong.sum().sqrt()


def test_levels_compose_from_leaf_to_root(any_backend):
    """The other order is wrong: elements first, then groups, then features, then ridge."""
    v = 2 * torch.randn(4, 6, 3, dtype=F64)
    steps = [
        sk.Penalty(l1=0.2),
        sk.Penalty(group=0.4),
        sk.Penalty(shared=0.9),
        sk.Penalty(ridge=0.5),
    ]
    x = v
    for level in steps:
        x = sk.prox(x, level, backend=any_backend)
    together = sk.Penalty(l1=0.2, group=0.4, shared=0.9, ridge=0.5)
    torch.testing.assert_close(sk.prox(v, together, backend=any_backend), x)
    y = v
    for level in reversed(steps):
        y = sk.prox(y, level, backend=any_backend)
    assert (y - x).abs().max() > 1e-3


shapes = st.tuples(st.integers(0, 4), st.integers(1, 9), st.sampled_from([1, 2, 3, 5, 8, 33]))


@given(shapes, st.sampled_from(LEVEL_SETS), st.booleans(), st.integers(0, 10**6))
def test_non_expansive_and_shrinking(shape, levels, nonneg, seed):
    torch.manual_seed(seed)
    u, v = 3 * torch.randn(2, *shape, dtype=F64)
    penalty = random_penalty(levels, *shape[:2], nonneg=nonneg)
    x, y = sk.prox(u, penalty), sk.prox(v, penalty)
    assert (x - y).norm() <= (u - v).norm() * (1 + 1e-12)
    assert (x.abs() <= u.abs() + 1e-12).all()


@given(shapes, st.sampled_from(LEVEL_SETS), st.floats(0.01, 100), st.integers(0, 10**6))
def test_homogeneous_and_permutable(shape, levels, factor, seed):
    torch.manual_seed(seed)
    T, M, C = shape
    v = torch.randn(shape, dtype=F64)
    penalty = random_penalty([k for k in levels if k != "ridge"], T, M)
    x = sk.prox(v, penalty)
    torch.testing.assert_close(sk.prox(factor * v, penalty, factor), factor * x)
    tasks, features, outputs = torch.randperm(T), torch.randperm(M), torch.randperm(C)

    def shuffle(level):
        value = getattr(penalty, level)
        if not isinstance(value, torch.Tensor):
            return value
        return value[features] if level == "shared" else value[tasks][:, features]

    shuffled = sk.Penalty(**{k: shuffle(k) for k in ("l1", "group", "shared")})
    permuted = sk.prox(v[tasks][:, features][:, :, outputs], shuffled)
    torch.testing.assert_close(permuted, x[tasks][:, features][:, :, outputs])


@pytest.mark.parametrize(
    "shape", [(3, 2, 1), (1, 1, 1025), (200, 130, 2), (2, 1, 16000), (2, 130, 4101)]
)
@pytest.mark.parametrize("levels", LEVEL_SETS, ids="+".join)
def test_sizes_agree_with_the_reference(native, shape, levels):
    v = torch.randn(shape, dtype=F64)
    penalty = random_penalty(levels, *shape[:2])
    ours, theirs = (sk.prox(v, penalty, backend=b) for b in (native, "reference"))
    torch.testing.assert_close(ours, theirs)


def value_and_gradients(penalty, backend, v, metric, seed):
    leaves = v, metric = [a.detach().requires_grad_() for a in (v, metric)]
    x = sk.prox(v, penalty, 0.8, metric=metric, backend=backend)
    return x, *torch.autograd.grad(x, leaves, seed)


@pytest.mark.parametrize(
    ("C", "levels"),
    [(C, ("l1", "group")) for C in (1, 2, 3, 5, 8, 33, 65)] + [(C, LEVELS) for C in (1, 5, 33)],
)
def test_any_number_of_outputs_agrees_with_the_reference(native, C, levels):
    """Where C is no power of two, and M no multiple of what a kernel handles at a time."""
    v, seed = weights(3, 37, C), torch.randn(3, 37, C, dtype=F64)
    metric = torch.randn_like(v).exp()
    penalty = random_penalty(levels, 3, 37)
    ours, theirs = (value_and_gradients(penalty, b, v, metric, seed) for b in (native, "reference"))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("levels", [("group",), ("l1", "group", "ridge"), LEVELS], ids="+".join)
def test_a_group_that_fills_a_program_agrees_with_the_reference(native, levels, nonneg):
    """With a metric; some entries and groups are zero, and so are some levels."""
    v, seed = torch.randn(2, 3, 2, 2100, dtype=F64)
    v[:, :, 7], v[1, 1] = 0, 0
    metric = torch.rand_like(v) + 0.1
    penalty = random_penalty(levels, 3, 2, nonneg=nonneg)
    strengths = [getattr(penalty, level) for level in levels]
    for value in strengths:
        value[0] = 0
        value *= 20 if value is penalty.group else 1
        value.requires_grad_()

    def differentiated(backend):
        leaves = [a.detach().requires_grad_() for a in (v, metric)] + strengths
        x = sk.prox(leaves[0], penalty, metric=leaves[1], backend=backend)
        return x, *torch.autograd.grad(x, leaves, seed)

    torch.testing.assert_close(differentiated(native), differentiated("reference"))


LAYOUTS = {
    "features_first": lambda v: v.transpose(0, 1).contiguous().transpose(0, 1),
    "outputs_first": lambda v: v.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "every_other_output": lambda v: v.repeat_interleave(2, dim=2)[:, :, ::2],
    "every_other_feature": lambda v: v.repeat_interleave(2, dim=1)[:, ::2],
    "not_aligned": lambda v: torch.cat([v.new_zeros(1), v.flatten()])[1:].view_as(v),
    "one_for_all_tasks": lambda v: v[:1].expand_as(v),
    "one_for_all_outputs": lambda v: v[:, :, :1].expand_as(v),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_in_memory_agree_with_a_dense_copy(any_backend, layout):
    strided = [LAYOUTS[layout](a) for a in 2 * torch.rand(3, 5, 21, 3, dtype=F64)]
    dense = [torch.empty(a.shape, dtype=F64).copy_(a) for a in strided]
    penalty = random_penalty(("l1", "group"), 5, 21)
    ours, theirs = (value_and_gradients(penalty, any_backend, *a) for a in (strided, dense))
    torch.testing.assert_close(ours, theirs)


def test_without_a_penalty_it_is_the_identity(any_backend):
    v = torch.randn(3, 4, 2)
    v[0, 1] = 0  # nothing holds it there
    v.requires_grad_()
    x = sk.prox(v, sk.Penalty(), backend=any_backend)
    assert torch.equal(x, v)
    seed = torch.randn_like(v)
    assert torch.equal(torch.autograd.grad(x, v, seed)[0], seed)


@pytest.mark.parametrize("levels", LEVEL_SETS, ids="+".join)
@pytest.mark.parametrize("with_metric", [False, True])
def test_extreme_and_zero_rows_stay_finite(any_backend, levels, with_metric):
    penalty = random_penalty(levels, 2, 3, dtype=torch.float32)
    metric = torch.rand(2, 3, 4) + 0.5 if with_metric else None
    for size in (1e30, 1e20, 1e-25, 0.0):
        v = torch.full((2, 3, 4), size)
        v[0, 0] = 0
        v.requires_grad_()
        x = sk.prox(v, penalty, metric=metric, backend=any_backend)
        (grad,) = torch.autograd.grad(x, v, torch.ones_like(x))
        wide = None if metric is None else metric.double()
        exact = sk.prox(v.double(), penalty, metric=wide)
        torch.testing.assert_close(x, exact.float(), rtol=1e-5, atol=0)
        assert torch.isfinite(grad).all()


def test_nan_reaches_its_group_and_no_other(any_backend):
    v = torch.randn(3, 4, 2)
    clean = sk.prox(v, sk.Penalty(l1=0.1, group=0.2), backend=any_backend)
    v[1, 2, 0] = float("nan")
    x = sk.prox(v, sk.Penalty(l1=0.1, group=0.2), backend=any_backend)
    assert x[1, 2].isnan().any()
    x[1, 2] = clean[1, 2]
    assert torch.equal(x, clean)


@pytest.mark.parametrize("levels", LEVEL_SETS, ids="+".join)
def test_in_place_equals_out_of_place(any_backend, levels):
    penalty = random_penalty(levels, 5, 6)
    v = torch.randn(5, 6, 4, dtype=F64)
    expected = sk.prox(v, penalty, 0.5, backend=any_backend)
    target = v.clone()
    assert sk.prox_(target, penalty, 0.5, backend=any_backend) is target
    assert torch.equal(target, expected)
    strided = torch.empty(4, 6, 5, dtype=F64).permute(2, 1, 0).copy_(v)
    sk.prox_(strided, penalty, 0.5, backend=any_backend)
    torch.testing.assert_close(strided, expected)
    half = v.to(torch.bfloat16)
    assert torch.equal(
        sk.prox_(half.clone(), penalty, backend=any_backend),
        sk.prox(half, penalty, backend=any_backend),
    )


def test_bitwise_the_same_on_any_number_of_threads():
    v = torch.randn(300, 40, 3)
    for levels in LEVEL_SETS:
        penalty = random_penalty(levels, 300, 40, dtype=torch.float32)
        torch.set_num_threads(1)
        alone = sk.prox(v, penalty)
        torch.set_num_threads(2)
        assert torch.equal(sk.prox(v, penalty), alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("C", [2, 3, 4, 5, 7, 8, 10, 16, 23, 130, 4101])
@pytest.mark.parametrize("with_metric", [False, True])
def test_bitwise_the_same_in_any_batch(native, with_metric, C, dtype):
    """Values and gradients of groups, on whose side which others are solved."""
    torch.manual_seed(0)
    v = torch.randn(41, 1, C, dtype=dtype)
    metric = (3 * torch.randn_like(v)).exp() if with_metric else None
    group = torch.rand(41, 1, dtype=dtype) * 2

    def values(tasks):
        leaf = v[tasks].requires_grad_()
        penalty = sk.Penalty(l1=1e-3, group=group[tasks])
        chosen = None if metric is None else metric[tasks]
        x = sk.prox(leaf, penalty, metric=chosen, backend=native)
        return x.detach(), *torch.autograd.grad(x.square().sum(), leaf)

    order = torch.randperm(41)
    for all_, some in zip(values(slice(None)), values(order), strict=True):
        assert torch.equal(all_[order], some)
    for all_, some in zip(values(slice(None)), values([7]), strict=True):
        assert torch.equal(all_[[7]], some)


def test_metric_threshold_never_changes_a_sign(any_backend):
    """Plain Newton without a clamp gives a negative norm just above the threshold."""
    d = (2 * torch.randn(2000, 1, 6)).exp()
    u = torch.randn(2000, 1, 6)
    u = u / u.norm(dim=2, keepdim=True) * (1 + 1e-6 * torch.rand(2000, 1, 1))
    v = u / d
    x = sk.prox(v, sk.Penalty(group=1.0), metric=d, backend=any_backend)
    assert (x * v >= 0).all()
    assert (x.abs() <= v.abs()).all()


def test_empty_inputs(any_backend):
    for shape in [(0, 3, 2), (2, 0, 2)]:
        v = torch.randn(shape, requires_grad=True)
        x = sk.prox(v, sk.Penalty(l1=0.1, group=0.1, shared=0.1), backend=any_backend)
        assert x.shape == shape
        x.sum().backward()
        assert v.grad.shape == shape


ERRORS = [
    (lambda: sk.prox(torch.randn(3, 4), sk.Penalty()), r"prox: v has shape \(3, 4\).*\(T, M, C\)"),
    (
        lambda: sk.prox(torch.randn(3, 4, 2), sk.Penalty(l1=torch.rand(5))),
        r"prox: penalty.l1 has shape \(5,\).*\(3, 4\)",
    ),
    (
        lambda: sk.prox(torch.randn(3, 3, 2), sk.Penalty(group=torch.rand(3))),
        r"fits both T = 3 tasks and M = 3 features",
    ),
    (
        lambda: sk.prox(torch.randn(3, 4, 2), sk.Penalty(shared=torch.rand(3))),
        r"penalty.shared has shape \(3,\), expected \(\) or \(M,\) = \(4,\)",
    ),
    (
        lambda: sk.prox(torch.randn(3, 4, 2), sk.Penalty(), metric=torch.rand(3, 4)),
        r"metric has shape \(3, 4\), but v needs \(3, 4, 2\)",
    ),
    (lambda: sk.prox(torch.randn(3, 4, 2), sk.Penalty(), -1.0), r"step must be >= 0, got -1.0"),
    (lambda: sk.Penalty(l1=-0.5), r"l1 must be >= 0 everywhere, got -0.5"),
    (lambda: sk.Penalty(ridge=torch.tensor([0.1, float("nan")])), r"ridge must be >= 0 everywhere"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_errors_name_op_argument_and_values(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_integer_weights_are_a_type_error():
    with pytest.raises(TypeError, match=r"prox: v has dtype torch.int64"):
        sk.prox(torch.ones(2, 2, 2, dtype=torch.int64), sk.Penalty())


def test_in_place_refuses_to_lose_a_gradient():
    with pytest.raises(RuntimeError, match=r"prox_: v requires a gradient"):
        sk.prox_(torch.randn(2, 2, 2, requires_grad=True), sk.Penalty(l1=0.1))


def test_forward_mode_is_refused():
    v = torch.randn(2, 3, 4)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(v, torch.ones_like(v))
        with pytest.raises(RuntimeError, match="jvp"):
            sk.prox(dual, sk.Penalty(group=0.1))
