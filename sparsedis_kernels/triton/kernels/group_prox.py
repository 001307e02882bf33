"""The standalone proxes of a group: MCP, SCAD, L0 and L-infinity.

A program solves the groups of a tile in registers: every input is read once, every output written
once.
"""

import triton
import triton.language as tl

from sparsedis_kernels.triton.kernels.groups import (
    blocked,
    divide,
    levels_of_all,
    levels_of_task,
    load_tile,
    on_lanes,
    place,
    root,
    scaled_norm,
    spread,
    store_tile,
    strength_of_all,
    strength_of_task,
)

# ---- penalties of the norm


@triton.jit
def radial_profile(r, lam, eta, shape, KIND: tl.constexpr):
    """The shrunk radius h(r) and its derivatives for r, lam, eta and shape: five of (groups,).

    As in `sparsedis_kernels.reference.radial.profile`; NaN stays NaN.
    """
    threshold = eta * lam
    if KIND == "l0":
        dead = (r <= root(2.0 * threshold)) & (threshold > 0.0)
        zero = tl.zeros_like(r)
        return tl.where(dead, 0.0, r), tl.where(dead, 0.0, 1.0), zero, zero, zero
    else:
        # A group that no strength acts on keeps the identity, so that its gradient is right at 0.
        dead = (r <= threshold) & (threshold > 0.0)
        whole = r >= shape * lam
        if KIND == "mcp":
            slope = divide(shape, shape - eta)
            value = slope * (r - threshold)
            d_lam = -slope * eta
            d_eta = slope * (divide(value, shape) - lam)
            d_shape = -slope * value * divide(eta, shape * shape)
        else:
            span = shape - 1.0 - eta
            soft = r <= lam * (1.0 + eta)
            slope = divide(shape - 1.0, span)
            value = tl.where(soft, r - threshold, slope * r - shape * divide(threshold, span))
            d_lam = tl.where(soft, -eta, -eta * divide(shape, span))
            d_eta = tl.where(soft, -lam, slope * divide(r - shape * lam, span))
            excess = r - lam * (1.0 + eta)
            d_shape = tl.where(soft, 0.0, -divide(eta, span * span) * excess)
            slope = tl.where(soft, 1.0, slope)
        value = tl.where(dead, 0.0, tl.where(whole, r, value))
        slope = tl.where(dead, 0.0, tl.where(whole, 1.0, slope))
        flat = dead | whole
        d_lam, d_eta = tl.where(flat, 0.0, d_lam), tl.where(flat, 0.0, d_eta)
        return value, slope, d_lam, d_eta, tl.where(flat, 0.0, d_shape)


@triton.jit
def shrinkage(r, value, slope):
    """h(r)/r, exactly 1 where h = r, and h'(0) at r = 0."""
    return tl.where(r == 0.0, slope, tl.where(value == r, 1.0, divide(value, r)))


@triton.jit
def radial_prox_kernel(
    v, x, lam, eta, shape, T, M, blocks, tasks,
    v_t, v_m, v_c, x_t, x_m, x_c, lam_t, lam_m, eta_t, eta_m, shape_t, shape_m,
    TILE: tl.constexpr, LAM: tl.constexpr, ETA: tl.constexpr, SHAPE: tl.constexpr,
    KIND: tl.constexpr,
):  # fmt: skip
    """x = v h(r)/r with r the norm of a group."""
    ACC: tl.constexpr = tl.float64 if TILE.double else tl.float32
    one = tl.full((), 1.0, ACC)
    t0, m0, limit, lane, m, held = place(tl.program_id(0), M, blocks, tasks, TILE)
    sources = (
        (lam, one, lam_t, lam_m),
        (eta, one, eta_t, eta_m),
        (shape, one, shape_t, shape_m),
    )
    levels = levels_of_all(sources, t0, m, held, ACC, LAM, ETA, SHAPE)
    for t in range(t0, tl.minimum(t0 + tasks, T)):
        levels = levels_of_task(levels, sources, t, m, held, ACC, LAM, ETA, SHAPE)
        lam_tm, eta_tm, shape_tm = levels
        u = load_tile(v, t, m0, lane, limit, v_t, v_m, v_c, 0.0, TILE)
        size, scale, _ = scaled_norm(blocked(u, TILE), TILE.axis)
        r = size * scale
        value, slope, _, _, _ = radial_profile(r, lam_tm, eta_tm, shape_tm, KIND)
        y = u * spread(shrinkage(r, value, slope), lane, TILE)
        store_tile(x, y, t, m0, lane, limit, x_t, x_m, x_c, TILE)


