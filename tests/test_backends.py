"""Which implementation serves a call, and what is said where the one asked for cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sparsedis_kernels as sk
from sparsedis_kernels import backends

PACKAGE = Path(sk.__file__).parent

# Which namespace of ops a call went through.
TRACE = """
import torch, sparsedis_kernels as sk
with torch.profiler.profile() as profile:
    sk.prox(torch.ones(1, 2, 3), sk.Penalty(l1=0.1))
print(*sorted({e.name for e in profile.events() if e.name.endswith("::prox")}))
"""

FALLBACK = """
import logging, torch
logging.basicConfig(format="%(message)s")
import sparsedis_kernels as sk
from sparsedis_kernels import backends
v = torch.arange(6.0).reshape(1, 2, 3)
for _ in range(2):
    x = sk.prox(v, sk.Penalty(l1=0.1, group=1.0))
    sk.feature_usage(x)
print(sk.__file__, backends.CPU_LIBRARY.path, backends.instruction_set(), x.tolist(), sep="\\n")
print(backends.CPU_LIBRARY.error)
try:
    sk.prox(v, sk.Penalty(l1=0.1), backend="cpu")
except RuntimeError as error:
    print(error)
"""


def python(program: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SPARSEDIS_")}
    return subprocess.run(
        [sys.executable, *options, "-c", program],
        env=environment | variables,
        capture_output=True,
        text=True,
    )


def python_in(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program with the copy of the package in a folder."""
    # -S and a path of our own: an editable install would find the source tree first.
    paths = [str(folder), str(Path(torch.__file__).parents[1])]
    return python(f"import sys; sys.path[:0] = {paths!r}\n{program}", "-S")


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("tpu", "there is no such backend"),
        ("cuda", "has no kernel for this op"),
        ("triton", "serves CUDA tensors, not cpu"),
    ],
)
def test_a_backend_that_cannot_serve_raises_and_names_what_there_is(
    backend: str, reason: str
) -> None:
    with pytest.raises(RuntimeError) as raised:
        sk.prox(torch.ones(1, 1, 1), sk.Penalty(l1=0.1), backend=backend)
    assert str(raised.value) == (
        f"prox: backend='{backend}' cannot serve a tensor on cpu: {reason}; "
        "there is 'cpu', 'reference'"
    )


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("cpu", "serves CPU tensors, not cuda"),
        ("cuda", backends.CUDA_LIBRARY.error),
        ("triton", "has no kernel for this op"),
    ],
)
def test_a_backend_of_another_device_or_op_raises_and_says_why(backend: str, reason: str) -> None:
    with pytest.raises(RuntimeError) as raised:
        backends.namespace("fit_heads", torch.device("cuda"), backend)
    assert str(raised.value) == (
        f"fit_heads: backend='{backend}' cannot serve a tensor on cuda: {reason}; "
        "there is 'reference'"
    )


def test_cuda_refuses_a_cpu_tensor() -> None:
    with pytest.raises(RuntimeError) as raised:
        sk.lambda_max(torch.ones(1, 2, 3), torch.ones(1, 2, 1), sk.Penalty(l1=1.0), backend="cuda")
    assert str(raised.value) == (
        "lambda_max: backend='cuda' cannot serve a tensor on cpu: serves CUDA tensors, not cpu; "
        "there is 'cpu', 'reference'"
    )


def test_cuda_serves_where_its_library_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    monkeypatch.setattr(backends, "CUDA_LIBRARY", backends.Library(Path("_C_cuda.so"), None))
    assert backends.namespace("duality_gap", device, "cuda") == backends.AUTOMATIC
    assert not backends.takes_half(backends.AUTOMATIC, "duality_gap", device)
    assert ("lambda_max", "cuda", "cuda", "cpu: serves CPU tensors, not cuda") in (
        backends.op_table()
    )


