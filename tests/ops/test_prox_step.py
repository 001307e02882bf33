import pytest
import torch
from torch.library import opcheck

import sparsedis_kernels as sk
from tests.problems import assert_as_accurate, random_penalty

F64 = torch.float64
SHAPES = [(3, 7, 5), (1, 4, 5), (40, 30, 5), (0, 7, 5), (3, 0, 5), (3, 7, 0)]
PENALTIES = {
    "l1": sk.Penalty(l1=0.3),
    "group": sk.Penalty(group=0.4, ridge=0.1),
    "sparse_group_nonneg": sk.Penalty(l1=0.2, group=0.2, ridge=0.1, nonneg=True),
    "shared": sk.Penalty(l1=0.1, group=0.2, shared=0.4),
}
SGD = [
    {"lr": 0.3, "weight_decay": 0.1},
    {"lr": 0.2, "momentum": 0.9},
    {"lr": 0.2, "momentum": 0.6, "nesterov": True, "weight_decay": 0.1},
]
ADAMW = [
    {"lr": 0.1, "weight_decay": 0.0},
    {"lr": 0.2, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.3},
    {"lr": 0.1, "betas": (0.0, 0.99)},
]
CASES = [("sgd", options) for options in SGD] + [("adamw", options) for options in ADAMW]


class Weights:
    """Weights under an optimiser: what the ops write."""

    def __init__(self, shapes, dtype=F64):
        torch.manual_seed(1)
        self.weights = [torch.randn(s, dtype=F64).to(dtype) for s in shapes]
        self.first, self.second = ([torch.zeros_like(w) for w in self.weights] for _ in range(2))
        self.steps = [torch.zeros(()) for _ in shapes]

    def step(self, kind, penalty, backend, seed, **options):
        torch.manual_seed(seed)
        grads = [torch.randn(w.shape, dtype=F64).to(w.dtype) for w in self.weights]
        if kind == "sgd":
            momenta = self.first if "momentum" in options else []
            arrays = (self.weights, grads, momenta, self.steps)
            sk.prox_sgd_(*arrays, penalty, backend=backend, **options)
        else:
            arrays = (self.weights, grads, self.first, self.second, self.steps)
            sk.prox_adamw_(*arrays, penalty, backend=backend, **options)

    @property
    def written(self):
        return [*self.weights, *self.first, *self.second, *self.steps]


