"""The prox of the nested penalty.

Without the shared level a program solves the groups of a tile and writes them. With it, a feature's
norm over all tasks comes first. Where all tasks of a few features fit in a tile, one program does
everything. Else come sums over chunks of tasks, one number per chunk and feature, then one program
per block of features adds the chunks in order. No atomics: results repeat bit for bit.
"""

import triton
import triton.language as tl

from sparsedis_kernels.triton.kernels.groups import (
    blocked,
    levels_of_all,
    levels_of_task,
    load_features,
    load_tile,
    on_lanes,
    on_tasks,
    over_tasks,
    padded,
    place,
    place_of_features,
    pull,
    solve_groups,
    spread,
    store_features,
    store_tile,
    strength,
    threshold_entries,
    thresholded_norm,
)


@triton.jit
def thresholded(v, metric, t, m0, lane, limit, v_t, v_m, v_c, metric_t, metric_m, metric_c,
                l1_level, group_level, L1: tl.constexpr, GROUP: tl.constexpr,
                GROUPED: tl.constexpr, NONNEG: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """(u, d) on the flat lanes: d v after the levels of entries, and the metric d, or 1."""
    u = load_tile(v, t, m0, lane, limit, v_t, v_m, v_c, 0.0, TILE)
    if metric is not None:
        d = load_tile(metric, t, m0, lane, limit, metric_t, metric_m, metric_c, 1.0, TILE)
        u = u * d
    else:
        d = 1.0
    u = threshold_entries(u, l1_level, group_level, lane, L1, GROUP, GROUPED, NONNEG, TILE)
    return u, d


@triton.jit
def group_sums(u, d, ridge_level, group_level, size_m, shared_m, lane, METRIC: tl.constexpr,
               START: tl.constexpr, RIDGE: tl.constexpr, GROUPED: tl.constexpr,
               TILE: tl.constexpr):  # fmt: skip
    """What a feature adds up over its groups to find its norm theta: two of (groups,) in float64.

    At the START: the squared norm of a group after its threshold, and its largest curvature (for
    the maximum). Later: ||y||^2 of the group y that theta gives, and its slope (`feature_step`).
    """
    AXIS: tl.constexpr = TILE.axis
    PULLED: tl.constexpr = GROUPED and TILE.C > 1
    block = blocked(u, TILE)
    if START or not METRIC:
        norm = thresholded_norm(block, group_level, AXIS, PULLED)
        if not START:
            e = (1.0 + ridge_level) * size_m + shared_m
            norm /= e
            second = norm * norm * ((1.0 + ridge_level) / e).to(tl.float64)
        elif METRIC:
            D = tl.max(blocked(d + on_lanes(ridge_level, lane, RIDGE, TILE), TILE), AXIS)
            second = D.to(tl.float64)
        else:
            second = tl.full((TILE.groups,), 0.0, tl.float64) + (1.0 + ridge_level).to(tl.float64)
        first = norm * norm
    else:
        D = padded(d + on_lanes(ridge_level, lane, RIDGE, TILE), TILE)
        e = D * tl.expand_dims(size_m, AXIS) + tl.expand_dims(shared_m, AXIS)
        if PULLED:
            k = pull(block, e, group_level, TILE)
            a = e + tl.expand_dims(k, AXIS)
        else:
            a = e
        inverse = 1.0 / a
        y = block * inverse
        q = y * y * inverse
        s2 = tl.sum(q * D, AXIS)
        slope = s2
        if PULLED:
            boost = k * tl.sum(q, AXIS) / tl.sum(q * e, AXIS)
            slope = tl.where(s2 > 0.0, s2 * (1.0 + boost), s2)
        first = tl.sum(y * y, AXIS).to(tl.float64)
        second = slope.to(tl.float64)
    return first, second


@triton.jit
def feature_start(first, curvature, level):
    """theta = ||x_m||_F where the curvature is uniform, else a lower bound; all in float64.

    Where the level is absent the feature is not coupled: theta = 1 leaves its groups alone.
    """
    norm = tl.sqrt(first)
    size = tl.where(norm <= level, 0.0, (norm - level) / curvature)
    return tl.where((level == 0.0) & (norm > 0.0), 1.0, size)


@triton.jit
def feature_step(size, first, slope, level):
    """A reciprocal Newton step to ||y(theta)||_F = 1, y: (D theta + shared) y + group y/||y|| = u.

    It climbs, so it is at least 0; all in float64.
    """
    step = first * (tl.sqrt(first) - 1.0) / slope
    return tl.where((size > 0.0) & (level > 0.0) & (step > 0.0), step, 0.0)


@triton.jit
def coupled_groups(u, d, ridge_level, group_level, size_m, shared_m, lane, METRIC: tl.constexpr,
                   RIDGE: tl.constexpr, GROUPED: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """x = theta y of every group, given theta = ||x_m||_F: (lanes,)."""
    if METRIC:
        curvature = d + on_lanes(ridge_level, lane, RIDGE, TILE)
        curvature = curvature * spread(size_m, lane, TILE) + spread(shared_m, lane, TILE)
    else:
        curvature = (1.0 + ridge_level) * size_m + shared_m
    curvature = tl.where(curvature > 0.0, curvature, 1.0)  # 0 where the feature is
    y = solve_groups(u, curvature, group_level, lane, METRIC, "feature", GROUPED, TILE)
    return y * spread(size_m, lane, TILE)


@triton.jit
def prox_kernel(
    v, metric, x, l1, group, ridge, theta, shared,
    T, M, blocks, tasks,
    v_t, v_m, v_c, metric_t, metric_m, metric_c, x_t, x_m, x_c,
    l1_t, l1_m, group_t, group_m, ridge_t, ridge_m,
    l1_scale: tl.float64, group_scale: tl.float64, ridge_scale: tl.float64,
    TILE: tl.constexpr, L1: tl.constexpr, GROUP: tl.constexpr, RIDGE: tl.constexpr,
    GROUPED: tl.constexpr, NONNEG: tl.constexpr,
):  # fmt: skip
    """x = argmin 1/2 x'Dx + group ||x|| (+ shared ||x_m||_F) - u'x, given theta = ||x_m||_F."""
    ACC: tl.constexpr = tl.float64 if TILE.double else tl.float32
    t0, m0, limit, lane, m, held = place(tl.program_id(0), M, blocks, tasks, TILE)
    penalty = (
        (l1, l1_scale, l1_t, l1_m),
        (group, group_scale, group_t, group_m),
        (ridge, ridge_scale, ridge_t, ridge_m),
    )
    levels = levels_of_all(penalty, t0, m, held, ACC, L1, GROUP, RIDGE)
    if theta is not None:
        size_m = tl.load(theta + m, mask=held, other=1.0)
        shared_m = tl.load(shared + m, mask=held, other=0.0)
    for t in range(t0, tl.minimum(t0 + tasks, T)):
        levels = levels_of_task(levels, penalty, t, m, held, ACC, L1, GROUP, RIDGE)
        l1_level, group_level, ridge_level = levels
        u, d = thresholded(v, metric, t, m0, lane, limit, v_t, v_m, v_c, metric_t, metric_m,
                           metric_c, l1_level, group_level, L1, GROUP, GROUPED, NONNEG,
                           TILE)  # fmt: skip
        if theta is not None:
            y = coupled_groups(u, d, ridge_level, group_level, size_m, shared_m, lane,
                               metric is not None, RIDGE, GROUPED, TILE)  # fmt: skip
        elif metric is not None:
            y = solve_groups(u, d + on_lanes(ridge_level, lane, RIDGE, TILE), group_level, lane,
                             True, RIDGE, GROUPED, TILE)  # fmt: skip
        else:
            y = solve_groups(u, 1.0 + ridge_level, group_level, lane, False, RIDGE, GROUPED,
                             TILE)  # fmt: skip
        store_tile(x, y, t, m0, lane, limit, x_t, x_m, x_c, TILE)


@triton.jit
def feature_sums_kernel(
    v, metric, l1, group, ridge, theta, shared, moving, first_sum, second_sum,
    T, M, blocks, tasks,
    v_t, v_m, v_c, metric_t, metric_m, metric_c,
    l1_t, l1_m, group_t, group_m, ridge_t, ridge_m,
    l1_scale: tl.float64, group_scale: tl.float64, ridge_scale: tl.float64,
    TILE: tl.constexpr, L1: tl.constexpr, GROUP: tl.constexpr, RIDGE: tl.constexpr,
    GROUPED: tl.constexpr, NONNEG: tl.constexpr,
):  # fmt: skip
    """`group_sums` of a chunk of tasks, at the start (no theta) or later: (chunks, M).

    Later a program whose features have all reached their theta reads nothing and writes nothing.
    """
    ACC: tl.constexpr = tl.float64 if TILE.double else tl.float32
    t0, m0, limit, lane, m, held = place(tl.program_id(0), M, blocks, tasks, TILE)
    penalty = (
        (l1, l1_scale, l1_t, l1_m),
        (group, group_scale, group_t, group_m),
        (ridge, ridge_scale, ridge_t, ridge_m),
    )
    levels = levels_of_all(penalty, t0, m, held, ACC, L1, GROUP, RIDGE)
    first = tl.full((TILE.groups,), 0.0, tl.float64)
    second = tl.full((TILE.groups,), 0.0, tl.float64)
    size_m, shared_m, end = 1.0, 0.0, tl.minimum(t0 + tasks, T)
    if theta is not None:
        size_m = tl.load(theta + m, mask=held, other=1.0)
        shared_m = tl.load(shared + m, mask=held, other=0.0)
        needed = tl.max(tl.load(moving + m, mask=held, other=0).to(tl.int32), 0) > 0
        end, held = tl.where(needed, end, t0), held & needed
    for t in range(t0, end):
        levels = levels_of_task(levels, penalty, t, m, held, ACC, L1, GROUP, RIDGE)
        l1_level, group_level, ridge_level = levels
        u, d = thresholded(v, metric, t, m0, lane, limit, v_t, v_m, v_c, metric_t, metric_m,
                           metric_c, l1_level, group_level, L1, GROUP, GROUPED, NONNEG,
                           TILE)  # fmt: skip
        add, other = group_sums(u, d, ridge_level, group_level, size_m, shared_m, lane,
                                metric is not None, theta is None, RIDGE, GROUPED,
                                TILE)  # fmt: skip
        first += add
        second = tl.maximum(second, other) if theta is None else second + other
    at = t0 // tasks * M + m
    tl.store(first_sum + at, first, mask=held)
    tl.store(second_sum + at, second, mask=held)


@triton.jit
def chunk_total(sums, m, held, chunks, M, MAXIMUM: tl.constexpr, CHUNKS: tl.constexpr):
    """Sum, or maximum, over chunks in their order: (features,)."""
    total = tl.full(m.shape, 0.0, tl.float64)
    for first in range(0, chunks, CHUNKS):
        chunk = (first + tl.arange(0, CHUNKS)).to(tl.int64)[:, None]
        mask = (chunk < chunks) & held[None, :]
        value = tl.load(sums + chunk * M + m[None, :], mask=mask, other=0.0)
        if MAXIMUM:
            total = tl.maximum(total, tl.max(value, 0))
        else:
            total += tl.sum(value, 0)
    return total


@triton.jit
def feature_step_kernel(
    first_sum, second_sum, theta, shared, moving, chunks, M,
    FIRST: tl.constexpr, FEATURES: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """theta_m = ||x_m||_F from the sums of chunks: its start, or one more step of those moving.

    Convergence is quadratic: a feature has arrived where its step is so small that the next one
    would be lost in rounding.
    """
    SMALL: tl.constexpr = 1e-10 if theta.dtype.element_ty == tl.float64 else 1e-5
    m = tl.program_id(0) * FEATURES + tl.arange(0, FEATURES)
    held = m < M
    if not FIRST:
        held &= tl.load(moving + m, mask=held, other=0) > 0
    first = chunk_total(first_sum, m, held, chunks, M, False, CHUNKS)
    second = chunk_total(second_sum, m, held, chunks, M, FIRST, CHUNKS)
    level = tl.load(shared + m, mask=held, other=0.0).to(tl.float64)
    if FIRST:
        size = feature_start(first, second, level)
        moves = (size > 0.0) & (level > 0.0)
    else:
        size = tl.load(theta + m, mask=held, other=0.0).to(tl.float64)
        step = feature_step(size, first, second, level)
        moves = step > SMALL * size
        size += step
    tl.store(theta + m, size.to(theta.dtype.element_ty), mask=held)
    tl.store(moving + m, moves.to(tl.int8), mask=held)


@triton.jit
def solve_features(u, d, ridge_level, group_level, shared, scale, m0, M, held, METRIC: tl.constexpr,
                   RIDGE: tl.constexpr, GROUPED: tl.constexpr, UNIFORM: tl.constexpr,
                   TILE: tl.constexpr):  # fmt: skip
    """x for all tasks of the features from m0 on, whose level is scale * shared: (lanes,).

    u comes from `threshold_entries`. UNIFORM says that a feature has one curvature, which makes the
    start of its norm exact.
    """
    lane = tl.arange(0, TILE.lanes)
    feature = m0 + tl.arange(0, TILE.filled // TILE.tasks)
    level = tl.load(shared + feature, mask=feature < M, other=0.0).to(tl.float64) * scale
    ACC: tl.constexpr = u.dtype
    shared_m = on_tasks(level.to(ACC), TILE)
    first, second = group_sums(u, d, ridge_level, group_level, 1.0, 0.0, lane, METRIC, True, RIDGE,
                               GROUPED, TILE)  # fmt: skip
    curvature = over_tasks(tl.where(held, second, 0.0), True, TILE)
    size = feature_start(over_tasks(first, False, TILE), curvature, level)
    if not UNIFORM:
        for _ in range(TILE.newton_steps):
            size_m = on_tasks(size.to(ACC), TILE)
            norm2, slope = group_sums(u, d, ridge_level, group_level, size_m, shared_m, lane,
                                      METRIC, False, RIDGE, GROUPED, TILE)  # fmt: skip
            norm2, slope = over_tasks(norm2, False, TILE), over_tasks(slope, False, TILE)
            size += feature_step(size, norm2, slope, level)
    size_m = on_tasks(size.to(ACC), TILE)
    return coupled_groups(u, d, ridge_level, group_level, size_m, shared_m, lane, METRIC, RIDGE,
                          GROUPED, TILE)  # fmt: skip


@triton.jit
def coupled_prox_kernel(
    v, metric, x, l1, group, ridge, shared, T, M,
    v_t, v_m, v_c, metric_t, metric_m, metric_c, x_t, x_m, x_c,
    l1_t, l1_m, group_t, group_m, ridge_t, ridge_m,
    l1_scale: tl.float64, group_scale: tl.float64, ridge_scale: tl.float64,
    TILE: tl.constexpr, L1: tl.constexpr, GROUP: tl.constexpr, RIDGE: tl.constexpr,
    GROUPED: tl.constexpr, NONNEG: tl.constexpr, UNIFORM: tl.constexpr,
):  # fmt: skip
    """The prox with the shared level where all tasks of a few features fit in one tile."""
    ACC: tl.constexpr = tl.float64 if TILE.double else tl.float32
    METRIC: tl.constexpr = metric is not None
    m0, t, m, held = place_of_features(T, M, TILE)
    lane = tl.arange(0, TILE.lanes)
    u = load_features(v, m0, T, M, v_t, v_m, v_c, 0.0, TILE)
    d = 1.0
    if METRIC:
        d = load_features(metric, m0, T, M, metric_t, metric_m, metric_c, 1.0, TILE)
        u = u * d
    l1_level = strength((l1, l1_scale, l1_t, l1_m), t, m, held, ACC, L1)
    group_level = strength((group, group_scale, group_t, group_m), t, m, held, ACC, GROUP)
    ridge_level = strength((ridge, ridge_scale, ridge_t, ridge_m), t, m, held, ACC, RIDGE)
    u = threshold_entries(u, l1_level, group_level, lane, L1, GROUP, GROUPED, NONNEG, TILE)
    y = solve_features(u, d, ridge_level, group_level, shared, 1.0, m0, M, held, METRIC, RIDGE,
                       GROUPED, UNIFORM, TILE)  # fmt: skip
    store_features(x, y, m0, T, M, x_t, x_m, x_c, TILE)
