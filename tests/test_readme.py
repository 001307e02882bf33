"""What the README shows is what runs."""

import re
import shlex
from pathlib import Path

import pytest

import sparsedis_kernels as sk
from sparsedis_kernels import cli
from sparsedis_kernels.evidence.command import EXPERIMENTS
from sparsedis_kernels.evidence.report import table
from tests.evidence.readme import block, kept, performance_block, performance_page

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_runs_and_gives_sparse_heads():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope: dict = {}
    exec(example, scope)
    fit, z = scope["fit"], scope["z"]
    assert fit.converged.all()
    used = sk.feature_usage(fit.weight.detach()).features_per_task.double().mean()
    assert 0 < used < 64
    assert z.grad.abs().sum() > 0


def test_the_commands_are_ones_that_the_command_line_takes():
    commands = re.findall(r"^sparsedis ((?:train|bench) .*)$", README, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        assert cli._parser().parse_args(shlex.split(command, comments=True)).command


def test_the_pictures_are_there_and_small():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert len(pictures) >= 2
    for picture in pictures:
        assert 0 < (ROOT / picture).stat().st_size < 100_000


def test_the_support_matrix_names_every_public_op():
    table = README.split("## What is supported")[1].split("##")[0]
    public = {name for name in sk.ops.__all__ if name.islower()}
    assert public == {name for name in re.findall(r"`(\w+)`", table) if name in public}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_evidence_is_made_from_its_numbers(name):
    section = README.split(f"\n### {name}\n")[1].split("\n#")[0]
    assert f"sparsedis reproduce {name}" in section
    assert block(name) in section
    assert table(*kept(name)) in (ROOT / f"docs/evidence/{name}.md").read_text()


def test_the_performance_is_made_from_its_rows():
    section = README.split("\n## Performance\n")[1].split("\n## ")[0]
    assert performance_block() in section
    assert (ROOT / "docs/evidence/performance.md").read_text() == performance_page()
