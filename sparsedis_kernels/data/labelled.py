"""Labelled examples from several domains, before tasks are drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_ORDER_SEED = 0


@dataclass(frozen=True)
class Labelled:
    """N labelled examples: files of images, texts, or tensors.

    Attributes:
        name: name of the data set.
        inputs: N paths of image files, N texts, or a tensor (N, *input_shape).
        labels: class of each example, (N,) int64, an index into ``classes``.
        domains: domain of each example, (N,) int64, an index into ``domain_names``.
        test: whether an example is in the data set's own test split, (N,) bool; False everywhere
            where it has none.
        classes: names of the classes.
        domain_names: names of the domains.
    """

    name: str
    inputs: Sequence[Path] | Sequence[str] | Tensor
    labels: Tensor
    domains: Tensor
    test: Tensor
    classes: tuple[str, ...]
    domain_names: tuple[str, ...]


def limited(data: Labelled, limit: int) -> Labelled:
    """At most ``limit`` examples of each class, in each domain and split: a fixed random choice.

    Args:
        data: files or texts.
        limit: the most there may be, at least 1.

    Raises:
        ValueError: ``limit`` is less than 1.
    """
    if limit < 1:
        raise ValueError(f"limited: limit must be at least 1, got {limit}")
    cell = (data.domains * len(data.classes) + data.labels) * 2 + data.test
    kept = torch.cat([members[:limit] for members in by_group(cell)]).sort().values
    inputs: Sequence[Any] = [data.inputs[index] for index in kept.tolist()]
    return replace(
        data,
        inputs=inputs,
        labels=data.labels[kept],
        domains=data.domains[kept],
        test=data.test[kept],
    )


def by_group(group: Tensor, n_groups: int = 0) -> list[Tensor]:
    """The members of groups 0, 1, ..., each group's in a fixed random order.

    Args:
        group: group of each example, (N,) int64.
        n_groups: number of groups, default up to the largest in ``group``.

    Returns:
        A tensor of indices, (n_g,) int64, for every group.
    """
    generator = torch.Generator().manual_seed(_ORDER_SEED)
    members = group.argsort(stable=True).split(group.bincount(minlength=n_groups).tolist())
    return [m[torch.randperm(len(m), generator=generator)] for m in members]
