"""Rows as text and as JSON, and the commit they belong to."""

import subprocess

import pytest

from sparsedis_kernels.bench import report
from sparsedis_kernels.bench.measure import Row

WHERE = ("prox", "group", (10, 20, 5), "float32", "forward")
TIMED = Row(
    *WHERE, "ours", "timed", samples=9, seconds=2.5e-3, low=9.0e-4, high=3.0e-3,
    bytes_moved=8_000_000, gb_per_s=3.2, copy_fraction=0.25, product_fraction=0.5,
    peak_bytes=4_000_000,
)  # fmt: skip


def test_a_line_shows_every_number_with_its_unit():
    (line,) = report.lines([TIMED])
    assert " ".join(line.split()) == "ours 2.50 ms 900.0 us to 3.00 ms 3.2 25% 50% 4.0"
    assert len(line) == len(report.HEADER)


def test_a_line_without_a_time_says_why():
    (line,) = report.lines([Row(*WHERE, "numba", "skipped", note="is not installed")])
    assert " ".join(line.split()) == "numba skipped: is not installed"


@pytest.fixture
def clone(tmp_path):
    """A repository that tracks a package, beside one that it does not."""
    for name in ("package", "site-packages"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "package")
    git(tmp_path, "-c", "user.name=n", "-c", "user.email=e", "commit", "--quiet", "-m", "m")
    return tmp_path


def git(folder, *args):
    result = subprocess.run(
        ["git", "-C", folder, *args], capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


def test_the_commit_of_a_tracked_package(clone):
    head = git(clone, "rev-parse", "HEAD")
    assert report.commit(clone / "package") == head
    (clone / "package" / "__init__.py").write_text("changed = True")
    assert report.commit(clone / "package") == f"{head}-dirty"


def test_no_commit_where_git_does_not_track_the_package(clone, tmp_path_factory):
    assert report.commit(clone / "site-packages") is None
    outside = tmp_path_factory.mktemp("outside")
    (outside / "__init__.py").write_text("")
    assert report.commit(outside) is None
