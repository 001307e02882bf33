"""The vector-Jacobian product of the nested prox.

A y = grad on the support, with A = diag(D + k + kappa) - k xh xh' - kappa Xh Xh', where
k = group/||x_g||, kappa = shared/||x_m||_F, xh = x_g/||x_g||, Xh = x_m/||x_m||_F: Sherman-Morrison
in each group, then once over the feature, whose sums over tasks come in chunks as in the forward.
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
    only,
    over_tasks,
    padded,
    place,
    place_of_features,
    root,
    scaled_norm,
    scaled_square,
    spread,
    store_features,
    store_tile,
    strength,
    strength_of_all,
    strength_of_task,
    thresholded_norm,
)


@triton.jit
def solved_groups(block, level, AXIS: tl.constexpr):
    """(xh, k, 1/||x_g||, whether x_g is not 0) of blocked groups; NaN stays NaN."""
    size, _, inverse = scaled_norm(block, AXIS)
    some = size != 0.0
    over = inverse / tl.where(some, size, 1.0)
    return block * tl.expand_dims(over, AXIS), tl.where(some, level * over, 0.0), over, some


@triton.jit
def metric_sums(unit, rhs, D, e, k, AXIS: tl.constexpr):
    """(xh.b/a, xh.(D xh/a), xh.(e xh/a), xh.xh/a) per group, with a = e + k."""
    over = 1.0 / (e + tl.expand_dims(k, AXIS))
    q = unit * unit * over
    projection = tl.sum(unit * rhs * over, AXIS)
    return projection, tl.sum(q * D, AXIS), tl.sum(q * e, AXIS), tl.sum(q, AXIS)


@triton.jit
def projections(unit, over, some, k, rhs, D, theta_m, kappa_m, METRIC: tl.constexpr,
                GROUPED: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """A group's share of Xh' B^-1 grad and of Xh' B^-1 D Xh: two of (groups,), in float64.

    B is A without its last term; the second is 1 - kappa Xh' B^-1 Xh without its cancellation.
    """
    AXIS: tl.constexpr = TILE.axis
    share = tl.where(some & (theta_m > 0.0), 1.0 / (over * theta_m), 0.0)
    if METRIC:
        e = D + tl.expand_dims(kappa_m, AXIS)
        projection, slope, denominator, plain = metric_sums(unit, rhs, D, e, k, AXIS)
        if GROUPED:
            boost = tl.where(some, 1.0 + k * plain / denominator, 1.0)
            projection *= boost
            slope *= boost
    else:
        projection = tl.sum(unit * rhs, AXIS) / (D + kappa_m)
        slope = D / (D + kappa_m)
    return (share * projection).to(tl.float64), (share * share * slope).to(tl.float64)


@triton.jit
def add_pairs(a, b, c, d):
    """Sums of two values at a time."""
    return a + c, b + d


@triton.jit
def adjoint_of_one(b, w, d, shift, l1_level, group_level, open_group, ZEROS: tl.constexpr):
    """`adjoint` of a tile's only group, with a metric: (lanes,).

    Of arrays that fill the registers none but b, w and d is kept. So the sums, of q = xh / (a s)
    for a norm s, have no part that the compiler could keep for y, which follows them.
    """
    square, _, inverse = scaled_square(w, 0)
    size = root(square)
    some = size != 0.0
    over = inverse / tl.where(some, size, 1.0)
    k = tl.where(some, group_level * over, 0.0)
    if ZEROS == "held":
        live = w != 0.0
    elif ZEROS == "free":
        live = (w != 0.0) | some | ((group_level == 0.0) & open_group)
    else:
        live = (w != 0.0) | ((some | ((group_level == 0.0) & open_group)) & (l1_level == 0.0))
    b = tl.where(live, b, 0.0)
    e = d * size + shift * size
    q = 1.0 / (e + k * size) * w
    projection, denominator = tl.reduce((q * b, q * inverse * w * e), 0, add_pairs)
    along = tl.where(some & (k > 0.0), k * (projection / denominator) * size * size, k)
    return 1.0 / (d + (shift + k)) * (b + w * (along * over))


@triton.jit
def adjoint_of_groups(b, w, point, e, l1_level, group_level, open_group, lane,
                      METRIC: tl.constexpr, GROUPED: tl.constexpr, ZEROS: tl.constexpr,
                      TILE: tl.constexpr):  # fmt: skip
    """`adjoint`, given its curvature e: (lanes,) if METRIC, else (groups,)."""
    AXIS: tl.constexpr = TILE.axis
    if GROUPED:
        unit, k, over, some = solved_groups(point, group_level, AXIS)
        open_group = some | ((group_level == 0.0) & open_group)
    if ZEROS == "either":
        open_group = open_group & (l1_level == 0.0)
    if ZEROS == "held":
        live = w != 0.0
    else:
        live = (w != 0.0) | (spread(open_group.to(b.dtype), lane, TILE) > 0.0)
    b = tl.where(live, b, 0.0)
    if GROUPED and TILE.C > 1:
        rhs = blocked(b, TILE)
        if METRIC:
            diagonal = padded(e, TILE)
            projection, _, denominator, _ = metric_sums(unit, rhs, diagonal, diagonal, k, AXIS)
            along = tl.where(some & (k > 0.0), k * projection / denominator, k)
            y = 1.0 / (e + spread(k, lane, TILE)) * (b + w * spread(along * over, lane, TILE))
        else:
            along = tl.sum(unit * rhs, AXIS) * k / e
            y = (b + w * spread(along * over, lane, TILE)) * spread(1.0 / (e + k), lane, TILE)
        y = tl.where(live, y, 0.0)
    elif METRIC:
        y = b / e
    else:
        y = b / spread(e, lane, TILE)
    return y


@triton.jit
def adjoint(b, w, point, d, ridge_level, l1_level, group_level, kappa_m, lift_m, open_group, lane,
            METRIC: tl.constexpr, COUPLED: tl.constexpr, RIDGE: tl.constexpr,
            GROUPED: tl.constexpr, ZEROS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """y = A^-1 b on the support of the groups w, which are `point` in blocked form: (lanes,).

    ZEROS says whether an entry that is 0 in an open group may move: "held" if l1 or the bound holds
    every one, "free" if nothing does, "either" if l1 differs between groups.
    """
    if METRIC:
        shift = on_lanes(ridge_level, lane, RIDGE, TILE)
        if COUPLED:
            shift += spread(kappa_m, lane, TILE)
    else:
        e = tl.full((TILE.groups,), 0.0, b.dtype) + (1.0 + ridge_level)
        if COUPLED:
            e += kappa_m
    if COUPLED:
        b += w * spread(lift_m, lane, TILE)
    if METRIC and GROUPED and TILE.groups == 1:
        y = adjoint_of_one(b, w, d, shift, only(l1_level), only(group_level),
                           only(open_group.to(tl.int32)) > 0, ZEROS)  # fmt: skip
    else:
        if METRIC:
            e = d + shift
        y = adjoint_of_groups(b, w, point, e, l1_level, group_level, open_group, lane, METRIC,
                              GROUPED, ZEROS, TILE)  # fmt: skip
    return y


@triton.jit
def store_strength_gradients(
    y, point, grad_l1, grad_group, grad_ridge, l1_scale, group_scale, ridge_scale, at, held,
    group_level, ACC: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Minus <sign(x), y>, <xh, y> and <x, y> of every group, times the scales."""
    AXIS: tl.constexpr = TILE.axis
    values = blocked(y, TILE)
    if grad_l1 is not None:
        sign = tl.where(point > 0.0, values, tl.where(point < 0.0, -values, 0.0))
        tl.store(grad_l1 + at, -l1_scale.to(ACC) * tl.sum(sign, AXIS), mask=held)
    if grad_group is not None:
        unit, _, _, _ = solved_groups(point, group_level, AXIS)
        tl.store(grad_group + at, -group_scale.to(ACC) * tl.sum(unit * values, AXIS), mask=held)
    if grad_ridge is not None:
        tl.store(grad_ridge + at, -ridge_scale.to(ACC) * tl.sum(point * values, AXIS), mask=held)


