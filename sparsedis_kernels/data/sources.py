"""A source of tasks by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from sparsedis_kernels.data.class_tasks import ClassTasks
from sparsedis_kernels.data.digits import load_digits, load_mnist
from sparsedis_kernels.data.domain_folders import (
    load_folder,
    load_office_home,
    load_pacs,
    load_vlcs,
)
from sparsedis_kernels.data.features import encoded
from sparsedis_kernels.data.labelled import Labelled, limited
from sparsedis_kernels.data.shapes import ShapeTasks
from sparsedis_kernels.data.tasks import TaskSource
from sparsedis_kernels.data.text import load_friends, load_newsgroups
from sparsedis_kernels.data.wilds import load_camelyon17, load_civilcomments, load_waterbirds

BUILT_IN: dict[str, Callable[..., TaskSource]] = {
    "mnist": load_mnist,
    "digits": load_digits,
    "shapes": ShapeTasks,
}
ON_DISK: dict[str, Callable[[str | Path], Labelled]] = {
    "newsgroups": load_newsgroups,
    "friends": load_friends,
    "pacs": load_pacs,
    "vlcs": load_vlcs,
    "office_home": load_office_home,
    "waterbirds": load_waterbirds,
    "civilcomments": load_civilcomments,
    "camelyon17": load_camelyon17,
}


def load(name: str, **options: Any) -> TaskSource:
    """Make a source of tasks.

    Args:
        name: "mnist", "digits" or "shapes"; or one of the data sets that are read from disk,
            "newsgroups", "friends", "pacs", "vlcs", "office_home", "waterbirds", "civilcomments"
            and "camelyon17"; or the path of a folder with images as <domain>/<class>/<image>.
        options: keyword arguments of ``load_mnist``, ``load_digits``, ``ShapeTasks``, or else of
            ``encoded_tasks``: ``root`` (not for a folder), ``limit``, ``ways``, ``held_out`` and
            ``test_classes``.

    Raises:
        ValueError: there is no source of that name, or it has no such option.
        FileNotFoundError: a data set is not where it should be; the message says what to put where.
        ImportError: a package of an optional extra is not installed.
    """
    if name in BUILT_IN:
        make = BUILT_IN[name]
    elif name in ON_DISK:
        make = partial(encoded_tasks, ON_DISK[name])
    elif name and Path(name).is_dir():
        make = partial(encoded_tasks, load_folder, root=name)
    else:
        there = ", ".join((*BUILT_IN, *ON_DISK))
        raise ValueError(f"load: name must be one of {there} or a folder, got {name!r}")
    given = {"load_data", *getattr(make, "keywords", ())}
    taken = [key for key in signature(make).parameters if key not in given]
    if unknown := [option for option in options if option not in taken]:
        raise ValueError(f"load: {name} takes {', '.join(taken)}, but not {unknown[0]}")
    return make(**options)


def encoded_tasks(
    load_data: Callable[[str | Path], Labelled],
    root: str | Path = "data",
    *,
    limit: int | None = None,
    ways: int | None = None,
    held_out: int | str | None = -1,
    test_classes: Sequence[str] = (),
) -> ClassTasks:
    """Tasks on frozen features (see ``encoded``) of a data set that lies on disk.

    Args:
        load_data: reads the data set from a folder.
        root: the folder, default ``data``.
        limit: the most examples of each class in each domain and split, a fixed random choice;
            None, the default, takes all.
        ways: as ``ClassTasks``.
        held_out: as ``ClassTasks``; of a single domain, the default holds out none.
        test_classes: as ``ClassTasks``.

    Raises:
        ValueError, FileNotFoundError, OSError, ImportError: as ``load_data``, ``limited``,
            ``encoded`` and ``ClassTasks``.
    """
    data = load_data(root)
    data = data if limit is None else limited(data, limit)
    if len(data.domain_names) == 1 and held_out == -1:
        held_out = None
    choices: dict[str, Any] = {"ways": ways, "held_out": held_out, "test_classes": test_classes}
    ClassTasks(replace(data, inputs=data.labels), **choices)  # refuses what encoding would wait for
    return ClassTasks(encoded(data), **choices)
