import pytest
import torch

import sparsedis_kernels as sk


def test_scaled_keeps_ridge_sharing_and_absent_levels():
    penalty = sk.Penalty(l1=0.2, group=0.4, ridge=0.3, sharing=0.5).scaled(torch.tensor([2.0, 3.0]))
    assert penalty.l1.tolist() == [[pytest.approx(0.4)], [pytest.approx(0.6)]]
    assert penalty.shared == 0.0
    assert penalty.ridge == 0.3
    assert penalty.sharing == 0.5


def test_scaled_per_task_is_never_read_as_per_feature():
    """Two tasks, two features: a factor per task must scale rows, not columns."""
    v = torch.ones(2, 2, 1)
    x = sk.prox(v, sk.Penalty(l1=1.0).scaled(torch.tensor([0.25, 0.5])))
    assert x[:, :, 0].tolist() == [[0.75, 0.75], [0.5, 0.5]]


@pytest.mark.parametrize("level", ["l1", "group"])
def test_scaled_per_task_refuses_a_strength_that_may_be_per_task(level):
    strength, factor = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 3.0])
    message = rf"Penalty.scaled: {level} has shape \(3,\) .* \(3, 1\) for tasks or \(1, 3\) for"
    for f in (factor, factor[:, None]):
        with pytest.raises(ValueError, match=message):
            sk.Penalty(**{level: strength}).scaled(f)
    for clear in (strength[:, None], strength[None]):
        scaled = getattr(sk.Penalty(**{level: clear}).scaled(factor), level)
        assert torch.equal(scaled, factor[:, None] * clear)
    five = torch.rand(5)
    scaled = getattr(sk.Penalty(**{level: five}).scaled(factor), level)
    assert torch.equal(scaled, factor[:, None] * five)
    assert torch.equal(
        getattr(sk.Penalty(**{level: five[:1]}).scaled(factor[:1]), level)[0], five[:1]
    )


@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
def test_scaled_names_a_factor_that_is_not_finite(wrong):
    penalty = sk.Penalty(l1=torch.tensor([[0.0, 1.0]]))
    with pytest.raises(ValueError, match=rf"Penalty.scaled: factor is {wrong} for task 1"):
        penalty.scaled(torch.tensor([1.0, wrong]))
    with pytest.raises(ValueError, match=rf"Penalty.scaled: factor is {wrong}, expected a finite"):
        penalty.scaled(wrong)


def test_one_axis_is_read_by_its_length():
    """(T,) is a strength per task, (M,) per feature, one number is for all."""
    v = torch.randn(2, 5, 3)
    task, feature = torch.rand(2), torch.rand(5)
    for level in ("l1", "group", "ridge"):
        for short, full in ((task, task[:, None]), (feature, feature[None]), (task[:1], task[0])):
            a, b = (sk.prox(v, sk.Penalty(**{level: s})) for s in (short, full))
            assert torch.equal(a, b)


def test_gradients_flow_through_scaled_and_step():
    factor = torch.tensor([0.25, 0.5], requires_grad=True)
    step = torch.tensor(0.5, requires_grad=True)
    x = sk.prox(torch.ones(2, 3, 1), sk.Penalty(l1=1.0).scaled(factor), step)
    x.sum().backward()
    assert factor.grad.tolist() == [-1.5, -1.5]
    assert step.grad.item() == pytest.approx(-2.25)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"group": -1.0}, r"Penalty: group must be >= 0 everywhere, got -1.0"),
        ({"shared": torch.tensor([0.1, -0.2])}, r"Penalty: shared must be >= 0"),
        ({"l1": float("nan")}, r"Penalty: l1 must be >= 0 everywhere, got nan"),
        ({"sharing": -0.1}, r"Penalty: sharing must be >= 0 everywhere, got -0.1"),
        ({"sharing": float("inf")}, r"Penalty: sharing must be finite, got inf"),
        ({"sharing": torch.tensor(float("inf"))}, r"Penalty: sharing must be finite, got inf"),
        ({"sharing": torch.ones(3)}, r"Penalty: sharing has shape \(3,\), expected one number"),
    ],
)
def test_negative_and_nan_strengths_raise(value, message):
    with pytest.raises(ValueError, match=message):
        sk.Penalty(**value)


def test_a_penalty_can_be_made_inside_vmap_and_compile():
    v = torch.randn(3, 2, 4, 1)
    strengths = torch.tensor([0.1, 0.2, 0.3])

    def shrink(v, s):
        return sk.prox(v, sk.Penalty(l1=s))

    together = torch.vmap(shrink)(v, strengths)
    for b in range(3):
        assert torch.equal(together[b], sk.prox(v[b], sk.Penalty(l1=float(strengths[b]))))
    compiled = torch.compile(shrink, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(v[0], strengths[0]), together[0])
