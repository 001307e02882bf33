"""Labelled examples from several domains, before data are read or tasks are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class Labelled:
    """N labelled examples: files of images, or texts.

    Attributes:
        name: name of the data set.
        inputs: N paths of image files, or N texts.
        labels: class of each example, (N,) int64, an index into ``classes``.
        domains: domain of each example, (N,) int64, an index into ``domain_names``.
        test: whether an example is in the data set's own test split, (N,) bool; False everywhere
            where it has none.
        classes: names of the classes.
        domain_names: names of the domains.
    """

    name: str
    inputs: Sequence[Path] | Sequence[str]
    labels: Tensor
    domains: Tensor
    test: Tensor
    classes: tuple[str, ...]
    domain_names: tuple[str, ...]