def test_where_the_cuda_library_is_not_its_reason_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backends, "CUDA_LIBRARY", backends.Library(None, "was lost"))
    monkeypatch.setattr(backends, "_reported", set())
    with pytest.raises(RuntimeError) as raised:
        backends.namespace("lambda_max", torch.device("cuda"), "cuda")
    assert str(raised.value) == (
        "lambda_max: backend='cuda' cannot serve a tensor on cuda: was lost; there is 'reference'"
    )
    for op in ("lambda_max", "lambda_max", "penalty_value"):
        backends.report_fallback(op, "cuda")
    assert caplog.messages == [
        "lambda_max on cuda is served by the reference implementation: was lost",
        "penalty_value on cuda is served by the reference implementation: "
        "triton has no kernel for this op",
    ]


CUDA_LIBRARY = """
import torch
torch.version.cuda = {cuda!r}
from sparsedis_kernels import backends
print(backends.CUDA_LIBRARY.path, backends.CUDA_LIBRARY.error, sep="\\n")
"""


def test_the_cuda_library_is_loaded_only_where_torch_has_cuda(tmp_path: Path) -> None:
    copy = tmp_path / "sparsedis_kernels"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (copy / "_C_cuda.so").write_text("not a library")

    def library(cuda: str | None) -> list[str]:
        return python_in(tmp_path, CUDA_LIBRARY.format(cuda=cuda)).stdout.splitlines()

    assert library(None) == ["None", f"torch {torch.__version__} is built without CUDA"]
    path, error = library("13.0")
    assert path == "None"
    assert error.startswith(f"{copy / '_C_cuda.so'} did not load: ")
    assert "Could not load this library" not in error  # which would be all that is said
    (copy / "_C_cuda.so").unlink()
    assert library("13.0") == ["None", f"_C_cuda.so was not built into {copy}"]


def test_every_public_op_takes_the_request() -> None:
    """Each op asks under its own name."""
    weights, z, y = torch.ones(2, 3, 1), torch.randn(2, 4, 3), torch.randn(2, 4, 1)
    penalty, request = sk.Penalty(l1=0.1), {"backend": "absent"}
    step = ([weights], [weights], [weights], [torch.zeros(())])
    calls = {
        "prox": lambda: sk.prox(weights, penalty, **request),
        "prox_": lambda: sk.prox_(weights, penalty, **request),
        "prox_sgd_": lambda: sk.prox_sgd_(*step, penalty, lr=0.1, **request),
        "prox_adamw_": lambda: sk.prox_adamw_([weights], *step, penalty, lr=0.1, **request),
        "prox_mcp": lambda: sk.prox_mcp(weights, 0.1, **request),
        "prox_scad": lambda: sk.prox_scad(weights, 0.1, **request),
        "prox_l0": lambda: sk.prox_l0(weights, 0.1, **request),
        "prox_linf": lambda: sk.prox_linf(weights, 0.1, **request),
        "penalty_value": lambda: sk.penalty_value(weights, penalty, **request),
        "feature_usage": lambda: sk.feature_usage(weights, **request),
        "fit_heads": lambda: sk.fit_heads(z, y, penalty, **request),
        "lambda_max": lambda: sk.lambda_max(z, y, penalty, **request),
        "duality_gap": lambda: sk.duality_gap(z, y, weights, penalty, **request),
    }
    assert set(calls) == {op for op, *_ in backends.op_table()}
    for op, call in calls.items():
        with pytest.raises(RuntimeError, match=rf"^{op}: backend='absent' cannot serve"):
            call()


@pytest.mark.parametrize(
    ("requested", "namespace"),
    [("", "sparsedis"), ("cpu", "sparsedis"), ("reference", "sparsedis_reference")],
)
def test_the_environment_variable_chooses(requested: str, namespace: str) -> None:
    result = python(TRACE, SPARSEDIS_BACKEND=requested)
    assert result.stdout == f"{namespace}::prox\n", result.stderr


def test_an_environment_variable_that_cannot_be_met_raises() -> None:
    result = python(TRACE, SPARSEDIS_BACKEND="tpu")
    assert result.returncode != 0
    assert "backend='tpu' cannot serve a tensor on cpu: there is no such backend" in result.stderr


