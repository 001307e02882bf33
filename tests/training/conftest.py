from pathlib import Path

import pytest

from sparsedis_kernels.data import load
from sparsedis_kernels.training.loop import Arm, compare
from sparsedis_kernels.training.recipe import Recipe
from sparsedis_kernels.training.report import write_report
from tests.training.common import HEADS, RECIPE


@pytest.fixture(scope="session")
def arms(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Arm], Path]:
    out = tmp_path_factory.mktemp("run")
    # With 8 tasks a step sparse heads settle on about 9 features; with 4 they are on their way
    # there after 60 steps, and rounding decides between 11.5 and 12.
    recipe = Recipe(**{**vars(RECIPE), "steps": 60, "tasks": 8, "features": 24, "lr": 5e-3})
    arms = compare(load("digits"), recipe, HEADS, out, resume=False)
    write_report(arms, out)
    return arms, out
