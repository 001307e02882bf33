"""How much, and by how many tasks, every feature is used."""

import triton
import triton.language as tl

from sparsedis_kernels.triton.kernels.groups import (
    blocked,
    load_tile,
    on_lanes,
    place,
    store_tile,
    strength,
)


@triton.jit
def feature_usage_kernel(
    w, magnitudes, users, features, T, M, blocks, tasks, w_t, w_m, w_c, TILE: tl.constexpr,
):  # fmt: skip
    """Sums of a chunk of tasks: |w| and tasks in use (chunks, M); features in use (blocks, T)."""
    t0, m0, limit, lane, m, held = place(tl.program_id(0), M, blocks, tasks, TILE)
    magnitude = tl.full((TILE.groups,), 0.0, tl.float64)
    count = tl.full((TILE.groups,), 0, tl.int32)
    row = features + m0 // TILE.filled * T
    for t in range(t0, tl.minimum(t0 + tasks, T)):
        u = load_tile(w, t, m0, lane, limit, w_t, w_m, w_c, 0.0, TILE)
        total = tl.sum(tl.abs(blocked(u, TILE)), TILE.axis)
        used = (total != 0.0).to(tl.int32)
        magnitude += total.to(tl.float64)
        count += used
        tl.store(row + t, tl.sum(used, 0))
    at = t0 // tasks * M + m
    tl.store(magnitudes + at, magnitude, mask=held)
    tl.store(users + at, count, mask=held)


@triton.jit
def feature_usage_backward_kernel(
    w, grad_w, grad_magnitude, T, M, blocks, tasks, w_t, w_m, w_c, out_t, out_m, out_c,
    grad_t, grad_m, TILE: tl.constexpr, GRAD: tl.constexpr,
):  # fmt: skip
    """sign(w) grad_m; selected, not multiplied, since grad_m may be infinite where w is 0."""
    ACC: tl.constexpr = tl.float64 if TILE.double else tl.float32
    t0, m0, limit, lane, m, held = place(tl.program_id(0), M, blocks, tasks, TILE)
    grad_of = (grad_magnitude, tl.full((), 1.0, ACC), grad_t, grad_m)
    grad = strength(grad_of, t0, m, held, ACC, GRAD)
    grad = on_lanes(grad, lane, GRAD, TILE)
    for t in range(t0, tl.minimum(t0 + tasks, T)):
        u = load_tile(w, t, m0, lane, limit, w_t, w_m, w_c, 0.0, TILE)
        value = tl.where(u > 0.0, grad, tl.where(u < 0.0, -grad, u))
        store_tile(grad_w, value, t, m0, lane, limit, out_t, out_m, out_c, TILE)
