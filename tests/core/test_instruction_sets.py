"""One library, several instruction sets: the same answers, and other processors compile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.core.build import CSRC, FLAGS

ROUNDING = {"float32": 5e-6, "float64": 1e-13}
# Solved to a relative gap of 1e-12, weights agree to its square root and better.
SOLVED = 1e-7

PROGRAM = """
import sys
import numpy as np, torch
import sparsedis_kernels as sk
from sparsedis_kernels import backends

out, results = sys.argv[1], {}
for dtype in (torch.float32, torch.float64):
    torch.manual_seed(0)
    v, d = torch.randn(5, 129, 3, dtype=dtype), torch.rand(5, 129, 3, dtype=dtype) + 0.1
    penalty = sk.Penalty(l1=0.1, group=0.2, shared=0.3, ridge=0.1)
    name = str(dtype).split(".")[1]
    results[f"{name} prox"] = sk.prox(v, penalty)
    results[f"{name} metric"] = sk.prox(v, penalty, metric=d)
    for kind, separable in {"l1": sk.Penalty(l1=0.1), "group": sk.Penalty(group=0.2)}.items():
        w, first, second = torch.randn_like(v), d - 0.5, d.clone()
        sk.prox_adamw_([w], [v], [first], [second], [torch.ones(())], separable, lr=0.1)
        results |= {f"{name} {kind} adamw": w, f"{name} {kind} moments": first + second}
        sk.prox_sgd_([w], [v], [first], [torch.ones(())], separable, lr=0.1, momentum=0.9)
        results[f"{name} {kind} sgd"] = w
    z, y = torch.randn(20, 12, 33, dtype=dtype), torch.randn(20, 12, 3, dtype=dtype)
    ridge = sk.Penalty(ridge=0.1)
    fit = sk.fit_heads(z.requires_grad_(), y, ridge)
    results[f"{name} wide weight"] = fit.weight.detach()
    results[f"{name} wide gradient"] = torch.autograd.grad(fit.weight.square().sum(), z)[0]
    results[f"{name} one design"] = sk.fit_heads(z[0].detach(), y, ridge).weight
torch.manual_seed(0)
z, y = torch.randn(4, 60, 33, dtype=torch.float64), torch.randn(4, 60, 3, dtype=torch.float64)
for name, p in {
    "ridge": sk.Penalty(ridge=0.1),
    "lasso": sk.Penalty(l1=0.03),
    "sparse_group": sk.Penalty(l1=0.02, group=0.04),
    "shared": sk.Penalty(l1=0.02, shared=0.06),
}.items():
    fit = sk.fit_heads(z.requires_grad_(), y, p, tol=1e-12)
    assert fit.converged.all()
    results[f"{name} weight"] = fit.weight.detach()
    results[f"{name} gradient"] = torch.autograd.grad(fit.weight.square().sum(), z)[0]
np.savez(out, **{key: value.numpy() for key, value in results.items()})
print(backends.instruction_set())
"""


def results(instruction_set: str, folder: Path) -> dict[str, np.ndarray]:
    out = folder / f"{instruction_set}.npz"
    environment = {**os.environ, "SPARSEDIS_ISA": instruction_set, "SPARSEDIS_BACKEND": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(out)], env=environment, capture_output=True, text=True
    )
    if "is not an instruction set of this library and processor" in run.stderr:
        pytest.skip(f"this processor has no {instruction_set}")
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{instruction_set}\n"
    with np.load(out) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return results("baseline", tmp_path_factory.mktemp("isa"))


@pytest.mark.parametrize("instruction_set", ["avx2", "avx512"])
def test_instruction_sets_agree(
    instruction_set: str, baseline: dict[str, np.ndarray], tmp_path: Path
) -> None:
    for name, value in results(instruction_set, tmp_path).items():
        expected = baseline[name]
        limit = ROUNDING.get(name.split()[0], SOLVED) * np.abs(expected).max()
        np.testing.assert_allclose(value, expected, rtol=0, atol=limit, err_msg=name)
        if name.endswith("weight"):
            np.testing.assert_array_equal(value != 0, expected != 0, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "flags"), [
    ("aarch64-linux-gnu", []),
    ("x86_64-linux-gnu", ["-DSPARSEDIS_ISA=avx512", "-mavx512f", "-mavx512dq", "-mavx512vl"]),
])  # fmt: skip
def test_kernels_compile_for(target: str, flags: list[str], tmp_path: Path) -> None:
    cross = shutil.which(f"{target}-g++")
    if cross is None:
        pytest.skip(f"no compiler for {target}: {target}-g++ is not on the path")
    kernels = tmp_path / "kernels.o"
    source = str(CSRC / "cpu" / "kernels.cpp")
    subprocess.run([cross, *FLAGS, *flags, "-c", source, "-o", str(kernels)], check=True)
    assert b"kernel_table" in kernels.read_bytes()
