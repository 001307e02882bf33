import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from sparsedis_kernels.data.labelled import Labelled
from sparsedis_kernels.data.wilds import load_camelyon17, load_civilcomments, load_waterbirds

IDENTITIES = ["male", "female", "LGBTQ", "christian", "muslim", "other_religions", "black", "white"]
BIRDS: list[list[Any]] = [
    ["img_id", "img_filename", "y", "split", "place", "place_filename"],
    [1, "002.Laysan_Albatross/a.jpg", 1, 0, 0, "/b/bamboo_forest/1.jpg"],
    [2, "001.Black_footed_Albatross/b.jpg", 1, 1, 1, "/o/ocean/2.jpg"],
    [3, "003.Sooty_Albatross/c.jpg", 0, 2, 1, "/l/lake/natural/3.jpg"],
    [4, "004.Groove_billed_Ani/d.jpg", 0, 2, 0, "/b/bamboo_forest/4.jpg"],
]
PATCHES: list[list[Any]] = [
    ["", "patient", "node", "x_coord", "y_coord", "tumor", "slide", "center", "split"],
    [0, "004", 4, 3328, 21792, 1, 0, 0, 0],
    [1, "097", 2, 32, 96, 0, 48, 4, 1],
    [2, "040", 3, 12160, 7, 1, 23, 2, 0],
    [3, "042", 3, 12160, 8, 0, 23, 2, 1],
    [4, "020", 0, 1, 2, 0, 10, 1, 0],
    [5, "060", 1, 3, 4, 0, 30, 3, 0],
]


def comment(
    text: str, split: str = "train", toxicity: float | str = 0.0, **identities: float | str
) -> list[Any]:
    return [split, *(identities.get(name, 0.0) for name in IDENTITIES), toxicity, 9, text]


# Columns are read by name: this order is not that of the loader, and "id" is not used.
COMMENT_HEADER: list[Any] = ["split", *IDENTITIES, "toxicity", "id", "comment_text"]
COMMENTS: list[list[Any]] = [
    COMMENT_HEADER,
    comment("plain", "val", 0.4999),
    comment('He said "no, never",\nand left.\n\nThe end', "test", 0.5, male=0.5, white=1.0),
    comment("a, b", "train", 0.83, male=0.4999, other_religions=1, black=0.7),
    comment("naïve 日本", "test", "0.0", white="0.5", male=""),
    comment("", "train", 0.0, female=0.6, LGBTQ=0.9),
]

SETS: list[tuple[Callable[..., Labelled], str, str, list[list[Any]]]] = [
    (load_waterbirds, "waterbirds_v1.0", "metadata.csv", BIRDS),
    (load_civilcomments, "civilcomments_v1.0", "all_data_with_identities.csv", COMMENTS),
    (load_camelyon17, "camelyon17_v1.0", "metadata.csv", PATCHES),
]


