"""Sources of tasks, labelled data sets with domains, and frozen encoders of texts and images.

Tasks are drawn from real digits under domain shift and from rendered scenes with known factors. The
other data sets are read from where their files are; nothing is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparsedis_kernels.data.cache import cached
from sparsedis_kernels.data.class_tasks import ClassTasks
from sparsedis_kernels.data.digits import DigitTasks, load_digits, load_mnist
from sparsedis_kernels.data.domain_folders import load_office_home, load_pacs, load_vlcs
from sparsedis_kernels.data.encoders import (
    IMAGE_ENCODER,
    TEXT_ENCODER,
    encode_images,
    encode_text,
)
from sparsedis_kernels.data.labelled import Labelled
from sparsedis_kernels.data.shapes import ShapeTasks, render, sample_factors, standardise
from sparsedis_kernels.data.tasks import Tasks, TaskSource
from sparsedis_kernels.data.text import load_friends, load_newsgroups
from sparsedis_kernels.data.wilds import load_camelyon17, load_civilcomments, load_waterbirds

__all__ = [
    "IMAGE_ENCODER",
    "TEXT_ENCODER",
    "ClassTasks",
    "DigitTasks",
    "Labelled",
    "ShapeTasks",
    "TaskSource",
    "Tasks",
    "cached",
    "encode_images",
    "encode_text",
    "load",
    "load_camelyon17",
    "load_civilcomments",
    "load_digits",
    "load_friends",
    "load_mnist",
    "load_newsgroups",
    "load_office_home",
    "load_pacs",
    "load_vlcs",
    "load_waterbirds",
    "render",
    "sample_factors",
    "standardise",
]

_SOURCES: dict[str, Callable[..., TaskSource]] = {
    "mnist": load_mnist,
    "digits": load_digits,
    "shapes": ShapeTasks,
}


def load(name: str, **options: Any) -> TaskSource:
    """Make the task source ``name``: "mnist", "digits" or "shapes".

    Args:
        name: which source.
        options: keyword arguments of ``load_mnist``, ``load_digits`` or ``ShapeTasks``.

    Raises:
        ValueError: there is no source of that name.
    """
    if name not in _SOURCES:
        raise ValueError(f"load: name must be one of {sorted(_SOURCES)}, got {name!r}")
    return _SOURCES[name](**options)
