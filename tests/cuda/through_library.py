"""CPU tensors through the CUDA library, from the dispatcher to the kernels, executed from PTX.

`python -m tests.cuda.through_library LIBRARY`, of a process of its own, since the library registers
what serves CUDA tensors. Prints JSON.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import sparsedis_kernels as sk
from sparsedis_kernels import backends
from tests.cuda.executed import CODES, SOURCES, kernel_of, ptx_of
from tests.problems import HEAD_PENALTIES, LAYOUTS, heads_problem

NAMESPACE = "sparsedis_library"
TOL = 1e-9
LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_size_t, ctypes.c_int,
    ctypes.c_void_p, ctypes.c_void_p,
)  # fmt: skip
FITTED = {
    "ridge": sk.Penalty(ridge=0.1),
    "group": sk.Penalty(group=0.05),
    "nested": sk.Penalty(group=0.02, shared=0.03),
}
DTYPES = {code: dtype for dtype, code in CODES.items()}


class Launches:
    """Executes what is launched; keeps (kernel, grid, block, bytes of shared memory, stream)."""

    def __init__(self, library: str) -> None:
        self.done: list[tuple[str, int, int, int, int]] = []
        self.failing: str | None = None  # a kernel that is not executed, but fails
        self.callback = LAUNCH(self.launch)
        ctypes.CDLL(library).fake_launches(self.callback)

    def launch(
        self, entry: bytes, grid: int, block: int, shared: int, cooperative: int, parameter: int,
        stream: int,
    ) -> int:  # fmt: skip
        """Called by the library."""
        found = re.search(r"\d([a-z_]+)_kernelI([fd])E", entry.decode())
        assert found
        name, code = found.groups()
        if name == self.failing:
            return 719
        kernel, text = kernel_of(name, DTYPES[code], 80), "".join(ptx_of(s, 80) for s in SOURCES)
        size = re.search(rf"\.b8 {entry.decode()}_param_0\[(\d+)\]", text)
        assert size
        job = ctypes.string_at(parameter, int(size[1]))
        # Where arrays end, which PyTorch has allocated, is not known here.
        kernel.launch(
            entry.decode(), [job], grid, block, shared, check_bounds=False,
            cooperative=bool(cooperative),
        )  # fmt: skip
        self.done.append((name, grid, block, shared, stream))
        return 0


def through_dispatcher(name: str) -> Any:
    """The kernel of the dispatch key CUDA, which is given CPU tensors."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    op = getattr(torch.ops.sparsedis, name).default
    return lambda *args: op.redispatch(keys, *args)


def reports(z: Tensor, y: Tensor, penalty: sk.Penalty, **options: Any) -> list[Tensor]:
    """lambda_max, and the gap of some weights."""
    T = len(y) if options.get("offsets") is None else len(options["offsets"]) - 1
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(T, z.shape[-1], y.shape[-1], generator=generator).to(z.dtype) / 10
    return [
        sk.lambda_max(z, y, penalty, **options),
        sk.duality_gap(z, y, weight, penalty, **options),
    ]


def compared(launches: Launches, z: Tensor, y: Tensor, kind: str, **options: Any) -> dict[str, Any]:
    """What the library gives and does, and what the CPU kernels give."""
    penalty = HEAD_PENALTIES[kind]
    expected = reports(z, y, penalty, **options, backend="cpu")
    launches.done = []
    with mock.patch.object(backends, "namespace", return_value=NAMESPACE):
        actual = reports(z, y, penalty, **options)
    pairs = list(zip(actual, expected, strict=True))
    return {
        "shapes": [a.shape == e.shape for a, e in pairs],
        "errors": [float((a - e).abs().max()) if e.numel() else 0.0 for a, e in pairs],
        "launches": launches.done,
    }


def fitted(launches: Launches, z: Tensor, y: Tensor, penalty: sk.Penalty, tol: float) -> Any:
    """The gap of the library's weights, and how far its gradients there are from the CPU's."""
    launches.done = []
    with mock.patch.object(backends, "namespace", return_value=NAMESPACE):
        weight = sk.fit_heads(z, y, penalty, tol=tol).weight
    given = (torch.cos(weight), weight[:, 0], weight, z, y, None, None, 0)
    scale = [0.0, penalty.group, penalty.shared, penalty.ridge]
    strengths = (None, None, None, None, scale, False, True)
    needs = [True, True, False, True, True, penalty.shared > 0, True]
    ours, theirs = (
        getattr(torch.ops, ns).fit_heads_backward(*given, *strengths, needs)
        for ns in (NAMESPACE, "sparsedis")
    )
    return {
        "gap": float(sk.duality_gap(z, y, weight, penalty, backend="cpu").max()),
        "errors": [
            float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))
            for a, b in zip(ours, theirs, strict=True)
            if a.numel()
        ],
        "launches": launches.done,
    }


def main(library: str) -> None:
    """Print what calls of every kind give."""
    torch.ops.load_library(library)
    fragment = torch.library.Library(NAMESPACE, "FRAGMENT")
    for name in (*backends.CUDA_OPS, "fit_heads_backward"):
        schema = str(getattr(torch.ops.sparsedis, name).default._schema)
        fragment.define(schema.removeprefix("sparsedis::"))
        fragment.impl(name, through_dispatcher(name), "CPU")
    launches = Launches(library)
    report = {}
    for layout, kind in (("dense", "sparse_group"), ("ragged", "nested"), ("one_design", "lasso")):
        samples = LAYOUTS[layout]()
        strided = samples.z.mT.contiguous().mT
        case = compared(launches, strided, samples.y, kind, **samples.keywords())
        report[f"{layout} {kind}"] = case
    large = heads_problem(20, 64, 129, 2, dtype=torch.float64)
    report["large"] = compared(launches, large.z, large.y, "group")
    for kind, penalty in FITTED.items():
        report[f"fit {kind}"] = fitted(launches, samples.z, samples.y, penalty, TOL)
    featureless = torch.zeros(2, 4, 0, dtype=torch.float64)
    report["no features"] = compared(launches, featureless, large.y[:2, :4], "group")
    none = torch.zeros(0, 4, 3, dtype=torch.float64)
    for kind in ("group", "nested"):
        report[f"none {kind}"] = compared(launches, none, none[..., :2], kind)
    launches.failing = "coupled_loss"
    try:
        compared(launches, samples.z, samples.y, "nested")
    except RuntimeError as error:
        report["failing"] = str(error)
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