@triton.jit
def radial_prox_backward_kernel(
    grad, v, grad_v, lam, eta, shape, grad_lam, grad_eta, grad_shape, T, M, blocks, tasks,
    grad_t, grad_m, grad_c, v_t, v_m, v_c, out_t, out_m, out_c,
    lam_t, lam_m, eta_t, eta_m, shape_t, shape_m,
    TILE: tl.constexpr, LAM: tl.constexpr, ETA: tl.constexpr, SHAPE: tl.constexpr,
    KIND: tl.constexpr,
):  # fmt: skip
    """With a = <v, grad>/r: grad_v = h/r grad + (h' - h/r) a v/r, and a times h's derivatives."""
    ACC: tl.constexpr = tl.float64 if TILE.double else tl.float32
    one = tl.full((), 1.0, ACC)
    t0, m0, limit, lane, m, held = place(tl.program_id(0), M, blocks, tasks, TILE)
    sources = (
        (lam, one, lam_t, lam_m),
        (eta, one, eta_t, eta_m),
        (shape, one, shape_t, shape_m),
    )
    levels = levels_of_all(sources, t0, m, held, ACC, LAM, ETA, SHAPE)
    for t in range(t0, tl.minimum(t0 + tasks, T)):
        levels = levels_of_task(levels, sources, t, m, held, ACC, LAM, ETA, SHAPE)
        lam_tm, eta_tm, shape_tm = levels
        g = load_tile(grad, t, m0, lane, limit, grad_t, grad_m, grad_c, 0.0, TILE)
        u = load_tile(v, t, m0, lane, limit, v_t, v_m, v_c, 0.0, TILE)
        block = blocked(u, TILE)
        size, scale, inverse = scaled_norm(block, TILE.axis)
        r = size * scale
        value, slope, d_lam, d_eta, d_shape = radial_profile(r, lam_tm, eta_tm, shape_tm, KIND)
        ratio = shrinkage(r, value, slope)
        size = tl.where(size == 0.0, 1.0, size)
        scaled = block * tl.expand_dims(inverse, TILE.axis)
        along = divide(tl.sum(blocked(g, TILE) * scaled, TILE.axis), size)
        bend = divide((slope - ratio) * along, size) * inverse
        y = spread(ratio, lane, TILE) * g + spread(bend, lane, TILE) * u
        store_tile(grad_v, y, t, m0, lane, limit, out_t, out_m, out_c, TILE)
        at = t * M + m
        tl.store(grad_lam + at, (along * d_lam).to(grad_lam.dtype.element_ty), mask=held)
        tl.store(grad_eta + at, (along * d_eta).to(grad_eta.dtype.element_ty), mask=held)
        tl.store(grad_shape + at, (along * d_shape).to(grad_shape.dtype.element_ty), mask=held)


# ---- the L-infinity norm


@triton.jit
def raised(tau, size, weight, level, AXIS: tl.constexpr):
    """A Newton step on sum d (|v| - tau)_+ = level from below the root; NaN once it meets one."""
    over = tl.expand_dims(tau, AXIS)
    # Not `size > over`: NaN counts.
    above = ~(size <= over)
    excess = tl.sum(tl.where(above, weight * (size - over), 0.0), AXIS)
    total = tl.sum(tl.where(above, weight + tl.zeros_like(size), 0.0), AXIS)
    tau_next = tau + divide(excess - level, total)
    return tl.where((total == 0.0) | (tau_next <= tau), tau, tau_next)


@triton.jit
def clip_level(size, weight, level, TILE: tl.constexpr):
    """tau >= 0 with sum d (|v| - tau)_+ = level, 0 if there is none, inf at level 0: (groups,).

    The function is convex and piecewise linear: Newton's method climbs from 0 to its root in at
    most C steps, and each is exact on the entries above it.
    """
    level = level + tl.zeros_like(tl.max(size, TILE.axis))
    tau = tl.where(level <= 0.0, float("inf"), 0.0).to(size.dtype)
    if TILE.C == 1:
        tau = raised(tau, size, weight, level, TILE.axis)
    else:
        step = 0
        rising = 1
        while (rising > 0) & (step <= TILE.C):
            below = tau
            tau = raised(below, size, weight, level, TILE.axis)
            rising = tl.max((tau > below).to(tl.int32), 0)
            step += 1
    return tau


