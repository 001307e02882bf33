"""Sources of tasks: real digits under domain shift, and rendered scenes with known factors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparsedis_kernels.data.digits import DigitTasks, load_digits, load_mnist
from sparsedis_kernels.data.shapes import ShapeTasks, render, sample_factors, standardise
from sparsedis_kernels.data.tasks import Tasks, TaskSource

__all__ = [
    "DigitTasks",
    "ShapeTasks",
    "TaskSource",
    "Tasks",
    "load",
    "load_digits",
    "load_mnist",
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
