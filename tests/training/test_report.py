from __future__ import annotations

import itertools
import json
import math
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from sparsedis_kernels.data import load
from sparsedis_kernels.training.loop import Arm, compare
from sparsedis_kernels.training.recipe import Recipe
from sparsedis_kernels.training.report import write_report
from sparsedis_kernels.training.report.page import page
from tests.training.common import HEADS


def test_report_has_every_number_finite(arms: tuple[dict[str, Arm], Path]) -> None:
    report = json.loads((arms[1] / "report.json").read_text())
    assert report["settings"]["recipe"] == vars(arms[0]["dense"].run.recipe)
    assert report["settings"]["source"]["held_out"] == 3
    assert report["versions"]["torch"] == torch.__version__
    for name, arm in report["arms"].items():
        assert len(arm["history"]) == 60
        assert len(arm["validation"]) == 6
        assert sum(arm["usage"]) == pytest.approx(1, abs=1e-5)
        assert max(arm["tasks_per_feature"]) <= 20
        expected = arms[0][name].seen.summary()
        assert arm["seen"] == expected
        assert 0 < arm["held_out"]["score"] < 1
    numbers = list(leaves(report))
    assert len(numbers) > 600
    assert all(math.isfinite(x) for x in numbers)


def leaves(value: Any) -> list[float]:
    if isinstance(value, dict):
        return list(itertools.chain.from_iterable(map(leaves, value.values())))
    if isinstance(value, list):
        return list(itertools.chain.from_iterable(map(leaves, value)))
    return [value] if isinstance(value, (int, float)) else []


def test_the_page_holds_everything_and_loads_nothing(arms: tuple[dict[str, Arm], Path]) -> None:
    html = (arms[1] / "report.html").read_text()
    page = Page()
    page.feed(html)
    files = [(arms[1] / f"{name}.png").read_bytes() for name in ("curves", "weights", "usage")]
    assert page.pictures == files
    assert not page.links
    cells = dict(page.rows)
    seen = [arm.seen.summary() for arm in arms[0].values()]
    expected = [f"{s['score']:.3f} ± {s['standard_error']:.3f}" for s in seen]
    assert cells["query accuracy, seen domains"] == expected
    assert cells["steps"] == ["60"]
    assert cells["torch"] == [torch.__version__]
    assert cells["sparse"] == [str(HEADS["sparse"])]
    assert cells["domains"] == ["0 degrees, 90 degrees, 180 degrees, 270 degrees"]


class Page(HTMLParser):
    """Rows of the tables, pictures, and anything that the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, list[str]]] = []
        self.pictures: list[bytes] = []
        self.links: list[str] = []
        self._tag = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.pictures.append(b64decode((values["src"] or "").split("base64,")[1]))
        elif tag in ("script", "link", "iframe") or "href" in values or "src" in values:
            self.links.append(tag)
        if tag == "tr":
            self.rows.append(("", []))
        self._tag = tag

    def handle_data(self, data: str) -> None:
        if self._tag == "th":
            self.rows[-1] = (data, [])
        elif self._tag == "td":
            self.rows[-1][1].append(data)

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""


def test_names_are_escaped_on_the_page(arms: tuple[dict[str, Arm], Path], tmp_path: Path) -> None:
    files = {}
    report = json.loads((arms[1] / "report.json").read_text())
    report["settings"]["source"]["name"] = "<script>alert(1)</script> & more"
    html = page(["dense"], [("a < b", ["1 & 2"])], report, files)
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html
    assert "<th>a &lt; b</th><td>1 &amp; 2</td>" in html


@pytest.mark.parametrize("name", ["curves", "weights", "usage"])
def test_plots_are_not_blank(name: str, arms: tuple[dict[str, Arm], Path]) -> None:
    """Both halves of each picture, one for each arm or quantity, hold something coloured."""
    pixels = imread(arms[1] / f"{name}.png")[..., :3]
    height, width = pixels.shape[:2]
    assert min(height, width) > 400
    for half in np.array_split(pixels, 2, axis=1):
        colourful = np.ptp(half, axis=2) > 0.2
        assert 0.001 < colourful.mean() < 0.9


def test_report_refuses_nan(arms: tuple[dict[str, Arm], Path], tmp_path: Path) -> None:
    arm = arms[0]["dense"]
    bad = arm._replace(seen=arm.seen._replace(score=torch.tensor([math.nan])))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report({"dense": bad, "sparse": bad}, tmp_path)


def test_regression_has_factors_but_no_shots_and_no_held_out_domain(tmp_path: Path) -> None:
    recipe = Recipe(steps=4, tasks=2, support=20, query=20, features=8, check_every=4, test_tasks=4)
    arms = compare(load("shapes"), recipe, HEADS, tmp_path, resume=False)
    report = json.loads(write_report(arms, tmp_path).read_text())
    for name, arm in report["arms"].items():
        assert arm["held_out"] is None
        assert arm["seen"]["score"] < 1
        assert arm["few_shot"] == {}
        scores = arms[name].factors
        assert arm["factors"]["mcc"] == scores.mcc  # type: ignore[union-attr]
        importance = np.array(arm["factors"]["dci"]["importance"])
        np.testing.assert_array_equal(importance, scores.dci.importance)  # type: ignore[union-attr]
        assert importance.shape == (8, 6)
    assert imread(tmp_path / "factors.png").std() > 0.05
    assert "MCC of features and factors" in (tmp_path / "report.html").read_text()