@triton.jit
def prox_backward_kernel(
    grad, x, v, metric, grad_v, grad_metric, grad_l1, grad_group, grad_ridge,
    l1, group, ridge, kappa, lift, alive,
    T, M, blocks, tasks,
    grad_t, grad_m, grad_c, x_t, x_m, x_c, v_t, v_m, v_c, metric_t, metric_m, metric_c,
    out_t, out_m, out_c, turn_t, turn_m, turn_c, l1_t, l1_m, group_t, group_m, ridge_t, ridge_m,
    l1_scale: tl.float64, group_scale: tl.float64, ridge_scale: tl.float64,
    TILE: tl.constexpr, L1: tl.constexpr, GROUP: tl.constexpr, RIDGE: tl.constexpr,
    GROUPED: tl.constexpr, ZEROS: tl.constexpr,
):  # fmt: skip
    """y = A^-1 grad on the support of x, and what follows from it for every input."""
    ACC: tl.constexpr = tl.float64 if TILE.double else tl.float32
    METRIC: tl.constexpr = metric is not None
    COUPLED: tl.constexpr = kappa is not None
    SUMMED: tl.constexpr = grad_l1 is not None or grad_group is not None or grad_ridge is not None
    t0, m0, limit, lane, m, held = place(tl.program_id(0), M, blocks, tasks, TILE)
    penalty = (
        (l1, l1_scale, l1_t, l1_m),
        (group, group_scale, group_t, group_m),
        (ridge, ridge_scale, ridge_t, ridge_m),
    )
    levels = levels_of_all(penalty, t0, m, held, ACC, L1, GROUP, RIDGE)
    kappa_m, lift_m, alive_m = 0.0, 0.0, held
    if COUPLED:
        kappa_m = tl.load(kappa + m, mask=held, other=0.0)
        lift_m = tl.load(lift + m, mask=held, other=0.0)
        alive_m = held & tl.load(alive + m, mask=held, other=0).to(tl.int1)
    for t in range(t0, tl.minimum(t0 + tasks, T)):
        levels = levels_of_task(levels, penalty, t, m, held, ACC, L1, GROUP, RIDGE)
        l1_level, group_level, ridge_level = levels
        b = load_tile(grad, t, m0, lane, limit, grad_t, grad_m, grad_c, 0.0, TILE)
        w = load_tile(x, t, m0, lane, limit, x_t, x_m, x_c, 0.0, TILE)
        d, point = 1.0, w
        if METRIC:
            d = load_tile(metric, t, m0, lane, limit, metric_t, metric_m, metric_c, 1.0, TILE)
        if GROUPED or SUMMED:
            point = blocked(w, TILE)
        y = adjoint(b, w, point, d, ridge_level, l1_level, group_level, kappa_m, lift_m, alive_m,
                    lane, METRIC, COUPLED, RIDGE, GROUPED, ZEROS, TILE)  # fmt: skip
        if grad_v is not None:
            y_v = y * d
            store_tile(grad_v, y_v, t, m0, lane, limit, out_t, out_m, out_c, TILE)
        if grad_metric is not None:
            moved = load_tile(v, t, m0, lane, limit, v_t, v_m, v_c, 0.0, TILE) - w
            store_tile(grad_metric, moved * y, t, m0, lane, limit, turn_t, turn_m, turn_c, TILE)
        if SUMMED:
            store_strength_gradients(
                y, point, grad_l1, grad_group, grad_ridge, l1_scale, group_scale, ridge_scale,
                t * M + m, held, group_level, ACC, TILE,
            )  # fmt: skip


