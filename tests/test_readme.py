"""What the README shows is what runs."""

import re
from pathlib import Path

import sparsedis_kernels as sk

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_runs_and_gives_sparse_heads():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope: dict = {}
    exec(example, scope)
    fit, z = scope["fit"], scope["z"]
    assert fit.converged.all()
    used = sk.feature_usage(fit.weight.detach()).features_per_task.double().mean()
    assert 0 < used < 64
    assert z.grad.abs().sum() > 0


def test_the_support_matrix_names_every_public_op():
    table = README.split("## What is supported")[1].split("##")[0]
    public = {name for name in sk.ops.__all__ if name.islower()}
    assert public == {name for name in re.findall(r"`(\w+)`", table) if name in public}
