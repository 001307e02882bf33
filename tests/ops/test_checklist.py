"""What every op must pass, over every op and backend."""

import pytest
import torch
from torch.library import opcheck

import sparsedis_kernels as sk
from sparsedis_kernels import backends
from tests.problems import LAYOUTS, heads_problem, random_penalty
from tests.triton.implementations import ALL, NATIVE

T, M, C = 3, 4, 2
F64 = torch.float64


def weights(dtype=F64):
    return torch.randn(T, M, C, dtype=dtype)


def strengths(dtype=F64):
    return torch.rand(T, M, dtype=dtype) + 0.2


def prox_cases(dtype, shape):
    """(op, arguments) for every raw op of weights: no tensors, full and strided strengths."""
    torch.manual_seed(0)
    (T, M, _), none = shape, [None] * 4
    v, grad, x = (torch.randn(shape, dtype=dtype) for _ in range(3))
    x, metric = x.relu(), torch.randn(shape, dtype=dtype).exp()
    levels, l1, group, ridge = (torch.rand(T, M, dtype=dtype) + 0.2 for _ in range(4))
    row, column = torch.rand(M, dtype=dtype) + 0.2, torch.rand(T, 1, dtype=dtype) + 0.2
    full = [l1, group, row, ridge]
    strided = [row.expand(T, M), column.expand(T, M), row, ridge]
    scale, needs = [0.2, 0.3, 0.1, 0.4], [True] * 6
    yield "prox", (v, *full, metric, scale, False)
    yield "prox", (v, *strided, None, scale, True)
    yield "prox", (v.transpose(0, 1).contiguous().transpose(0, 1), *none, None, scale, False)
    yield "prox_", (v.clone(), *full, metric, scale, False)
    yield "prox_backward", (grad, x, v, *full, metric, scale, False, needs)
    yield "prox_backward", (grad, x, None, *none, None, scale, False, [True] + [False] * 5)
    yield "radial_prox", (v, levels, levels, levels + 2, 0)
    yield "radial_prox_backward", (grad, v, levels, levels, levels + 2, 1)
    yield "linf_prox", (v, levels, metric)
    clipped = torch.ops.sparsedis_reference.linf_prox(v, levels, None)
    yield "linf_prox_backward", (grad, v, clipped, levels, None, [True, True, False])
    yield "penalty_value", (v, *full, scale, False)
    yield "penalty_value_backward", (v.sum(), v, *full, scale, [True] * 5)
    yield "feature_usage", (x,)
    yield "feature_usage_backward", (torch.randn(M, dtype=dtype), x)


def raw_cases(dtype=F64):
    """The same of few weights, and (op, arguments) for every raw op of samples."""
    yield from prox_cases(dtype, (T, M, C))
    yield from head_cases(dtype)


def head_cases(dtype):
    for layout, make in LAYOUTS.items():
        s = make()
        z, y = s.z.to(dtype), s.y.to(dtype)
        tasks = len(s.offsets) - 1 if s.offsets is not None else len(y)
        features, outputs = z.shape[-1], y.shape[-1]
        weight = torch.rand(y.shape[:-1], dtype=dtype)
        l1 = 0.05 + 0.1 * torch.rand(tasks, features, dtype=dtype)
        shared = None if layout != "dense" else l1[0]
        penalty = (
            l1,
            None,
            shared,
            None,
            [1.0, 0.1, 1.0 if layout == "dense" else 0.0, 0.0],
            False,
        )
        samples = (z, y, s.offsets, weight, 0)
        head = torch.randn(tasks, features, outputs, dtype=dtype)
        bias = torch.randn(tasks, outputs, dtype=dtype)
        yield "fit_heads", (*samples, *penalty, True, None, 1e-3, 500)
        sharing = torch.tensor(0.01, dtype=dtype)
        args = ("sparsedis", *samples, *penalty, True, sharing, None, 1e-3, 500)
        yield "fit_heads_sharing", args
        solved = torch.ops.sparsedis_reference.fit_heads(
            *samples, *penalty, True, None, 1e-8, 9999
        )[0]
        yield "fit_heads_backward", (head, bias, solved, *samples, *penalty, True, [True] * 7)
        v = torch.zeros(features, dtype=dtype)
        backward = ("sparsedis", head, bias, solved, v, *samples, *penalty, True, sharing)
        yield "fit_heads_sharing_backward", (*backward, [True] * 8)
        yield "lambda_max", (*samples, *penalty[:3], penalty[4], True, False)
        yield "duality_gap", (head, *samples, *penalty, True)


RAW = list(raw_cases())
NAMESPACES = {
    "cpu": backends.AUTOMATIC,
    "triton": backends.TRITON,
    "reference": backends.REFERENCE,
}