def write(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    """Write the table; its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path.parent


def check(data: Labelled, labels: list[int], domains: list[int], test: list[bool]) -> None:
    assert_close(data.labels, torch.tensor(labels))  # of the same dtype too
    assert_close(data.domains, torch.tensor(domains))
    assert_close(data.test, torch.tensor(test))


def test_waterbirds(tmp_path: Path) -> None:
    folder = write(tmp_path / "waterbirds_v1.0/metadata.csv", BIRDS)
    data = load_waterbirds(folder)
    assert data.name == "waterbirds"
    assert data.classes == ("landbird", "waterbird")
    assert data.domain_names == ("land", "water")
    assert list(data.inputs) == [folder / str(row[1]) for row in BIRDS[1:]]
    check(data, [1, 1, 0, 0], [0, 1, 1, 0], [False, False, True, True])


def test_civilcomments(tmp_path: Path) -> None:
    data = load_civilcomments(write(tmp_path / "all_data_with_identities.csv", COMMENTS))
    assert data.name == "civilcomments"
    assert data.classes == ("non-toxic", "toxic")
    assert data.domain_names == (*IDENTITIES, "none")
    assert list(data.inputs) == [row[-1] for row in COMMENTS[1:]]
    check(data, [0, 1, 1, 0, 0], [8, 0, 5, 7, 1], [False, True, False, True, False])


def test_line_breaks_within_a_comment_are_kept_as_they_are(tmp_path: Path) -> None:
    text = "one\r\ntwo\nthree"
    folder = write(
        tmp_path / "all_data_with_identities.csv", [COMMENT_HEADER, comment(text), comment("next")]
    )
    assert list(load_civilcomments(folder).inputs) == [text, "next"]


@pytest.mark.parametrize("identity", IDENTITIES)
def test_every_identity_is_a_domain(identity: str, tmp_path: Path) -> None:
    rows = [COMMENT_HEADER, comment("text", "train", 0.0, **{identity: 0.5})]
    data = load_civilcomments(write(tmp_path / "all_data_with_identities.csv", rows))
    assert data.domain_names[int(data.domains)] == identity


def test_camelyon17(tmp_path: Path) -> None:
    folder = write(tmp_path / "camelyon17_v1.0/metadata.csv", PATCHES)
    data = load_camelyon17(folder)
    assert data.name == "camelyon17"
    assert data.classes == ("normal", "tumor")
    assert data.domain_names == tuple(f"hospital {number}" for number in range(5))
    assert [path.relative_to(folder).as_posix() for path in map(Path, data.inputs)][:2] == [
        "patches/patient_004_node_4/patch_patient_004_node_4_x_3328_y_21792.png",
        "patches/patient_097_node_2/patch_patient_097_node_2_x_32_y_96.png",
    ]
    # Split 1 is test in every hospital, also in 1 and 2.
    check(
        data,
        [1, 0, 1, 0, 0, 0],
        [0, 4, 2, 2, 1, 3],
        [False, True, False, True, False, False],
    )


@pytest.mark.parametrize(("load", "folder", "table", "rows"), SETS)
def test_the_parent_folder_will_do(
    load: Callable[..., Labelled], folder: str, table: str, rows: list[list[Any]], tmp_path: Path
) -> None:
    place = write(tmp_path / folder / table, rows)
    write(tmp_path / table, [["something", "else"]])  # a table of that name, but not the set's
    direct, through_parent = load(str(place)), load(str(tmp_path))
    assert len(direct.inputs) == len(rows) - 1
    assert through_parent.inputs == direct.inputs


@pytest.mark.parametrize(("load", "folder", "table", "rows"), SETS)
def test_data_that_is_not_there_is_one_plain_sentence(
    load: Callable[..., Labelled], folder: str, table: str, rows: list[list[Any]], tmp_path: Path
) -> None:
    write(tmp_path / "elsewhere" / table, rows)
    with pytest.raises(FileNotFoundError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"{load.__name__}: expected the file {table} in '{tmp_path}' (or in "
        f"'{tmp_path / folder}'); put the data there as the package wilds lays them out"
    )


USED = [
    (SETS[0], ("img_filename", "y", "split", "place")),
    (SETS[1], ("comment_text", "split", "toxicity", *IDENTITIES)),
    (SETS[2], ("patient", "node", "x_coord", "y_coord", "tumor", "center", "split")),
]


@pytest.mark.parametrize(("case", "column"), [(c, name) for c, names in USED for name in names])
def test_a_column_that_is_missing_is_named(case: Any, column: str, tmp_path: Path) -> None:
    load, _, table, rows = case
    without = rows[0].index(column)
    folder = write(tmp_path / table, [row[:without] + row[without + 1 :] for row in rows])
    with pytest.raises(ValueError, match="lacks the column") as caught:
        load(folder)
    expected = f"{load.__name__}: '{folder / table}' lacks the column '{column}'"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("case", "column", "value"),
    [
        (SETS[0], "y", "2"),
        (SETS[0], "place", ""),
        (SETS[0], "split", "3"),
        (SETS[1], "split", "valid"),
        (SETS[1], "toxicity", "high"),
        (SETS[2], "tumor", "-1"),
        (SETS[2], "center", "5"),
        (SETS[2], "split", "2"),
    ],
)
def test_a_line_with_an_unknown_value_is_named(
    case: Any, column: str, value: str, tmp_path: Path
) -> None:
    load, _, table, rows = case
    row = list(rows[1])
    row[rows[0].index(column)] = value
    folder = write(tmp_path / table, [rows[0], rows[1], row])
    with pytest.raises(ValueError, match=f"{load.__name__}: line 3 of .* is not as expected"):
        load(folder)


def test_a_table_cut_short_is_an_error_and_blank_lines_are_none(tmp_path: Path) -> None:
    folder = write(tmp_path / "metadata.csv", [*BIRDS, [], []])
    assert len(load_waterbirds(folder).inputs) == 4
    write(tmp_path / "metadata.csv", [*BIRDS, [5, "005.Auklet/e.jpg", 0]])
    with pytest.raises(ValueError, match="line 6 of"):
        load_waterbirds(folder)
