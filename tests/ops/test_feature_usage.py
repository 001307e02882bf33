import math

import pytest
import torch

import sparsedis_kernels as sk

F64 = torch.float64


def test_counts_shares_and_entropy_of_a_small_case(any_backend):
    weight = torch.zeros(3, 4, 2, dtype=F64)
    weight[0, 0] = torch.tensor([1.0, -2.0])
    weight[0, 1, 0] = 3.0
    weight[1, 0, 1] = -1.0
    weight[2, 2, 0] = 1.0
    usage = sk.feature_usage(weight, backend=any_backend)
    assert usage.tasks_per_feature.tolist() == [2, 1, 1, 0]
    assert usage.features_per_task.tolist() == [2, 1, 1]
    torch.testing.assert_close(usage.p, torch.tensor([4.0, 3.0, 1.0, 0.0], dtype=F64) / 8)
    entropy = -(0.5 * math.log(0.5) + 0.375 * math.log(0.375) + 0.125 * math.log(0.125))
    assert float(usage.entropy) == pytest.approx(entropy, abs=1e-14)
    assert float(usage.shared_share) == pytest.approx(1 / 3)


def test_entropy_gradient_is_the_formula_and_zero_off_the_support(any_backend):
    """dH/dW = -sign(W) (log p_m + H) / S, and 0 where W is 0, though log p is infinite there."""
    weight = torch.randn(5, 6, 3, dtype=F64) * (torch.rand(5, 6, 1) < 0.6)
    weight[:, 4] = 0
    weight.requires_grad_()
    usage = sk.feature_usage(weight, backend=any_backend)
    (grad,) = torch.autograd.grad(usage.entropy, weight)
    total = weight.detach().abs().sum()
    p = weight.detach().abs().sum(dim=(0, 2)) / total
    expected = -weight.detach().sign() * ((p.log() + usage.entropy.detach()) / total)[:, None]
    torch.testing.assert_close(grad, torch.where(weight == 0, 0, expected))


def test_entropy_is_homogeneous_and_extreme_at_equal_use(any_backend):
    weight = torch.randn(4, 7, 2, dtype=F64)
    a, b = (sk.feature_usage(s * weight, backend=any_backend).entropy for s in (1.0, 1e-6))
    torch.testing.assert_close(a, b)
    even = sk.feature_usage(torch.ones(4, 7, 2, dtype=F64), backend=any_backend)
    assert float(even.entropy) == pytest.approx(math.log(7))
    assert float(even.entropy) >= float(a)


def test_no_weights_give_zeros(any_backend):
    for weight in (torch.zeros(3, 4, 2), torch.zeros(0, 4, 2)):
        weight.requires_grad_()
        usage = sk.feature_usage(weight, backend=any_backend)
        assert usage.p.tolist() == [0.0] * 4
        assert float(usage.entropy) == 0
        assert float(usage.shared_share) == 0
        assert usage.slope.tolist() == [0.0] * 4
        (grad,) = torch.autograd.grad(usage.entropy, weight)
        assert (grad == 0).all()


@pytest.mark.parametrize("floor", [0.0, 1e-4, 0.3])
def test_slope_is_the_derivative_of_the_entropy_in_the_magnitudes(floor):
    """With a floor also at an unused feature, where the entropy without one has none."""
    a = torch.tensor([0.7, 0.0, 1.9, 0.2], dtype=F64)
    slope = sk.feature_usage(a[None, :, None], floor=floor).slope

    def entropy(b):
        p = (b / b.sum() + floor / 4) / (1 + floor)
        return -sum(x * x.log() for x in p if x > 0)

    for m in range(4):
        h = 1e-7 * (torch.arange(4) == m)
        # Forward at the feature of magnitude 0, where there is nothing below.
        numeric = (entropy(a + h) - entropy(a - (h if a[m] > 0 else 0))) / (
            2e-7 if a[m] > 0 else 1e-7
        )
        if floor == 0 and a[m] == 0:
            assert slope[m] == 0
        else:
            assert float(slope[m]) == pytest.approx(float(numeric), rel=2e-2 if m == 1 else 1e-6)


LAYOUTS = {
    "one_weight": lambda: torch.randn(1, 1, 1),
    "many_outputs": lambda: torch.randn(3, 5, 33),
    "many_tasks": lambda: torch.randn(60, 300, 3),
    "strided": lambda: torch.randn(3, 9, 5).permute(2, 1, 0),
    "one_for_all_tasks": lambda: torch.randn(1, 9, 5).expand(4, 9, 5),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sizes_and_layouts_agree_with_the_reference(native, layout):
    weight = LAYOUTS[layout]().double().relu().requires_grad_()
    results = []
    for b in (native, "reference"):
        usage = sk.feature_usage(weight, backend=b)
        results.append((*usage, *torch.autograd.grad(usage.entropy, weight)))
    torch.testing.assert_close(*results)


def test_threads_and_backends_agree_on_a_large_array():
    weight = torch.randn(500, 130, 3) * (torch.rand(500, 130, 1) < 0.2)
    alone = sk.feature_usage(weight)
    torch.set_num_threads(2)
    together = sk.feature_usage(weight)
    reference = sk.feature_usage(weight, backend="reference")
    for a, b, c in zip(alone, together, reference, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c)


def test_errors_name_op_argument_and_values():
    with pytest.raises(ValueError, match=r"feature_usage: weight has shape \(3, 4\)"):
        sk.feature_usage(torch.randn(3, 4))
    with pytest.raises(ValueError, match=r"feature_usage: floor must be >= 0, got -0.1"):
        sk.feature_usage(torch.randn(3, 4, 2), floor=-0.1)
    with pytest.raises(TypeError, match=r"feature_usage: weight has dtype torch.int64"):
        sk.feature_usage(torch.ones(2, 2, 2, dtype=torch.int64))