@triton.jit
def feature_projections_kernel(
    grad, x, metric, group, ridge, theta, kappa, first_sum, second_sum,
    T, M, blocks, tasks,
    grad_t, grad_m, grad_c, x_t, x_m, x_c, metric_t, metric_m, metric_c,
    group_t, group_m, ridge_t, ridge_m,
    group_scale: tl.float64, ridge_scale: tl.float64,
    TILE: tl.constexpr, GROUP: tl.constexpr, RIDGE: tl.constexpr, GROUPED: tl.constexpr,
    UNIFORM: tl.constexpr,
):  # fmt: skip
    """Sums of a chunk of tasks for every feature, (chunks, M) in float64: `projections`.

    Without theta: ||x_m||^2, and x_m' grad where UNIFORM says that this is all it takes.
    """
    ACC: tl.constexpr = tl.float64 if TILE.double else tl.float32
    METRIC: tl.constexpr = metric is not None
    t0, m0, limit, lane, m, held = place(tl.program_id(0), M, blocks, tasks, TILE)
    first = tl.full((TILE.groups,), 0.0, tl.float64)
    second = tl.full((TILE.groups,), 0.0, tl.float64)
    group_of = (group, group_scale, group_t, group_m)
    ridge_of = (ridge, ridge_scale, ridge_t, ridge_m)
    group_level = strength_of_all(group_of, t0, m, held, ACC, GROUP)
    ridge_level = strength_of_all(ridge_of, t0, m, held, ACC, RIDGE)
    if theta is not None:
        theta_m = tl.load(theta + m, mask=held, other=1.0)
        kappa_m = tl.load(kappa + m, mask=held, other=0.0)
    for t in range(t0, tl.minimum(t0 + tasks, T)):
        block = blocked(load_tile(x, t, m0, lane, limit, x_t, x_m, x_c, 0.0, TILE), TILE)
        if theta is not None or UNIFORM:
            b = load_tile(grad, t, m0, lane, limit, grad_t, grad_m, grad_c, 0.0, TILE)
            rhs = blocked(b, TILE)
        if theta is None:
            norm = thresholded_norm(block, 0.0, TILE.axis, False)
            first += norm * norm
            if UNIFORM:
                unit, _, _, _ = solved_groups(block, group_level, TILE.axis)
                second += norm * tl.sum(unit * rhs, TILE.axis).to(tl.float64)
        else:
            group_level = strength_of_task(group_level, group_of, t, m, held, ACC, GROUP)
            ridge_level = strength_of_task(ridge_level, ridge_of, t, m, held, ACC, RIDGE)
            D = 1.0 + ridge_level
            if METRIC:
                d = load_tile(metric, t, m0, lane, limit, metric_t, metric_m, metric_c, 1.0, TILE)
                D = padded(d + on_lanes(ridge_level, lane, RIDGE, TILE), TILE)
            unit, k, over, some = solved_groups(block, group_level, TILE.axis)
            projection, slope = projections(
                unit, over, some, k, rhs, D, theta_m, kappa_m, METRIC, GROUPED, TILE
            )
            first += projection
            second += slope
    at = t0 // tasks * M + m
    tl.store(first_sum + at, first, mask=held)
    if theta is not None or UNIFORM:
        tl.store(second_sum + at, second, mask=held)


