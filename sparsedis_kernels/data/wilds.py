"""Waterbirds, CivilComments and Camelyon17, as the package ``wilds`` lays them out on disk.

That package (Koh et al., "WILDS: a benchmark of in-the-wild distribution shifts", ICML 2021,
https://wilds.stanford.edu) is not needed. Nothing is downloaded, and no image is opened: one that
is missing surfaces when it is read.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from sparsedis_kernels.data.labelled import Labelled

# Input, label, domain, and whether it is in the test split.
_Example = tuple[Any, int, int, bool]

_BIT = {"0": 0, "1": 1}
_BIRD_IN_TEST = {"0": False, "1": False, "2": True}
_COMMENT_IN_TEST = {"train": False, "val": False, "test": True}
_PATCH_IN_TEST = {"0": False, "1": True}
_IDENTITIES = (
    "male",
    "female",
    "LGBTQ",
    "christian",
    "muslim",
    "other_religions",
    "black",
    "white",
)
_HOSPITALS = tuple(f"hospital {number}" for number in range(5))


def load_waterbirds(root: str | Path) -> Labelled:
    """Waterbirds: is the bird a landbird or a waterbird; the domain is the background.

    11,788 images. Classes landbird, waterbird; domains land, water. ``test`` is the set's test
    split; rows of its validation split count as training rows.

    Args:
        root: the folder ``waterbirds_v1.0``, or the one that holds it.

    Returns:
        N paths in the order of ``metadata.csv``; ``labels`` and ``domains`` (N,) int64; ``test``
        (N,) bool.

    Raises:
        FileNotFoundError: there is no ``metadata.csv`` there.
        ValueError: that file lacks a column, or a line of it is not as expected.

    Source:
        S. Sagawa et al., "Distributionally robust neural networks for group shifts", ICLR 2020.
    """
    columns = ("img_filename", "y", "place", "split")
    examples = _read("waterbirds", root, "metadata.csv", columns, _bird)
    return _labelled("waterbirds", examples, ("landbird", "waterbird"), ("land", "water"))


def load_civilcomments(root: str | Path) -> Labelled:
    """CivilComments: is a comment toxic; the domain is the identity it mentions.

    448,000 texts. Classes non-toxic, toxic: toxic from a toxicity of 0.5. An identity is mentioned
    from a value of 0.5. The domain is the first one mentioned, in the order male, female, LGBTQ,
    christian, muslim, other_religions, black, white, else "none": a comment that mentions several
    counts for the first only, while WILDS counts it for each. ``test`` is the set's test split;
    rows of its validation split count as training rows.

    Args:
        root: the folder ``civilcomments_v1.0``, or the one that holds it.

    Returns:
        N texts in the order of ``all_data_with_identities.csv``; ``labels`` and ``domains`` (N,)
        int64; ``test`` (N,) bool.

    Raises:
        FileNotFoundError: there is no ``all_data_with_identities.csv`` there.
        ValueError: that file lacks a column, or a line of it is not as expected.

    Source:
        D. Borkan et al., "Nuanced metrics for measuring unintended bias with real data for text
        classification", WWW 2019 companion.
    """
    columns = ("comment_text", "split", "toxicity", *_IDENTITIES)
    examples = _read("civilcomments", root, "all_data_with_identities.csv", columns, _comment)
    return _labelled("civilcomments", examples, ("non-toxic", "toxic"), (*_IDENTITIES, "none"))


def load_camelyon17(root: str | Path) -> Labelled:
    """Camelyon17: does a patch of tissue show a tumor; the domain is the hospital.

    455,954 images. Classes normal, tumor; domains "hospital 0" to "hospital 4", the column
    ``center``. The column ``split`` is a random tenth (1) and the rest (0) of the patches of all
    five hospitals together; ``test`` is that tenth, so that every hospital has test images.

    WILDS itself uses the column for hospitals 0, 3 and 4 only, where 1 is its in-distribution
    validation. It sets hospital 1 aside for validation and hospital 2 for test, both as a whole:
    to compare with it, take all images of these domains, whatever ``test`` says.

    Args:
        root: the folder ``camelyon17_v1.0``, or the one that holds it.

    Returns:
        N paths in the order of ``metadata.csv``; ``labels`` and ``domains`` (N,) int64; ``test``
        (N,) bool.

    Raises:
        FileNotFoundError: there is no ``metadata.csv`` there.
        ValueError: that file lacks a column, or a line of it is not as expected.

    Source:
        P. Bandi et al., "From detection of individual metastases to classification of lymph node
        status at the patient level: the CAMELYON17 challenge", IEEE TMI 2018.
    """
    columns = ("patient", "node", "x_coord", "y_coord", "tumor", "center", "split")
    examples = _read("camelyon17", root, "metadata.csv", columns, _patch)
    return _labelled("camelyon17", examples, ("normal", "tumor"), _HOSPITALS)


def _bird(folder: Path, image: str, bird: str, place: str, split: str) -> _Example:
    return folder / image, _BIT[bird], _BIT[place], _BIRD_IN_TEST[split]


def _comment(_: Path, text: str, split: str, toxicity: str, *identities: str) -> _Example:
    mentioned = (number for number, share in enumerate(identities) if _is_majority(share))
    domain = next(mentioned, len(_IDENTITIES))
    return text, int(_is_majority(toxicity)), domain, _COMMENT_IN_TEST[split]


def _patch(
    folder: Path, patient: str, node: str, x: str, y: str, tumor: str, center: str, split: str
) -> _Example:
    slide = f"patient_{patient}_node_{node}"
    path = folder / f"patches/{slide}/patch_{slide}_x_{x}_y_{y}.png"
    return path, _BIT[tumor], _HOSPITALS.index(f"hospital {center}"), _PATCH_IN_TEST[split]


def _is_majority(share: str) -> bool:
    """Whether at least half of the annotators agree; a blank is no, as WILDS has it."""
    return float(share or 0) >= 0.5


def _read(
    name: str,
    root: str | Path,
    table: str,
    columns: Sequence[str],
    example: Callable[..., _Example],
) -> list[_Example]:
    """``example(folder, *values of the columns)`` of every row of the table."""
    path = _find(name, Path(root), table)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if missing := [column for column in columns if column not in header]:
            raise ValueError(f"load_{name}: '{path}' lacks the column {missing[0]!r}")
        values = itemgetter(*map(header.index, columns))
        try:
            return [example(path.parent, *values(row)) for row in reader if row]
        except (csv.Error, IndexError, KeyError, ValueError) as error:
            raise ValueError(
                f"load_{name}: line {reader.line_num} of '{path}' is not as expected ({error!r})"
            ) from error


def _find(name: str, root: Path, table: str) -> Path:
    """The table in the versioned folder, which is in ``root`` or is ``root``."""
    versioned = root / f"{name}_v1.0"
    for folder in (versioned, root):
        if (folder / table).is_file():
            return folder / table
    raise FileNotFoundError(
        f"load_{name}: expected the file {table} in '{root}' (or in '{versioned}'); "
        "put the data there as the package wilds lays them out"
    )


def _labelled(
    name: str, examples: list[_Example], classes: tuple[str, ...], domain_names: tuple[str, ...]
) -> Labelled:
    return Labelled(
        name=name,
        inputs=[example[0] for example in examples],
        labels=torch.tensor([example[1] for example in examples], dtype=torch.int64),
        domains=torch.tensor([example[2] for example in examples], dtype=torch.int64),
        test=torch.tensor([example[3] for example in examples], dtype=torch.bool),
        classes=classes,
        domain_names=domain_names,
    )
