import pytest
import torch

import sparsedis_kernels as sk
from tests.problems import assert_as_accurate

F64 = torch.float64


def mcp(r, lam, gamma):
    inside = lam * r - r * r / (2 * gamma)
    return torch.where(r <= gamma * lam, inside, gamma * lam * lam / 2)


def scad(r, lam, a):
    middle = (2 * a * lam * r - r * r - lam * lam) / (2 * (a - 1))
    inner = torch.where(r <= lam, lam * r, middle)
    return torch.where(r <= a * lam, inner, lam * lam * (a + 1) / 2)


def prox_mcp(v, lam, eta, **options):
    return sk.prox_mcp(v, lam, eta, gamma=3.0, **options)


def prox_scad(v, lam, eta, **options):
    return sk.prox_scad(v, lam, eta, a=3.7, **options)


RADIAL = {
    "mcp": (prox_mcp, lambda r, lam: mcp(r, lam, 3.0)),
    "scad": (prox_scad, lambda r, lam: scad(r, lam, 3.7)),
    "l0": (sk.prox_l0, lambda r, lam: lam * (r > 0)),
}
ALL = {"mcp": prox_mcp, "scad": prox_scad, "l0": sk.prox_l0, "linf": sk.prox_linf}


@pytest.mark.parametrize("kind", RADIAL)
def test_radial_is_the_minimum_over_a_grid_of_radii(any_backend, kind):
    """The objective depends on the radius alone: no radius does better than the one returned."""
    prox, value = RADIAL[kind]
    lam, eta = 0.6, 0.9
    v = torch.randn(60, 5, 3, dtype=F64)
    x = prox(v, lam, eta, backend=any_backend)
    r = v.norm(dim=2)
    torch.testing.assert_close(x, v * (x.norm(dim=2) / r)[:, :, None])

    def objective(radius):
        return 0.5 * (radius - r) ** 2 + eta * value(radius, torch.tensor(lam, dtype=F64))

    grid = torch.linspace(0, 5, 4001, dtype=F64)[:, None, None].expand(-1, *r.shape)
    best = objective(grid).min(dim=0).values
    assert (objective(x.norm(dim=2)) <= best + 1e-9).all()
    assert 0.02 < (x == 0).double().mean() < 0.98


@pytest.mark.parametrize("kind", RADIAL)
def test_radial_float32_is_as_accurate_as_the_reference(native, kind):
    prox, _ = RADIAL[kind]
    v = torch.randn(50, 9, 4, dtype=F64)
    # Away from the jump of L0, where a rounded norm may fall on the other side.
    v = v[((v.norm(dim=2) ** 2 - 2 * 0.6 * 0.9).abs() > 1e-4).all(dim=1)]
    exact = prox(v, 0.6, 0.9, backend="reference")
    ours, theirs = (prox(v.float(), 0.6, 0.9, backend=b) for b in (native, "reference"))
    assert_as_accurate(ours, theirs, exact)


@pytest.mark.parametrize("with_metric", [False, True])
def test_linf_is_optimal(any_backend, with_metric):
    """v - x is a subgradient: d (v - x) has 1-norm lam where x lives, at most lam where x is 0."""
    v = torch.randn(40, 6, 5, dtype=F64)
    d = torch.randn_like(v).exp() if with_metric else torch.ones_like(v)
    lam = 3.0
    x = sk.prox_linf(v, lam, metric=d if with_metric else None, backend=any_backend)
    r = d * (v - x)
    mass, top = r.abs().sum(dim=2), x.abs().amax(dim=2)
    live = top > 0
    torch.testing.assert_close(mass[live], torch.full_like(mass[live], lam))
    assert (mass[~live] <= lam + 1e-12).all()
    # Only entries at the top carry the subgradient.
    assert (r.abs()[x.abs() < top[:, :, None] - 1e-12] < 1e-12).all()
    assert 0.05 < live.double().mean() < 0.95


def test_linf_float32_is_as_accurate_as_the_reference(native):
    v = torch.randn(50, 9, 40, dtype=F64)
    exact = sk.prox_linf(v, 3.0, backend="reference")
    ours, theirs = (sk.prox_linf(v.float(), 3.0, backend=b) for b in (native, "reference"))
    assert_as_accurate(ours, theirs, exact)