def raw_op(backend, name):
    return getattr(getattr(torch.ops, NAMESPACES[backend]), name)


def by_implementation(fixture, implementations, names, cases, without_triton):
    """Parametrise a test by cases, each with every implementation that there is of its op."""
    rows = [
        pytest.param(implementation, *case, id=f"{case[0]}-{i}-{implementation}")
        for i, case in enumerate(cases)
        for implementation in implementations
        if not (case[0] in without_triton and implementation.startswith("triton"))
    ]
    return pytest.mark.parametrize((fixture, *names), rows, indirect=[fixture])


def raw(fixture, implementations):
    without_triton = {name for name, _ in RAW} - set(backends.TRITON_MODULES)
    return by_implementation(fixture, implementations, ("name", "args"), RAW, without_triton)


@raw("any_backend", ALL)
def test_opcheck(any_backend, name, args):
    opcheck(raw_op(any_backend, name).default, args)


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


@raw("native", NATIVE)
def test_native_equals_reference(native, name, args):
    if name == "prox_":
        pytest.skip("compared with prox in test_prox.py")
    ours = as_tuple(raw_op(native, name)(*args))
    theirs = as_tuple(raw_op("reference", name)(*args))
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if name == "fit_heads" and i > 1:
            continue  # gap and iterations are the solver's own
        tol = 5e-2 if name == "fit_heads" else 1e-9
        torch.testing.assert_close(a, b, rtol=tol, atol=tol)


@pytest.mark.parametrize("shape", [(3, 4, 0), (3, 0, 2), (0, 4, 2), (0, 0, 0)], ids=str)
@pytest.mark.parametrize("native", NATIVE, indirect=True)
def test_nothing_is_no_special_case(native, shape):
    for name, args in prox_cases(F64, shape):
        if native.startswith("triton") and name not in backends.TRITON_MODULES:
            continue
        ours = as_tuple(raw_op(native, name)(*args))
        theirs = as_tuple(raw_op("reference", name)(*args))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


@raw("any_backend", ALL)
def test_every_output_is_written(any_backend, name, args):
    """Fresh memory holds NaN under deterministic algorithms: what is not written shows."""
    if name == "prox_":
        pytest.skip("writes its input")
    op = raw_op(any_backend, name)
    plain = as_tuple(op(*args))
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        poisoned = as_tuple(op(*args))
    finally:
        torch.use_deterministic_algorithms(False)
    for a, b in zip(plain, poisoned, strict=True):
        assert torch.equal(a, b)
        assert torch.isfinite(a).all()


@raw("any_backend", ALL)
def test_vmap_equals_a_loop(any_backend, name, args):
    op = raw_op(any_backend, name)
    batched = [
        i for i, a in enumerate(args) if isinstance(a, torch.Tensor) and a.is_floating_point()
    ]
    stacks = {i: torch.stack([args[i], 0.5 * args[i], 0.8 * args[i]]) for i in batched}

    def call(*tensors):
        full = list(args)
        for i, tensor in zip(batched, tensors, strict=True):
            full[i] = tensor
        result = op(*full)
        return full[0] if name == "prox_" else result

    looped = [as_tuple(call(*(stacks[i][b].clone() for i in batched))) for b in range(3)]
    together = as_tuple(torch.vmap(call)(*(stacks[i].clone() for i in batched)))
    for k, result in enumerate(together):
        for b in range(3):
            if looped[b][k].numel():
                torch.testing.assert_close(result[b], looped[b][k])


def heads(z, y, weight, l1, group):
    # Without ridge the gap is linear in the weights' error, of which gradcheck sees a millionfold.
    fit = sk.fit_heads(z, y, sk.Penalty(l1=l1, group=group), sample_weight=weight, tol=1e-14)
    return fit.weight, fit.bias


def heads_that_share(z, y, weight, l1, sharing):
    penalty = sk.Penalty(l1=l1, ridge=0.5, sharing=sharing)
    fit = sk.fit_heads(z, y, penalty, sample_weight=weight, tol=1e-14)
    return fit.weight, fit.bias


