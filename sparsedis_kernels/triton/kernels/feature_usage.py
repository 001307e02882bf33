"""How much, and by how many tasks, every feature is used."""

import triton
import triton.language as tl

from sparsedis_kernels.triton.kernels.group_prox import level_at, place
from sparsedis_kernels.triton.kernels.groups import (
    blocked,
    load_tile,
    on_lanes,
    start,
    store_tile,
)


@triton.jit
def feature_usage_kernel(
    w, magnitudes, users, features, T, M, blocks, tasks, w_t, w_m, w_c, TILE: tl.constexpr,
):  # fmt: skip
    """Sums of a chunk of tasks: |w| and tasks in use (chunks, M); features in use (blocks, T)."""
    ACC: tl.constexpr = tl.float64 if TILE.double else tl.float32
    t0, m0, limit, lane, m, held = place(M, blocks, tasks, TILE)
    magnitude = tl.zeros((TILE.groups,), tl.float64)
    count = tl.zeros((TILE.groups,), tl.int32)
    row = features + (tl.program_id(0) % blocks).to(tl.int64) * T
    for t in range(t0, tl.minimum(t0 + tasks, T)):
        u = load_tile(start(w, t, m0, w_t, w_m, TILE), lane, limit, w_m, w_c, 0.0, TILE).to(ACC)
        total = tl.sum(tl.abs(blocked(u, TILE)), TILE.axis)
        used = (total != 0.0).to(tl.int32)
        magnitude += total.to(tl.float64)
        count += used
        tl.store(row + t, tl.sum(used, 0))
    at = (tl.program_id(0) // blocks).to(tl.int64) * M + m
    tl.store(magnitudes + at, magnitude, mask=held)
    tl.store(users + at, count, mask=held)


@triton.jit
def feature_usage_backward_kernel(
    w, grad_w, grad_magnitude, T, M, blocks, tasks, w_t, w_m, w_c, out_t, out_m, out_c,
    grad_t, grad_m, TILE: tl.constexpr, GRAD: tl.constexpr,
):  # fmt: skip
    """sign(w) grad_m; selected, not multiplied, since grad_m may be infinite where w is 0."""
    ACC: tl.constexpr = tl.float64 if TILE.double else tl.float32
    t0, m0, limit, lane, m, held = place(M, blocks, tasks, TILE)
    grad = level_at(grad_magnitude, t0, m, held, grad_t, grad_m, ACC, GRAD)
    grad = on_lanes(grad, lane, GRAD, TILE)
    for t in range(t0, tl.minimum(t0 + tasks, T)):
        u = load_tile(start(w, t, m0, w_t, w_m, TILE), lane, limit, w_m, w_c, 0.0, TILE).to(ACC)
        value = tl.where(u > 0.0, grad, tl.where(u < 0.0, -grad, u))
        at = start(grad_w, t, m0, out_t, out_m, TILE)
        store_tile(at, value.to(grad_w.dtype.element_ty), lane, limit, out_m, out_c, TILE)
