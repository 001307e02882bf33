"""200 random problems by CUDA's kernels, executed from their PTX, and by the CPU's."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

import sparsedis_kernels as sk
from tests.cuda.executed import NAMESPACE, executing
from tests.cuda.test_heads_backward import gradients, inputs_of
from tests.cuda.test_heads_report import LOSSES
from tests.problems import HEAD_PENALTIES, Samples, heads_problem, one_design, ragged

# In float64 on sm_80 and float32 on sm_90: relative gap asked, and how far reports, and gradients
# at the same weights, may differ relative to the largest of their kind.
RULES = {
    torch.float64: (80, 1e-7, 1e-9, 1e-8),
    torch.float32: (90, 1e-4, 1e-4, 1e-3),
}


def samples_of(draw: random.Random) -> Samples:
    """Of any layout, with few features or samples, or more of either."""
    T, C = draw.randint(1, 4), draw.choice([1, 2, 3, 5])
    n, M = draw.randint(1, 24), draw.randint(1, 24)
    layout = draw.choice(["dense", "ragged", "one_design"])
    if layout == "ragged":
        return ragged([draw.randint(1, n) for _ in range(T)], M, C)
    return heads_problem(T, n, M, C) if layout == "dense" else one_design(T, n, M, C)


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    size = float(theirs.abs().max()) + 1e-12
    torch.testing.assert_close(ours / size, theirs / size, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("seed", range(200))
def test_backends_agree(seed):
    """Reports and gradients, and each backend's weights meet the gap by the other's certificate."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    samples, loss = samples_of(draw), draw.choice(LOSSES)
    kind, dtype = draw.choice(list(HEAD_PENALTIES)), draw.choice([*RULES, torch.float64])
    capability, tol, of_reports, of_gradients = RULES[dtype]
    if (kind, loss) == ("lasso", "multinomial"):  # l1 leaves a shift of all classes undetermined
        kind = "elastic_net"
    inputs, names = inputs_of(samples, HEAD_PENALTIES[kind], loss)
    inputs[2][..., : draw.randint(0, 2)] = 0  # samples of no weight
    z, y, weight, *levels = inputs = [x.to(dtype) for x in inputs]
    nonneg = HEAD_PENALTIES[kind].nonneg
    penalty = sk.Penalty(**dict(zip(names, levels, strict=True)), nonneg=nonneg)
    how = {"loss": loss, "offsets": samples.offsets, "sample_weight": weight}
    with executing(capability):
        fits = {
            backend: sk.fit_heads(z, y, penalty, tol=tol, max_iter=20_000, backend=backend, **how)
            for backend in ("cpu", "cuda")
        }
        for fitted in fits.values():
            assert fitted.converged.all()
            gaps = [
                sk.duality_gap(z, y, fitted.weight, penalty, backend=other, **how) for other in fits
            ]
            assert_close(gaps[1] + 1, gaps[0] + 1, of_reports)
            assert float(gaps[0].max()) <= 1.05 * tol + 1e-6 * (dtype == torch.float32)
        if kind != "ridge":
            largest = [sk.lambda_max(z, y, penalty, backend=b, **how) for b in ("cuda", "cpu")]
            assert_close(*largest, of_reports)
        at = (fits["cpu"].weight, inputs, names)
        options = {"loss": loss, "offsets": samples.offsets, "nonneg": nonneg}
        pairs = zip(
            gradients(NAMESPACE, *at, **options), gradients("sparsedis", *at, **options),
            strict=True,
        )  # fmt: skip
        for ours, theirs in pairs:
            assert_close(ours, theirs, of_gradients)