def public_cases():
    """(name, function, float64 inputs away from kinks) for every differentiable public op."""
    torch.manual_seed(0)
    v, metric, s = weights(), weights().exp(), strengths()
    levels = (0.3 * s, 0.4 * s, 0.2 * s[0], s)
    step = torch.tensor(0.7, dtype=F64)
    z, y = heads_problem(T, 8, M, C).z, heads_problem(T, 8, M, C).y

    def penalty(l1, group, shared, ridge):
        return sk.Penalty(l1=l1, group=group, shared=shared, ridge=ridge)

    yield (
        "prox",
        lambda v, d, e, *p: sk.prox(v, penalty(*p), e, metric=d),
        (v, metric, step, *levels),
    )
    yield "prox_plain", lambda v, *p: sk.prox(v, penalty(*p)), (v, *levels)
    yield "mcp", lambda *a: sk.prox_mcp(*a[:3], gamma=a[3]), (v, 0.5 * s, 0.8 * s, s + 2)
    yield "scad", lambda *a: sk.prox_scad(*a[:3], a=a[3]), (v, 0.5 * s, 0.8 * s, s + 3)
    yield "l0", lambda v: sk.prox_l0(v, 0.3), (v,)
    yield "linf", lambda v, s, d: sk.prox_linf(v, s, metric=d), (v, 0.5 * s, metric)
    yield "penalty_value", lambda w, *p: sk.penalty_value(w, penalty(*p)), (v, *levels)
    yield "feature_usage", lambda w: sk.feature_usage(w)[:2], (v,)
    rows = torch.rand(T, 8, dtype=F64) + 0.5
    yield "fit_heads", heads, (z, y, rows, 0.1 * s, 0.1 * s)
    sharing = torch.tensor(0.01, dtype=F64)
    yield "fit_heads", heads_that_share, (z, y, rows, 0.1 * s, sharing)


PUBLIC = list(public_cases())


@pytest.fixture
def served(native, monkeypatch):
    """Ops that are called without a backend go to `native`."""
    monkeypatch.setattr(backends, "REQUESTED", native)


def public(test):
    names, without_triton = ("name", "function", "inputs"), {"penalty_value", "fit_heads"}
    parametrised = by_implementation("native", NATIVE, names, PUBLIC, without_triton)
    return pytest.mark.usefixtures("served")(parametrised(test))


@public
def test_gradcheck(native, name, function, inputs):
    # Along random directions where a launch takes milliseconds; the backward is also compared with
    # the reference's, entry by entry.
    leaves = [i.clone().requires_grad_() for i in inputs]
    fast = native == "triton"
    torch.autograd.gradcheck(function, leaves, eps=1e-6, atol=1e-7, rtol=1e-5, fast_mode=fast)


@public
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(name, function, inputs, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    leaves = [i.clone().requires_grad_() for i in inputs]
    eager = as_tuple(function(*leaves))
    traced = as_tuple(compiled(*leaves))
    seeds = [torch.randn_like(e) for e in eager]
    expected = torch.autograd.grad(eager, leaves, seeds)
    actual = torch.autograd.grad(traced, leaves, seeds)
    torch.testing.assert_close(traced, eager)
    torch.testing.assert_close(actual, expected)


@public
def test_a_second_derivative_is_refused(name, function, inputs):
    leaves = [i.clone().requires_grad_() for i in inputs]
    loss = sum((out * out).sum() for out in as_tuple(function(*leaves)))
    (first, *_) = torch.autograd.grad(loss, leaves, create_graph=True)
    with pytest.raises(RuntimeError, match=r"^\w+ has no second derivative"):
        torch.autograd.grad(first.square().sum(), leaves)


@public
def test_per_sample_gradients(name, function, inputs):
    """vmap over grad: the composition that functorch users need."""

    def loss(*args):
        return sum((out * out).sum() for out in as_tuple(function(*args)))

    batch = [torch.stack([i, 0.9 * i]) for i in inputs]
    together = torch.vmap(torch.func.grad(loss))(*batch)
    alone = torch.stack([torch.func.grad(loss)(*(b[k] for b in batch)) for k in range(2)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@public
def test_half_precision_accumulates_in_float32(name, function, inputs, dtype):
    half = [i.to(dtype) for i in inputs]
    wide = as_tuple(function(*(h.float() for h in half)))
    for narrow, exact in zip(as_tuple(function(*half)), wide, strict=True):
        # feature_usage returns float32 sums; the rest rounds once, to the input's dtype.
        torch.testing.assert_close(narrow, exact.to(narrow.dtype))


@public
def test_autocast_keeps_float32(name, function, inputs):
    single = [i.float() for i in inputs]
    plain = as_tuple(function(*single))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = as_tuple(function(*single))
    for a, b in zip(plain, under, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_penalty_strengths_of_all_forms_agree(any_backend):
    v = weights()
    for like in ("task", "feature", "group"):
        penalty = random_penalty(("l1", "group", "ridge"), T, M, like=like)
        spread = {
            k: getattr(penalty, k).expand(T, M).contiguous() for k in ("l1", "group", "ridge")
        }
        ours, theirs = (sk.prox(v, p, backend=any_backend) for p in (penalty, sk.Penalty(**spread)))
        # Triton compiles a kernel for each form, and may fuse other operations in it.
        slack = 1e-14 if any_backend == "triton" else 0.0
        torch.testing.assert_close(ours, theirs, rtol=slack, atol=0.1 * slack)