@triton.jit
def linf_prox_kernel(
    v, metric, x, strength_of, T, M, blocks, tasks,
    v_t, v_m, v_c, metric_t, metric_m, metric_c, x_t, x_m, x_c, level_t, level_m,
    TILE: tl.constexpr, LEVEL: tl.constexpr,
):  # fmt: skip
    """x = sign(v) min(|v|, tau)."""
    ACC: tl.constexpr = tl.float64 if TILE.double else tl.float32
    one = tl.full((), 1.0, ACC)
    t0, m0, limit, lane, m, held = place(tl.program_id(0), M, blocks, tasks, TILE)
    level_of = (strength_of, one, level_t, level_m)
    level = strength_of_all(level_of, t0, m, held, ACC, LEVEL)
    for t in range(t0, tl.minimum(t0 + tasks, T)):
        level = strength_of_task(level, level_of, t, m, held, ACC, LEVEL)
        u = load_tile(v, t, m0, lane, limit, v_t, v_m, v_c, 0.0, TILE)
        if metric is not None:
            d = load_tile(metric, t, m0, lane, limit, metric_t, metric_m, metric_c, 0.0, TILE)
            weight = blocked(d, TILE)
        else:
            weight = 1.0
        tau = spread(clip_level(tl.abs(blocked(u, TILE)), weight, level, TILE), lane, TILE)
        y = tl.where(tau == tau, tl.minimum(tl.maximum(u, -tau), tau), tau)
        store_tile(x, y, t, m0, lane, limit, x_t, x_m, x_c, TILE)


@triton.jit
def linf_prox_backward_kernel(
    grad, v, x, metric, grad_v, grad_metric, strength_of, grad_strength, T, M, blocks, tasks,
    grad_t, grad_m, grad_c, v_t, v_m, v_c, x_t, x_m, x_c, metric_t, metric_m, metric_c,
    out_t, out_m, out_c, pull_t, pull_m, pull_c, level_t, level_m,
    TILE: tl.constexpr, LEVEL: tl.constexpr,
):  # fmt: skip
    """With s = sum_P sign(v) grad / sum_P d over the clipped set P: d sign(v) s on P, else grad."""
    ACC: tl.constexpr = tl.float64 if TILE.double else tl.float32
    one = tl.full((), 1.0, ACC)
    t0, m0, limit, lane, m, held = place(tl.program_id(0), M, blocks, tasks, TILE)
    level_of = (strength_of, one, level_t, level_m)
    level = strength_of_all(level_of, t0, m, held, ACC, LEVEL)
    for t in range(t0, tl.minimum(t0 + tasks, T)):
        level = strength_of_task(level, level_of, t, m, held, ACC, LEVEL)
        g = load_tile(grad, t, m0, lane, limit, grad_t, grad_m, grad_c, 0.0, TILE)
        u = load_tile(v, t, m0, lane, limit, v_t, v_m, v_c, 0.0, TILE)
        y = load_tile(x, t, m0, lane, limit, x_t, x_m, x_c, 0.0, TILE)
        if metric is not None:
            d = load_tile(metric, t, m0, lane, limit, metric_t, metric_m, metric_c, 0.0, TILE)
        else:
            d = tl.full((TILE.lanes,), 1.0, ACC)
        tau = tl.max(blocked(tl.abs(y), TILE), TILE.axis)
        clipped = tl.abs(y) == spread(tau, lane, TILE)
        along = tl.where(u > 0.0, g, tl.where(u < 0.0, -g, 0.0))
        pull = tl.sum(blocked(tl.where(clipped, along, 0.0), TILE), TILE.axis)
        weight = tl.sum(blocked(tl.where(clipped, d, 0.0), TILE), TILE.axis)
        idle = (weight == 0.0) | ((level > 0.0) & (tau == 0.0))
        slope = tl.where(idle, 0.0, divide(pull, weight))
        if grad_v is not None:
            s = spread(slope, lane, TILE)
            bent = d * tl.where(u > 0.0, s, tl.where(u < 0.0, -s, 0.0))
            acts = clipped & (on_lanes(level, lane, LEVEL, TILE) > 0.0)
            value = tl.where(acts, bent, g)
            store_tile(grad_v, value, t, m0, lane, limit, out_t, out_m, out_c, TILE)
        if grad_metric is not None:
            value = tl.where(clipped, tl.abs(u - y) * spread(slope, lane, TILE), 0.0)
            value = value
            store_tile(grad_metric, value, t, m0, lane, limit, pull_t, pull_m, pull_c, TILE)
        if grad_strength is not None:
            value = (-slope).to(grad_strength.dtype.element_ty)
            tl.store(grad_strength + t * M + m, value, mask=held)
