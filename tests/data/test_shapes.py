import colorsys
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from sparsedis_kernels.data import ShapeTasks, render, sample_factors, standardise
from sparsedis_kernels.data.shapes import FACTORS, draw_weights, noisy_targets
from sparsedis_kernels.data.tasks import draw_domains

SIZES = list(FACTORS.values())
FLOOR, WALL, OBJECT, SCALE, SHAPE, ORIENTATION = range(6)
N_SHAPES, UPRIGHT = SIZES[SHAPE], SIZES[ORIENTATION] // 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scenes(value: int, factor: int, n: int = 60, **fixed: int) -> Tensor:
    """The same n random scenes, but for one factor set to a value (and others where fixed)."""
    factors = sample_factors(n, seeded(3))
    for name, other in fixed.items():
        factors[:, list(FACTORS).index(name)] = other
    factors[:, factor] = value
    return factors


def silhouette(**fixed: int) -> Tensor:
    """Where the object is: the only pixels that differ between two object hues."""
    red, blue = (render(scenes(hue, OBJECT, n=1, **fixed)) for hue in (0, 6))
    return (red - blue).abs().amax((0, 1))


def test_grid_is_that_of_3dshapes() -> None:
    assert SIZES == [10, 10, 10, 8, 4, 15]
    assert np.prod(SIZES) == 480_000


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("factor", range(6), ids=list(FACTORS))
def test_every_step_of_every_factor_shows(factor: int, size: int) -> None:
    pairs = list(pairwise(range(SIZES[factor])))
    if factor <= OBJECT:
        pairs.append((SIZES[factor] - 1, 0))  # hues close a circle
    for a, b in pairs:
        change = render(scenes(a, factor), size) - render(scenes(b, factor), size)
        change = change.abs().mean((1, 2, 3))
        assert change.mean() > 0.01, (a, b)
        assert change.min() > 0.002, (a, b)  # in every scene, on average over all pixels


@pytest.mark.parametrize("factor", [OBJECT, SHAPE, ORIENTATION])
def test_steps_show_at_the_smallest_scale(factor: int) -> None:
    for a, b in pairwise(range(SIZES[factor])):
        first, second = (render(scenes(value, factor, scale=0)) for value in (a, b))
        assert (first - second).abs().mean((1, 2, 3)).min() > 0.002


@pytest.mark.parametrize("shape", range(N_SHAPES))
def test_every_object_itself_shows_its_orientation(shape: int) -> None:
    for a, b in pairwise(range(SIZES[ORIENTATION])):
        first, second = (silhouette(scale=0, shape=shape, orientation=o) for o in (a, b))
        assert (first - second).abs().sum() > 0.05 * first.sum()


@pytest.mark.parametrize("shape", range(N_SHAPES))
def test_area_grows_with_the_square_of_the_scale(shape: int) -> None:
    area = torch.stack(
        [silhouette(scale=s, shape=shape, orientation=UPRIGHT).sum() for s in range(8)]
    )
    radius = torch.linspace(0.35, 0.85, 8)
    torch.testing.assert_close(area / area[-1], (radius / radius[-1]) ** 2, rtol=0.08, atol=0)


def test_mirrored_scene_has_the_opposite_orientation() -> None:
    for orientation in range(SIZES[ORIENTATION]):
        scene = render(scenes(orientation, ORIENTATION))
        mirrored = render(scenes(SIZES[ORIENTATION] - 1 - orientation, ORIENTATION)).flip(3)
        # A pixel of 4 x 4 points may lose one of them to rounding on an edge.
        torch.testing.assert_close(scene, mirrored, atol=2 / 16, rtol=0)
        assert (scene - mirrored).abs().mean() < 1e-3


def test_floor_wall_and_object_have_the_hue_of_their_factor() -> None:
    factors = sample_factors(40, seeded())
    factors[:, [SCALE, SHAPE, ORIENTATION]] = torch.tensor([3, 0, UPRIGHT])
    images = render(factors)
    for factor, row in ((FLOOR, -1), (WALL, 0), (OBJECT, 16)):
        for image, value in zip(images, factors[:, factor].tolist(), strict=True):
            hue, _, _ = colorsys.rgb_to_hsv(*image[:, row, 16].tolist())
            assert hue == pytest.approx(value / 10, abs=1e-4)


def test_large_image_is_the_small_one_in_detail() -> None:
    factors = sample_factors(50, seeded())
    small, large = render(factors), F.avg_pool2d(render(factors, size=64), 2)
    assert (small - large).abs().mean() < 0.002
    assert large.min() >= 0
    assert large.max() <= 1