@pytest.fixture(params=["absent", "corrupt"])
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A copy of the package without its library, or with one that is none, and why it says so."""
    copy = tmp_path / "sparsedis_kernels"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    if request.param == "absent":
        return tmp_path, f"_C.so was not built into {copy}"
    (copy / "_C.so").write_text("not a library")
    return tmp_path, f"{copy / '_C.so'} did not load: "


def test_without_the_library_the_reference_serves(damaged: tuple[Path, str]) -> None:
    folder, reason = damaged
    result = python_in(folder, FALLBACK)
    assert result.returncode == 0, result.stderr
    package, path, instruction_set, x, error, raised = result.stdout.splitlines()
    assert Path(package).is_relative_to(folder)
    assert (path, instruction_set) == ("None", "none")
    expected = sk.prox(torch.arange(6.0).reshape(1, 2, 3), sk.Penalty(l1=0.1, group=1.0))
    torch.testing.assert_close(torch.tensor(json.loads(x)), expected)
    assert error.startswith(reason)
    assert raised == (
        f"prox: backend='cpu' cannot serve a tensor on cpu: {error}; there is 'reference'"
    )
    for op in ("prox", "feature_usage"):
        line = f"{op} on cpu is served by the reference implementation: {error}"
        assert result.stderr.splitlines().count(line) == 1


def test_an_unknown_instruction_set_raises_in_one_sentence() -> None:
    result = python(TRACE, SPARSEDIS_ISA="sse9")
    assert result.returncode != 0
    assert (
        "RuntimeError: SPARSEDIS_ISA=sse9 is not an instruction set of this library and processor; "
        "there are baseline, avx2, avx512 (on x86-64)"
    ) in result.stderr


@pytest.mark.parametrize(("asked", "runs"), [("sse9", "none"), ("", backends.instruction_set())])
def test_the_report_survives_any_instruction_set_asked_for(asked: str, runs: str) -> None:
    """The library's exception must not end the process, and an empty variable asks for nothing."""
    program = "from sparsedis_kernels import backends; print(backends.instruction_set())"
    result = python(program, SPARSEDIS_ISA=asked)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == runs


def test_the_op_table_is_true() -> None:
    """Every public op on CPU and CUDA, with the backend that the dispatcher really has."""
    public = {n for n in sk.__all__ if n.islower() and callable(getattr(sk, n))}
    table = backends.op_table()
    assert {op for op, *_ in table} == public
    assert {(op, device) for op, device, *_ in table} == {
        (op, device) for op in public for device in ("cpu", "cuda")
    }
    for op, device, serves, reasons in table:
        name = f"sparsedis::{backends.RAW_NAMES.get(op, op)}"
        native = torch._C._dispatch_has_kernel_for_dispatch_key(name, device.upper())
        assert native == (serves != "reference"), (op, device)
        order = ["cpu", "cuda", "triton", "reference"]
        assert [r.split(":")[0] for r in reasons.split("; ") if r] == order[: order.index(serves)]


def test_import_does_not_import_triton() -> None:
    result = python("import sys, sparsedis_kernels; print('triton' in sys.modules)")
    assert result.stdout == "False\n", result.stderr


NO_TRITON = """
import sys, importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else find(name, *rest)
from sparsedis_kernels import backends
print(*next(row for row in backends.op_table() if row[:2] == ("prox", "cuda")), sep="|")
"""


def test_without_triton_the_report_says_so() -> None:
    result = python(NO_TRITON)
    assert result.stdout == (
        "prox|cuda|reference|cpu: serves CPU tensors, not cuda; cuda: has no kernel for this op; "
        "triton: is not installed\n"
    ), result.stderr


def test_a_triton_that_cannot_be_imported_is_an_error_with_a_way_out(monkeypatch) -> None:
    monkeypatch.setattr(backends, "TRITON_DEVICES", {"cuda", "cpu"})
    for name in [n for n in sys.modules if n.startswith("sparsedis_kernels.triton")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(RuntimeError, match=r"prox: triton cannot be imported.*'reference'"):
        sk.prox(torch.ones(1, 1, 1), sk.Penalty(l1=0.1), backend="triton")