@triton.jit
def coupled_prox_backward_kernel(
    grad, x, v, metric, grad_v, grad_metric, grad_l1, grad_group, grad_ridge, grad_shared,
    l1, group, ridge, shared, T, M,
    grad_t, grad_m, grad_c, x_t, x_m, x_c, v_t, v_m, v_c, metric_t, metric_m, metric_c,
    out_t, out_m, out_c, turn_t, turn_m, turn_c, l1_t, l1_m, group_t, group_m, ridge_t, ridge_m,
    l1_scale: tl.float64, group_scale: tl.float64, ridge_scale: tl.float64,
    shared_scale: tl.float64,
    TILE: tl.constexpr, L1: tl.constexpr, GROUP: tl.constexpr, RIDGE: tl.constexpr,
    GROUPED: tl.constexpr, ZEROS: tl.constexpr,
):  # fmt: skip
    """`prox_backward_kernel` where all tasks of a few features fit in one tile, sums and all."""
    ACC: tl.constexpr = tl.float64 if TILE.double else tl.float32
    METRIC: tl.constexpr = metric is not None
    SUMMED: tl.constexpr = grad_l1 is not None or grad_group is not None or grad_ridge is not None
    m0, t, m, held = place_of_features(T, M, TILE)
    lane = tl.arange(0, TILE.lanes)
    b = load_features(grad, m0, T, M, grad_t, grad_m, grad_c, 0.0, TILE)
    w = load_features(x, m0, T, M, x_t, x_m, x_c, 0.0, TILE)
    l1_level = strength((l1, l1_scale, l1_t, l1_m), t, m, held, ACC, L1)
    group_level = strength((group, group_scale, group_t, group_m), t, m, held, ACC, GROUP)
    ridge_level = strength((ridge, ridge_scale, ridge_t, ridge_m), t, m, held, ACC, RIDGE)
    feature = m0 + tl.arange(0, TILE.filled // TILE.tasks)
    level = tl.load(shared + feature, mask=feature < M, other=0.0).to(tl.float64)
    d, D = 1.0, 1.0 + ridge_level
    if METRIC:
        d = load_features(metric, m0, T, M, metric_t, metric_m, metric_c, 1.0, TILE)
        D = padded(d + on_lanes(ridge_level, lane, RIDGE, TILE), TILE)
    point = blocked(w, TILE)
    norm = thresholded_norm(point, 0.0, TILE.axis, False)
    theta = tl.sqrt(over_tasks(norm * norm, False, TILE))
    kappa = tl.where(theta > 0.0, level / theta, 0.0)
    kappa_m = on_tasks(kappa.to(ACC), TILE)
    unit, k, over, some = solved_groups(point, group_level, TILE.axis)
    projection, slope = projections(unit, over, some, k, blocked(b, TILE), D,
                                    on_tasks(theta.to(ACC), TILE), kappa_m, METRIC, GROUPED,
                                    TILE)  # fmt: skip
    projection, slope = over_tasks(projection, False, TILE), over_tasks(slope, False, TILE)
    along = tl.where(slope > 0.0, projection / slope, 0.0)
    lift = tl.where(theta > 0.0, kappa * along / theta, 0.0)
    lift_m = on_tasks(lift.to(ACC), TILE)
    open_m = on_tasks(((theta > 0.0) | (level == 0.0)).to(tl.int32), TILE) > 0
    y = adjoint(b, w, point, d, ridge_level, l1_level, group_level, kappa_m, lift_m,
                held & open_m, lane, METRIC, True, RIDGE, GROUPED, ZEROS, TILE)  # fmt: skip
    if grad_v is not None:
        store_features(grad_v, y * d, m0, T, M, out_t, out_m, out_c, TILE)
    if grad_metric is not None:
        moved = load_features(v, m0, T, M, v_t, v_m, v_c, 0.0, TILE) - w
        store_features(grad_metric, moved * y, m0, T, M, turn_t, turn_m, turn_c, TILE)
    if grad_shared is not None:
        tl.store(grad_shared + feature, (-shared_scale * along).to(ACC), mask=feature < M)
    if SUMMED:
        store_strength_gradients(
            y, point, grad_l1, grad_group, grad_ridge, l1_scale, group_scale, ridge_scale,
            t * M + m, held, group_level, ACC, TILE,
        )  # fmt: skip