def test_images_do_not_depend_on_their_batch() -> None:
    factors = sample_factors(20, seeded())
    assert torch.equal(render(factors)[7:8], render(factors[7:8]))


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_copula_correlation_and_marginals_are_as_asked(correlation: float) -> None:
    factors = sample_factors(20_000, seeded(), correlation=correlation)
    measured = stats.spearmanr(factors.numpy()).statistic
    # The rank correlation of a Gaussian copula; ties cost the four shapes 3 % of it.
    expected = 6 / np.pi * np.arcsin(correlation / 2)
    off_diagonal = ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(measured[off_diagonal], expected, atol=0.03 + 0.03 * correlation)
    for factor, size in enumerate(SIZES):
        count = factors[:, factor].bincount(minlength=size)
        assert len(count) == size
        assert stats.chisquare(count.numpy()).pvalue > 1e-4


def test_standardise_is_exact_on_the_grid() -> None:
    for factor, size in enumerate(SIZES):
        factors = torch.zeros(size, 6, dtype=torch.int64)
        factors[:, factor] = torch.arange(size)
        z = standardise(factors)[:, factor]
        assert z.mean().item() == pytest.approx(0, abs=1e-6)
        assert z.square().mean().item() == pytest.approx(1, abs=1e-6)


def test_subsets_are_fair_coins_and_never_empty() -> None:
    weight = draw_weights(12_600, seeded())
    subset = ((weight != 0) * 2 ** torch.arange(6)).sum(1)
    count = subset.bincount(minlength=64)
    assert count[0] == 0
    assert stats.chisquare(count[1:].numpy()).pvalue > 1e-4
    assert stats.kstest(weight[weight != 0].numpy(), "norm").pvalue > 1e-4


def test_targets_depend_on_their_factors_only() -> None:
    factors = sample_factors(16 * 200, seeded(1)).view(16, 200, 6)
    weight = draw_weights(16, seeded(2))
    y = noisy_targets(factors, weight, seeded(3))
    for subset, z, target in zip(weight != 0, standardise(factors), y, strict=True):
        used, _, _, _ = np.linalg.lstsq(z[:, subset].numpy(), target[:, 0].numpy())
        everything, _, _, _ = np.linalg.lstsq(z.numpy(), target[:, 0].numpy())
        residual = target[:, 0].numpy() - z[:, subset].numpy() @ used
        # Noise of a tenth of the signal is 1 / 101 of the power, whatever the weights.
        assert np.mean(residual**2) == pytest.approx(1 / 101, rel=0.15)
        assert np.abs(everything[~subset.numpy()]).max(initial=0) < 5 * 0.1 / 200**0.5


def test_weights_come_back_up_to_the_scale_of_unit_power() -> None:
    factors = sample_factors(4 * 500, seeded(1)).view(4, 500, 6)
    weight = draw_weights(4, seeded(2))
    y = noisy_targets(factors, weight, seeded(3))
    torch.testing.assert_close(y.square().mean((1, 2)), torch.ones(4))
    for w, z, target in zip(weight, standardise(factors), y, strict=True):
        scale = (target[:, 0] @ (z @ w)) / (z @ w).square().sum()
        fitted = torch.linalg.lstsq(z, target).solution[:, 0]
        torch.testing.assert_close(fitted, scale * w, atol=0.025, rtol=0)


def test_sampled_targets_belong_to_the_sampled_images() -> None:
    source, generator = ShapeTasks(correlation=0.3), seeded(5)
    tasks = source.sample(6, 100, seeded(5))
    draw_domains(torch.tensor([0]), 6, generator)
    weight = draw_weights(6, generator)
    factors = sample_factors(600, generator, correlation=0.3)
    # That the images are equal shows that these are the factors behind them.
    assert torch.equal(render(factors).view(tasks.x.shape), tasks.x)
    signal = (standardise(factors).view(6, 100, 6) @ weight[..., None])[..., 0]
    cosine = F.cosine_similarity(signal, tasks.y[..., 0], dim=1)
    # Noise orthogonal to the signal gives 1 / sqrt(1.01) = .995.
    torch.testing.assert_close(cosine, torch.full((6,), 0.995), atol=0.003, rtol=0)


def test_errors_name_the_argument_and_the_values() -> None:
    with pytest.raises(ValueError, match=r"render: factors must be \(N, 6\), got \(2, 5\)"):
        render(torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"render: shape must be in \[0, 4\), got 4"):
        render(torch.tensor([[0, 0, 0, 0, 4, 0]]))
    with pytest.raises(ValueError, match=r"ShapeTasks: correlation must be in \[0, 1\), got 1"):
        ShapeTasks(correlation=1.0)
    with pytest.raises(ValueError, match=r"sample_factors: correlation .*got -0.1"):
        sample_factors(3, seeded(), correlation=-0.1)
    with pytest.raises(ValueError, match="source 'shapes' holds out no domain"):
        ShapeTasks().sample(1, 5, seeded(), split="test", held_out=True)