@pytest.mark.parametrize("scale", [1.0, 1e37, 1e-37])
@pytest.mark.parametrize("C", [1, 2, 7, 16, 23, 127, 200])
def test_on_a_cpu_linf_clips_groups_of_any_length_as_the_reference(C, scale):
    """Where the sums of float32 would leave its range, too."""
    v = scale * torch.randn(37, 2, C)
    d = torch.rand_like(v) + 0.5
    strength = scale * torch.linspace(0, C, 37).unsqueeze(1).expand(37, 2)
    seed = torch.randn_like(v)
    results = []
    for backend, dtype in (("cpu", torch.float32), ("reference", F64)):
        leaves = [a.to(dtype).requires_grad_() for a in (v, d, strength)]
        x = sk.prox_linf(leaves[0], leaves[2], metric=leaves[1], backend=backend)
        grads = torch.autograd.grad(x, leaves, seed.to(dtype))
        results.append([a.double() for a in (x / scale, grads[0], grads[1] / scale, grads[2])])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("C", [2, 5, 7, 10, 23, 130])
@pytest.mark.parametrize("kind", ALL)
def test_bitwise_the_same_in_any_batch(native, kind, C, dtype):
    v = torch.randn(41, 1, C, dtype=dtype)
    strength = torch.rand(41, 1, dtype=dtype)

    def values(tasks):
        leaves = v[tasks].requires_grad_(), strength[tasks].requires_grad_()
        x = ALL[kind](leaves[0], leaves[1], 0.9, backend=native)
        return x.detach(), *torch.autograd.grad(x.square().sum(), leaves)

    order = torch.randperm(41)
    for tasks in (order, [7]):
        for all_, some in zip(values(slice(None)), values(tasks), strict=True):
            assert torch.equal(all_[tasks], some)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("shape", [(3, 2, 1), (1, 1, 1025), (0, 3, 2), (40, 70, 2), (3, 37, 5)])
def test_sizes_and_zero_rows(native, kind, shape):
    v = torch.randn(shape, dtype=F64)
    if shape[0]:
        v[0, 0] = 0
    v.requires_grad_()
    results = []
    for b in (native, "reference"):
        x = ALL[kind](v, 0.5, 0.9, backend=b)
        (grad,) = torch.autograd.grad(x, v, torch.ones_like(x))
        assert torch.isfinite(grad).all()
        results.append((x, grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("scale", [1.0, 2.0**-60, 2.0**60])
@pytest.mark.parametrize("C", [1, 5, 7, 200])
def test_on_a_cpu_rounding_of_float32_sums_decides_nothing(C, scale):
    """Where the strength is half the square of a group's norm, rounded."""
    v = torch.randn(20, 30, C)
    square = v.double().square().sum(2)
    strength = square.float()
    kept = sk.prox_l0(scale * v, strength, scale**2 / 2, backend="cpu").ne(0).any(2)
    assert torch.equal(kept, square > strength.double())
    assert 0 < kept.float().mean() < 1


@pytest.mark.parametrize("kind", ALL)
def test_strided_weights_and_gradients_agree_with_the_reference(native, kind):
    v, seed = torch.randn(2, 3, 9, 5, dtype=F64).permute(0, 3, 2, 1)
    results = []
    for b in (native, "reference"):
        leaf = v.detach().requires_grad_()
        x = ALL[kind](leaf, 0.5, 0.9, backend=b)
        results.append((x, *torch.autograd.grad(x, leaf, seed)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("kind", ALL)
def test_zero_strength_is_the_identity(any_backend, kind):
    v = torch.randn(4, 5, 3, dtype=F64)
    assert torch.equal(ALL[kind](v, 0.0, 1.0, backend=any_backend), v)


@pytest.mark.parametrize("kind", ALL)
def test_nan_reaches_its_group_and_no_other(any_backend, kind):
    v = torch.randn(3, 4, 2)
    clean = ALL[kind](v, 0.3, 0.9, backend=any_backend)
    v[1, 2, 0] = float("nan")
    x = ALL[kind](v, 0.3, 0.9, backend=any_backend)
    assert x[1, 2].isnan().any()
    x[1, 2] = clean[1, 2]
    assert torch.equal(x, clean)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda v: sk.prox_mcp(v, 0.1, 3.0, gamma=2.0),
            r"prox_mcp: gamma = 2.0 must exceed step = 3",
        ),
        (
            lambda v: sk.prox_scad(v, 0.1, 1.0, a=1.5),
            r"prox_scad: a = 1.5 must exceed 1 \+ step = 2",
        ),
        (lambda v: sk.prox_l0(v, torch.rand(7)), r"prox_l0: strength has shape \(7,\)"),
        (lambda v: sk.prox_linf(v[0], 0.1), r"prox_linf: v has shape \(4, 2\)"),
        (lambda v: sk.prox_linf(v, 0.1, metric=v[0]), r"prox_linf: metric has shape \(4, 2\)"),
    ],
)
def test_errors_name_op_argument_and_values(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(3, 4, 2))
