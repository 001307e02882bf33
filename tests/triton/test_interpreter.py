"""A second opinion on the compiled kernels: Triton's interpreter, which runs their Python source.

It must be asked for before Triton is imported, so the ops run in a process of their own.
"""

import os
import subprocess
import sys

import pytest
import torch

import sparsedis_kernels as sk
from tests.problems import LEVELS, random_penalty

pytest.importorskip("triton")


def results(backend):
    """Values and gradients of the ops on small float32 problems, by name."""
    torch.manual_seed(0)
    v, metric = torch.randn(2, 3, 7, 3)
    # One for each group: where a condition is one number the interpreter cannot broadcast it.
    lam = 0.3 + torch.rand(3, 7)
    penalties = {
        "leaf": random_penalty(("l1", "group", "ridge"), 3, 7, dtype=torch.float32),
        "nested": random_penalty(LEVELS, 3, 7, dtype=torch.float32),
    }
    ops = {
        **{
            f"prox_{name}": lambda v, p=p: sk.prox(v, p, metric=metric.exp(), backend=backend)
            for name, p in penalties.items()
        },
        "mcp": lambda v: sk.prox_mcp(v, lam, 0.9, backend=backend),
        "scad": lambda v: sk.prox_scad(v, lam, 0.9, backend=backend),
        "l0": lambda v: sk.prox_l0(v, lam, 0.9, backend=backend),
        "linf": lambda v: sk.prox_linf(v, lam, metric=metric.exp(), backend=backend),
        "usage": lambda v: sk.feature_usage(v, backend=backend).p,
    }
    found = {}
    for name, op in ops.items():
        leaf = v.clone().requires_grad_()
        x = op(leaf)
        seed = torch.linspace(-1, 2, x.numel()).view_as(x)
        found[name] = (x.detach(), torch.autograd.grad(x, leaf, seed)[0])
    return found


# The interpreter leaves a Python float as it is, where the launcher makes it a scalar.
PROGRAM = """
import sys
import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter
from sparsedis_kernels import backends
from tests.triton.test_interpreter import results

convert = interpreter._implicit_cvt

def scalar(value):
    if not isinstance(value, float):
        return convert(value)
    return tl.tensor(interpreter.TensorHandle(np.array([value]), tl.float64), tl.float64)

interpreter._implicit_cvt = scalar
backends.TRITON_DEVICES = {"cpu"}
torch.save(results("triton"), sys.argv[1])
"""


def test_the_interpreter_agrees_with_the_reference(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "results"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    interpreted = torch.load(tmp_path / "results")
    torch.testing.assert_close(interpreted, results("reference"), rtol=1e-5, atol=1e-6)