def expected_sgd(state, grads, penalty, k, *, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    w, buffer, second = state
    g = grads + weight_decay * w
    buffer = momentum * buffer + g
    direction = g + momentum * buffer if nesterov else buffer
    summed = sum(momentum**i for i in range(k + nesterov))
    x = sk.prox(w - lr * direction, penalty, lr * summed, backend="reference")
    return x, buffer if momentum else torch.zeros_like(w), second


def expected_adamw(
    state, grads, penalty, k, *, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2
):
    w, m, s = state
    m = betas[0] * m + (1 - betas[0]) * grads
    s = betas[1] * s + (1 - betas[1]) * grads**2
    d = (s / (1 - betas[1] ** k)).sqrt() + eps
    v = (1 - lr * weight_decay) * w - lr * m / (1 - betas[0] ** k) / d
    return sk.prox(v, penalty, lr, metric=d, backend="reference"), m, s


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_is_its_formula(any_backend, name, kind, options):
    ours, formula = Weights(SHAPES), {"sgd": expected_sgd, "adamw": expected_adamw}[kind]
    states = [(w.clone(), torch.zeros_like(w), torch.zeros_like(w)) for w in ours.weights]
    for k in range(1, 4):
        ours.step(kind, PENALTIES[name], any_backend, k, **options)
        torch.manual_seed(k)
        grads = [torch.randn_like(w) for w in ours.weights]
        states = [
            formula(s, g, PENALTIES[name], k, **options) for s, g in zip(states, grads, strict=True)
        ]
    arrays = [*map(list, zip(*states, strict=True))]
    torch.testing.assert_close(
        [ours.weights, ours.first, ours.second], arrays, rtol=1e-11, atol=1e-12
    )
    assert all(int(step) == 3 for step in ours.steps)
    zeros = sum(int((w == 0).sum()) for w in arrays[0])
    assert zeros == sum(int((w == 0).sum()) for w in ours.weights)
    assert zeros > 0 or not PENALTIES[name].l1


@pytest.mark.parametrize("like", ["task", "feature", "group"])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_strengths_may_be_tensors(any_backend, kind, like):
    penalty = random_penalty(("l1", "group", "ridge"), 6, 21, like=like)
    options = {"lr": 0.2, "momentum": 0.9} if kind == "sgd" else {"lr": 0.2}
    ours, theirs = Weights([(6, 21, 3)] * 2), Weights([(6, 21, 3)] * 2)
    for k in range(2):
        ours.step(kind, penalty, any_backend, k, **options)
        theirs.step(kind, penalty, "reference", k, **options)
    torch.testing.assert_close(ours.written, theirs.written, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize(("kind", "options"), [CASES[2], CASES[4]])
def test_is_as_accurate_as_the_reference(native, name, kind, options, dtype):
    exact, ours, theirs = Weights(SHAPES, dtype), Weights(SHAPES, dtype), Weights(SHAPES, dtype)
    for part in ("weights", "first", "second"):
        setattr(exact, part, [t.double() for t in getattr(exact, part)])
    for weights, backend in ((exact, "reference"), (ours, native), (theirs, "reference")):
        weights.step(kind, PENALTIES[name], backend, 1, **options)
    for a, b, c in zip(ours.written, theirs.written, exact.written, strict=True):
        assert a.dtype == b.dtype
        assert_as_accurate(a, b, c.double())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("group", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(600, 50, 5), (3, 150, 3), (9, 70, 1), (2, 20, 40)])
def test_features_that_tasks_share(shape, group, dtype):
    """Few features of many tasks at a time, many of few, and what is left of them at the end."""
    penalty = sk.Penalty(l1=0.1, group=group, shared=0.4)
    exact, ours = Weights([shape]), Weights([shape], dtype)
    for weights, backend in ((exact, "reference"), (ours, "cpu")):
        for k in range(2):
            weights.step("adamw", penalty, backend, k, **ADAMW[1])
    assert (exact.weights[0] == 0).any()
    tolerance = 1e-9 if dtype == F64 else 1e-4
    for a, b in zip(ours.written, exact.written, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_strided_weights_are_written_in_place(any_backend, kind):
    ours, theirs = Weights([(6, 9, 5)]), Weights([(6, 9, 5)])
    wide = torch.full((9, 6, 10), 7.0, dtype=F64)
    strided = wide.transpose(0, 1)[:, :, ::2]
    strided.copy_(ours.weights[0])
    ours.weights = [strided]
    options = {"lr": 0.2, "momentum": 0.9} if kind == "sgd" else {"lr": 0.2}
    for weights, backend in ((ours, any_backend), (theirs, "reference")):
        weights.step(kind, PENALTIES["sparse_group_nonneg"], backend, 0, **options)
    torch.testing.assert_close(strided, theirs.weights[0], rtol=1e-11, atol=1e-12)
    assert (wide[:, :, 1::2] == 7).all()


def raw_arguments(kind):
    state = Weights([(3, 4, 2), (2, 5, 2)])
    grads = [torch.randn_like(w) for w in state.weights]
    levels = [[torch.rand(w.shape[:2], dtype=F64) for w in state.weights], [], [], []]
    penalty = (*levels, [0.1, 0.2, 0.0, 0.1], False)
    if kind == "sgd":
        return (state.weights, grads, state.first, state.steps, *penalty, 0.1, 0.9, True, 0.1)
    moments = (state.first, state.second, state.steps)
    return (state.weights, grads, *moments, *penalty, 0.1, 0.9, 0.99, 1e-8, 0.1)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("namespace", ["sparsedis", "sparsedis_reference"])
def test_opcheck(namespace, kind):
    op = getattr(getattr(torch.ops, namespace), f"prox_{kind}_").default
    opcheck(op, raw_arguments(kind))


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_compiles_to_one_op(kind):
    options = {"lr": 0.2, "momentum": 0.9} if kind == "sgd" else {"lr": 0.2}
    ours, theirs = Weights([(3, 4, 2), (2, 5, 2)]), Weights([(3, 4, 2), (2, 5, 2)])
    penalty = PENALTIES["group"]

    def step(grads):
        if kind == "sgd":
            sk.prox_sgd_(ours.weights, grads, ours.first, ours.steps, penalty, **options)
        else:
            arrays = (ours.weights, grads, ours.first, ours.second, ours.steps)
            sk.prox_adamw_(*arrays, penalty, **options)

    compiled = torch.compile(step, fullgraph=True)
    for k in range(2):
        theirs.step(kind, penalty, None, k, **options)
        torch.manual_seed(k)
        compiled([torch.randn_like(w) for w in ours.weights])
    torch.testing.assert_close(ours.written, theirs.written, rtol=1e-12, atol=1e-12)


def test_vmap_steps_every_entry():
    w, grads, steps = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 4, 5), torch.zeros(3)
    alone = w.clone()

    def step(w, grad, count):
        sk.prox_sgd_([w], [grad], [], [count], PENALTIES["group"], lr=0.1)
        return w

    together = torch.vmap(step)(w, grads, steps)
    for b in range(3):
        step(alone[b], grads[b], torch.zeros(()))
    assert torch.equal(together, alone)
    assert torch.equal(w, alone)
    assert (steps == 1).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"grads": []}, ValueError, "prox_adamw_: 0 grads for 1 weights"),
        ({"steps": []}, ValueError, "prox_adamw_: 0 steps for 1 weights"),
        (
            {"exp_avgs": [torch.zeros(2, 3, 1)]},
            ValueError,
            r"exp_avgs\[0\] has shape \(2, 3, 1\), but weights\[0\] needs \(2, 3, 4\)",
        ),
        ({"weights": [torch.zeros(2, 3)]}, ValueError, r"weights\[0\] has shape \(2, 3\)"),
        ({"weights": [torch.zeros(2, 3, 4).long()]}, TypeError, "dtype torch.int64"),
    ],
)
def test_lists_that_do_not_fit_are_refused(change, error, message):
    names = ("weights", "grads", "exp_avgs", "exp_avg_sqs")
    arrays = {name: [torch.zeros(2, 3, 4)] for name in names}
    arrays = arrays | {"steps": [torch.zeros(())]} | change
    with pytest.raises(error, match=message):
        sk.prox_adamw_(**arrays, penalty=sk.Penalty(l1=0.1), lr=0.1)


def test_moments_of_another_dtype_are_refused():
    w, first = torch.zeros(2, 3, 4, dtype=F64), torch.zeros(2, 3, 4)
    with pytest.raises(RuntimeError, match="prox_sgd_: dtype"):
        sk.prox_sgd_(
            [w], [w], [first], [torch.zeros(())], sk.Penalty(l1=0.1),
            lr=0.1, momentum=0.9, backend="cpu",
        )  # fmt: skip


def test_no_weights_is_no_step():
    sk.prox_sgd_([], [], [], [], sk.Penalty(l1=0.1), lr=0.1)
    sk.prox_adamw_([], [], [], [], [], sk.Penalty(l1=0.1), lr=0.1)
