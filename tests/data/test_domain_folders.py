from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from sparsedis_kernels.data.domain_folders import (
    load_folder,
    load_office_home,
    load_pacs,
    load_vlcs,
)
from sparsedis_kernels.data.labelled import Labelled

PACS = ("art_painting", "cartoon", "photo", "sketch")
VLCS = ("Caltech101", "LabelMe", "SUN09", "VOC2007")
OFFICE_HOME = ("Art", "Clipart", "Product", "Real World")
LOADERS: list[tuple[Callable[..., Labelled], str, tuple[str, ...], str]] = [
    (load_pacs, "pacs", PACS, "PACS"),
    (load_vlcs, "vlcs", VLCS, "VLCS"),
    (load_office_home, "office_home", OFFICE_HOME, "office_home"),
    (load_office_home, "office_home", OFFICE_HOME, "OfficeHome"),
    (load_office_home, "office_home", OFFICE_HOME, "OfficeHomeDataset_10072016"),
]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def fill(place: Path, domains: Sequence[str]) -> list[Path]:
    """One dog in every domain and a cat more in each than in the one before; in loading order."""
    images = [
        place / domain / name
        for number, domain in enumerate(domains)
        for name in (*(f"cat/{cat}.png" for cat in range(number + 1)), "dog/0.png")
    ]
    touch(*reversed(images))
    return images


@pytest.mark.parametrize(("load", "name", "domains", "folder"), LOADERS)
@pytest.mark.parametrize("as_parent", [False, True])
def test_labels_and_domains_are_those_of_the_folders(
    load: Callable[..., Labelled],
    name: str,
    domains: tuple[str, ...],
    folder: str,
    as_parent: bool,
    tmp_path: Path,
) -> None:
    images = fill(tmp_path / folder, domains)
    data = load(tmp_path if as_parent else str(tmp_path / folder))
    assert data.name == name
    assert list(data.inputs) == images
    assert data.classes == ("cat", "dog")
    assert data.domain_names == domains
    assert_close(data.labels, torch.tensor([0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1]))
    assert_close(data.domains, torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3]))
    assert_close(data.test, torch.zeros(14, dtype=torch.bool))


def test_order_is_that_of_the_names(tmp_path: Path) -> None:
    fill(tmp_path, PACS)
    touch(
        *(
            tmp_path / "photo/Zebra" / name
            for name in ("b.jpg", "B.jpg", "a1.jpg", "10.jpg", "09.jpg")
        )
    )
    touch(*(tmp_path / domain / "Zebra/0.jpg" for domain in PACS if domain != "photo"))
    data = load_pacs(tmp_path)
    assert data.classes == ("Zebra", "cat", "dog")  # capitals first, whatever the language
    zebras = [path for path in map(Path, data.inputs) if path.parent == tmp_path / "photo/Zebra"]
    assert [path.name for path in zebras] == ["09.jpg", "10.jpg", "B.jpg", "a1.jpg", "b.jpg"]


def test_only_images_count(tmp_path: Path) -> None:
    images = fill(tmp_path, PACS)
    photos = [tmp_path / "photo/dog" / name for name in ("1.JPG", "2.Jpeg", "3.PNG", "4.jpeg")]
    touch(*photos)
    touch(*(tmp_path / "photo/dog" / name for name in (".DS_Store", "Thumbs.db", "._1.JPG", "jpg")))
    touch(tmp_path / "photo/.hidden/1.jpg", tmp_path / "photo/loose.jpg", tmp_path / "readme.txt")
    touch(tmp_path / "other/dog/1.jpg")  # no domain of this set
    (tmp_path / "photo/empty").mkdir()
    data = load_pacs(tmp_path)
    assert data.classes == ("cat", "dog")
    assert set(data.inputs) == {*images, *photos}


@pytest.mark.parametrize("spelling", ["Real World", "Real_World", "RealWorld"])
def test_the_space_in_real_world_is_written_in_three_ways(spelling: str, tmp_path: Path) -> None:
    images = fill(tmp_path, [*OFFICE_HOME[:3], spelling])
    data = load_office_home(tmp_path)
    assert list(data.inputs) == images
    assert data.domain_names[3] == "Real World"


@pytest.mark.parametrize(
    ("absent", "empty"), [(PACS, ()), (("sketch",), ()), ((), PACS)], ids=["all", "one", "images"]
)
def test_data_that_is_not_there_is_one_plain_sentence(
    absent: Sequence[str], empty: Sequence[str], tmp_path: Path
) -> None:
    fill(tmp_path, [domain for domain in PACS if domain not in (*absent, *empty)])
    for domain in empty:
        (tmp_path / domain / "dog").mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as caught:
        load_pacs(tmp_path)
    assert str(caught.value) == (
        f"load_pacs: expected folders art_painting, cartoon, photo, sketch in '{tmp_path}' "
        f"(or in '{tmp_path / 'PACS'}'); put the images there as <domain>/<class>/*.jpg"
    )


def test_every_accepted_folder_is_named_if_none_is_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_office_home(tmp_path / "nowhere")
    for folder in ("", "office_home", "OfficeHome", "OfficeHomeDataset_10072016"):
        assert f"'{tmp_path / 'nowhere' / folder}'" in str(caught.value)


@pytest.mark.parametrize("emptied", [False, True])
def test_a_class_that_a_domain_lacks_is_named(emptied: bool, tmp_path: Path) -> None:
    fill(tmp_path, VLCS)
    (tmp_path / "SUN09/dog/0.png").unlink()
    if not emptied:
        (tmp_path / "SUN09/dog").rmdir()
    with pytest.raises(ValueError, match=r"load_vlcs: domain 'SUN09' .* no images of class 'dog'"):
        load_vlcs(tmp_path)


def test_a_folder_of_your_own_has_the_domains_and_classes_it_has(tmp_path: Path) -> None:
    images = [
        tmp_path / "mine" / name
        for name in ("north/cat/0.png", "north/cat/1.jpg", "south/cat/0.png", "south/eel/2.jpeg")
    ]
    touch(*reversed(images), tmp_path / "mine/readme.txt", tmp_path / "mine/.git/cat/0.png")
    (tmp_path / "mine/empty/cat").mkdir(parents=True)
    data = load_folder(tmp_path / "mine")
    assert list(data.inputs) == images
    assert (data.name, data.domain_names) == ("mine", ("north", "south"))
    assert data.classes == ("cat", "eel")
    assert data.labels.tolist() == [0, 0, 0, 1]  # no eel in the north
    assert data.domains.tolist() == [0, 0, 1, 1]
    assert not data.test.any()


def test_a_folder_without_images_is_one_plain_sentence(tmp_path: Path) -> None:
    touch(tmp_path / "cat/0.png")  # a class, but of no domain
    with pytest.raises(FileNotFoundError) as caught:
        load_folder(tmp_path)
    assert str(caught.value) == (
        f"load_folder: expected images in '{tmp_path}' as <domain>/<class>/*.jpg (or jpeg, png)"
    )
