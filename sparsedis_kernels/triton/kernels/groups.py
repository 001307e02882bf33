"""Device functions that the kernels share: tiles of whole groups, their norms and their roots.

Memory sees a tile flat, as `TILE.lanes` consecutive elements, so that accesses are 16 bytes wide
for any C. Sums over groups see it blocked, with one axis of groups and one, `TILE.axis`, of
entries. Where C is not a power of two a gather in shared memory goes from one form to the other.
"""

import triton
import triton.language as tl


@triton.jit
def divide(a, b):
    """a / b, correctly rounded."""
    if a.dtype == tl.float32:
        return tl.div_rn(a, b)
    else:
        return a / b


@triton.jit
def root(a):
    """The square root, correctly rounded."""
    if a.dtype == tl.float32:
        return tl.sqrt_rn(a)
    else:
        return tl.sqrt(a)


# ---- tiles


@triton.jit
def place(program, M, blocks, tasks, TILE: tl.constexpr):
    """(first task, first feature, lanes with an entry, lane, feature, whether it exists)."""
    if TILE.single:
        t0, block = tl.full((), 0, tl.int64), program
    else:
        t0, block = (program // blocks).to(tl.int64) * tasks, program % blocks
    m0 = block.to(tl.int64) * TILE.filled
    if TILE.filled == 1:
        limit = TILE.C  # a constant
    else:
        limit = tl.minimum(M - m0, TILE.filled).to(tl.int32) * TILE.C
    m = m0 + tl.arange(0, TILE.groups)
    return t0, m0, limit, tl.arange(0, TILE.lanes), m, m < tl.minimum(M, m0 + TILE.filled)


@triton.jit
def group_of(lane, TILE: tl.constexpr):
    """The group of every flat lane; exact while a tile has fewer than 2^22 lanes."""
    if TILE.C == 1:
        return lane
    else:
        return ((lane.to(tl.float32) + 0.5) * (1.0 / TILE.C)).to(tl.int32)


@triton.jit
def offsets(lane, stride_m, stride_c, TILE: tl.constexpr):
    """Where the flat lanes of a tile lie, from its first element: (lanes,)."""
    if TILE.dense:
        return lane
    else:
        group = group_of(lane, TILE)
        return group.to(tl.int64) * stride_m + (lane - group * TILE.C).to(tl.int64) * stride_c


@triton.jit
def address(pointer, t, m, lane, stride_t, stride_m, stride_c, TILE: tl.constexpr):
    """Where the flat lanes of the tile of task t and features m on lie: (lanes,)."""
    at = pointer + t * stride_t + m * stride_m + offsets(lane, stride_m, stride_c, TILE)
    if TILE.vector > 1:
        at = tl.multiple_of(at, 16)
    return at


@triton.jit
def load_tile(
    pointer, t, m, lane, limit, stride_t, stride_m, stride_c, other, TILE: tl.constexpr
):  # fmt: skip
    """The tile of task t and features m on as it is computed in, `other` from `limit`: (lanes,)."""
    at = address(pointer, t, m, lane, stride_t, stride_m, stride_c, TILE)
    if TILE.vector == 1:
        value = tl.load(at, mask=lane < limit, other=other)
    elif limit % TILE.vector == 0:
        # A mask that is constant over 16 bytes keeps the access 16 bytes wide.
        value = tl.load(at, mask=lane // TILE.vector < limit // TILE.vector, other=other)
    else:
        value = tl.load(at, mask=lane < limit, other=other)
    return value.to(tl.float64 if TILE.double else tl.float32)


@triton.jit
def store_tile(
    pointer, value, t, m, lane, limit, stride_t, stride_m, stride_c, TILE: tl.constexpr
):  # fmt: skip
    """Write the first `limit` lanes of the tile of task t and features m on."""
    at = address(pointer, t, m, lane, stride_t, stride_m, stride_c, TILE)
    value = value.to(pointer.dtype.element_ty)
    if TILE.vector == 1:
        tl.store(at, value, mask=lane < limit)
    elif limit % TILE.vector == 0:
        tl.store(at, value, mask=lane // TILE.vector < limit // TILE.vector)
    else:
        tl.store(at, value, mask=lane < limit)


@triton.jit
def place_of_features(T, M, TILE: tl.constexpr):
    """Where the groups of a tile of all tasks lie: (first feature, task, feature, whether it is).

    Such a tile has `TILE.filled // TILE.tasks` features, task after task.
    """
    FEATURES: tl.constexpr = TILE.filled // TILE.tasks
    group = tl.arange(0, TILE.groups)
    m0 = tl.program_id(0).to(tl.int64) * FEATURES
    t, m = (group // FEATURES).to(tl.int64), m0 + group % FEATURES
    return m0, t, m, (t < T) & (m < M)


@triton.jit
def address_of_features(pointer, m0, T, M, stride_t, stride_m, stride_c, TILE: tl.constexpr):
    """(address, whether there is an entry) for the flat lanes of a tile of all tasks: (lanes,)."""
    ROW: tl.constexpr = TILE.filled // TILE.tasks * TILE.C
    VECTOR: tl.constexpr = TILE.vector
    lane = tl.arange(0, TILE.lanes)
    # In units of whole accesses, so that what is known of a unit is known of its 16 bytes.
    unit = lane // VECTOR
    t = unit // (ROW // VECTOR)
    within = unit - t * (ROW // VECTOR)
    held = (t < T) & (within < (M - m0) * TILE.C // VECTOR)
    entry = within * VECTOR + lane % VECTOR
    if TILE.dense:
        at = pointer + t.to(tl.int64) * stride_t + m0 * stride_m + entry
    else:
        m = entry // TILE.C
        at = pointer + t.to(tl.int64) * stride_t + (m0 + m) * stride_m
        at += (entry - m * TILE.C).to(tl.int64) * stride_c
    if TILE.vector > 1:
        BYTES: tl.constexpr = VECTOR * pointer.dtype.element_ty.primitive_bitwidth // 8
        at = tl.max_contiguous(tl.multiple_of(at, 16 if BYTES > 16 else BYTES), VECTOR)
    return at, held


@triton.jit
def load_features(pointer, m0, T, M, stride_t, stride_m, stride_c, other, TILE: tl.constexpr):
    """All tasks of the features from m0 on as they are computed in, `other` elsewhere: (lanes,)."""
    at, held = address_of_features(pointer, m0, T, M, stride_t, stride_m, stride_c, TILE)
    return tl.load(at, mask=held, other=other).to(tl.float64 if TILE.double else tl.float32)


@triton.jit
def store_features(pointer, value, m0, T, M, stride_t, stride_m, stride_c, TILE: tl.constexpr):
    """Write all tasks of the features from m0 on."""
    at, held = address_of_features(pointer, m0, T, M, stride_t, stride_m, stride_c, TILE)
    tl.store(at, value.to(pointer.dtype.element_ty), mask=held)


@triton.jit
def over_tasks(value, MAXIMUM: tl.constexpr, TILE: tl.constexpr):
    """Sum, or maximum, of a value per group over the tasks of a tile of all tasks: (features,)."""
    table = tl.reshape(value, (TILE.tasks, TILE.filled // TILE.tasks))
    return tl.max(table, 0) if MAXIMUM else tl.sum(table, 0)


@triton.jit
def on_tasks(value, TILE: tl.constexpr):
    """A value per feature on the groups of a tile of all tasks: (groups,)."""
    wide = tl.broadcast_to(value[None, :], (TILE.tasks, TILE.filled // TILE.tasks))
    return tl.reshape(wide, (TILE.groups,))


@triton.jit
def blocked(flat, TILE: tl.constexpr):
    """Flat (lanes,) as (groups, entries), or (entries, groups) if TILE.axis is 0; padding is 0."""
    if TILE.groups == 1:
        return tl.reshape(flat, (1, TILE.lanes))
    elif TILE.axis == 1:
        return tl.reshape(flat, (TILE.groups, TILE.entries))
    else:
        entry = tl.arange(0, TILE.entries)[:, None]
        lane = tl.arange(0, TILE.groups)[None, :] * TILE.C + entry
        held = (entry < TILE.C) & (lane < TILE.lanes)
        index = tl.reshape(tl.where(held, lane, 0), (TILE.entries * TILE.groups,))
        block = tl.reshape(tl.gather(flat, index, 0), (TILE.entries, TILE.groups))
        return tl.where(held, block, 0.0)


@triton.jit
def padded(diagonal, TILE: tl.constexpr):
    """A positive diagonal in blocked form, 1 in padding."""
    block = blocked(diagonal, TILE)
    return tl.where(block > 0.0, block, 1.0)


@triton.jit
def spread(value, lane, TILE: tl.constexpr):
    """A value per group, (groups,), on the flat lanes of its entries: (lanes,)."""
    if TILE.groups == TILE.lanes:
        return value
    elif TILE.groups == 1:
        # A scalar has no layout. That of a vector of one would give every thread all lanes.
        return tl.sum(value, 0)
    elif TILE.axis == 1:
        wide = tl.broadcast_to(value[:, None], (TILE.groups, TILE.entries))
        return tl.reshape(wide, (TILE.lanes,))
    else:
        return tl.gather(value, tl.minimum(group_of(lane, TILE), TILE.groups - 1), 0)


@triton.jit
def only(value):
    """The value of a tile's only group, a scalar already or (1,)."""
    return tl.sum(tl.full((1,), 0, value.dtype) + value, 0)


# ---- strengths: each has a source, the tuple (data, scale, stride over T, stride over M)


@triton.jit
def strength(source, t, m, held, ACC: tl.constexpr, FORM: tl.constexpr):
    """scale * data[t, m], or `scale` itself: one number, or one per group of the tile."""
    data, scale, stride_t, stride_m = source
    if FORM == "number":
        return scale.to(ACC)
    elif FORM == "scalar":
        return scale.to(ACC) * tl.load(data).to(ACC)
    elif FORM == "task":
        return scale.to(ACC) * tl.load(data + t * stride_t).to(ACC)
    else:
        at = data + t * stride_t + m * stride_m
        return scale.to(ACC) * tl.load(at, mask=held, other=0.0).to(ACC)


@triton.jit
def strength_of_all(source, t, m, held, ACC: tl.constexpr, FORM: tl.constexpr):
    """The strength that tasks share; where they do not, something of the same shape."""
    if FORM == "task":
        return source[1].to(ACC)
    elif FORM == "both":
        return tl.full(m.shape, 0.0, ACC)
    else:
        return strength(source, t, m, held, ACC, FORM)


@triton.jit
def strength_of_task(level, source, t, m, held, ACC: tl.constexpr, FORM: tl.constexpr):
    """The strength at task t, which is `level` already where tasks share it."""
    if FORM == "number" or FORM == "scalar" or FORM == "feature":
        return level
    else:
        return strength(source, t, m, held, ACC, FORM)


@triton.jit
def levels_of_all(sources, t, m, held, ACC: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
                  C: tl.constexpr):  # fmt: skip
    """`strength_of_all` of three strengths, in the forms A, B and C."""
    return (
        strength_of_all(sources[0], t, m, held, ACC, A),
        strength_of_all(sources[1], t, m, held, ACC, B),
        strength_of_all(sources[2], t, m, held, ACC, C),
    )


@triton.jit
def levels_of_task(levels, sources, t, m, held, ACC: tl.constexpr, A: tl.constexpr,
                   B: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """`strength_of_task` of three strengths, from their `levels_of_all`."""
    return (
        strength_of_task(levels[0], sources[0], t, m, held, ACC, A),
        strength_of_task(levels[1], sources[1], t, m, held, ACC, B),
        strength_of_task(levels[2], sources[2], t, m, held, ACC, C),
    )


@triton.jit
def on_lanes(level, lane, FORM: tl.constexpr, TILE: tl.constexpr):
    """A strength on the flat lanes; one number stays one."""
    if FORM == "number" or FORM == "scalar" or FORM == "task":
        return level
    else:
        return spread(level, lane, TILE)


# ---- thresholds and norms


@triton.jit
def soft_threshold(v, level, NONNEG: tl.constexpr):
    """sign(v) (|v| - level)_+, or its part >= 0. NaN stays NaN."""
    if NONNEG:
        inside = tl.minimum(v, level)
    else:
        inside = tl.minimum(tl.maximum(v, -level), level)
    # Where v is a product the difference may be fused with it, and would not be 0 inside.
    return tl.where(inside == v, 0.0, v - inside)


@triton.jit
def binary_scale(largest):
    """(s, 1/s), s the power of two below `largest`: dividing by it rounds nothing."""
    if largest.dtype == tl.float32:
        bits = largest.to(tl.int32, bitcast=True) & 0x7F800000
        bits = tl.minimum(tl.maximum(bits, 0x00800000), 0x7E800000)  # 2^-126 to 2^126
        inverse = 0x7F000000 - bits
    else:
        bits = largest.to(tl.int64, bitcast=True) & 0x7FF0000000000000
        bits = tl.minimum(tl.maximum(bits, 0x0010000000000000), 0x7FD0000000000000)
        inverse = 0x7FE0000000000000 - bits
    dtype: tl.constexpr = largest.dtype
    return bits.to(dtype, bitcast=True), inverse.to(dtype, bitcast=True)


@triton.jit
def scaled_square(block, AXIS: tl.constexpr):
    """(n, s, 1/s) with ||group||^2 = n s^2: squares neither overflow nor vanish; (groups,) each."""
    scale, inverse = binary_scale(tl.max(tl.abs(block), AXIS))
    scaled = block * tl.expand_dims(inverse, AXIS)
    return tl.sum(scaled * scaled, AXIS), scale, inverse


@triton.jit
def scaled_norm(block, AXIS: tl.constexpr):
    """(n, s, 1/s) with ||group|| = n s; (groups,) each."""
    square, scale, inverse = scaled_square(block, AXIS)
    return root(square), scale, inverse


@triton.jit
def beyond(square, size, level):
    """||u|| - level, of the right sign also where ||u|| rounds to the level; NaN if level is inf.

    size = ||u|| is the root of square. A norm is rounded once more than its square is, which would
    make ties, and ties are all on one side.
    """
    near = divide(tl.fma(-level, level, square), tl.where(size > 0.0, size + level, 1.0))
    return tl.where(size > 2.0 * level, size - level, near)


@triton.jit
def thresholded_norm(block, level, AXIS: tl.constexpr, GROUPED: tl.constexpr):
    """(||group|| - level)_+, or ||group|| if nothing groups, in float64; NaN stays NaN."""
    square, scale, inverse = scaled_square(block, AXIS)
    size = root(square)
    if GROUPED:
        excess = beyond(square, size, level * inverse)
        size = tl.where(excess > 0.0, excess, tl.where(size != size, size, 0.0))
    return size.to(tl.float64) * scale.to(tl.float64)


@triton.jit
def secular_radius(u, diagonal, level, TILE: tl.constexpr):
    """r >= 0 with sum_i (u_i / (D_i r + level))^2 = 1, or 0 where ||u|| <= level: (groups,).

    The reciprocal Newton iteration (Hebden 1973; More and Sorensen 1983) climbs to the root from
    the larger of two lower bounds: (||u|| - level) / max D and max (|u_i| - level) / D_i.
    `u` is scaled, so that its squares are safe; D > 0 in padding too.
    """
    AXIS: tl.constexpr = TILE.axis
    square = tl.sum(u * u, AXIS)
    size = root(square)
    excess = beyond(square, size, level)
    wide = tl.expand_dims(level, AXIS)
    single = tl.max((tl.abs(u) - wide) / diagonal, AXIS)
    radius = tl.maximum(excess / tl.max(diagonal, AXIS), single)
    live = excess > 0.0
    radius = tl.where(live, radius, 0.0)
    for _ in range(TILE.newton_steps):
        inverse = 1.0 / (diagonal * tl.expand_dims(radius, AXIS) + wide)
        q = u * inverse
        q = q * q
        t = tl.sum(q, AXIS)
        s = tl.sum(q * diagonal * inverse, AXIS)
        step = t * (root(t) - 1.0) / s
        radius = tl.where(live & (step > 0.0), radius + step, radius)
    return tl.where(size != size, size, radius)


# ---- one group of the prox


@triton.jit
def plain_factor(block, level, curvature, AXIS: tl.constexpr):
    """(1 - level/||u||)_+ / D of groups whose quadratic is uniform; NaN stays NaN: (groups,)."""
    square, _, inverse = scaled_square(block, AXIS)
    size = root(square)
    excess = beyond(square, size, level * inverse)
    factor = divide(excess, size * curvature)
    return tl.where(excess > 0.0, factor, tl.where(size != size, size, 0.0))


@triton.jit
def pull(u_block, diagonal, level, TILE: tl.constexpr):
    """level / ||x||, infinite where x is 0, for x = argmin 1/2 x'Dx + level ||x|| - u'x: (groups,).

    The solution is x = u / (D + level/||x||).
    """
    _, inverse = binary_scale(tl.max(tl.abs(u_block), TILE.axis))
    scaled = u_block * tl.expand_dims(inverse, TILE.axis)
    radius = secular_radius(scaled, diagonal, level * inverse, TILE)
    # Without a level there is no pull, also on a group that is zero.
    return tl.where(level == 0.0, radius * 0.0, level * inverse / radius)


@triton.jit
def threshold_entries(u, l1_level, group_level, lane, L1: tl.constexpr, GROUP: tl.constexpr,
                      GROUPED: tl.constexpr, NONNEG: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """The levels of single entries: l1, and the group's where a group is one entry; (lanes,)."""
    u = soft_threshold(u, on_lanes(l1_level, lane, L1, TILE), NONNEG)
    if GROUPED and TILE.C == 1:
        u = soft_threshold(u, on_lanes(group_level, lane, GROUP, TILE), False)
    return u


@triton.jit
def solve_groups(u, curvature, group_level, lane, METRIC: tl.constexpr, CURVATURE: tl.constexpr,
                 GROUPED: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """x = argmin 1/2 x'Dx + group ||x|| - u'x for every group of a tile: (lanes,).

    u comes from `threshold_entries`, so that groups of one entry have met their level. The
    curvature D is (lanes,) if METRIC, else uniform in a group, in the form CURVATURE.
    """
    if not GROUPED or TILE.C == 1:
        if METRIC:
            x = u / curvature
        else:
            x = divide(u, on_lanes(curvature, lane, CURVATURE, TILE))
    elif METRIC and TILE.groups == 1:
        # A long group fills the registers: what is kept of it is kept once, in scaled form.
        curvature = tl.where(curvature > 0.0, curvature, 1.0)
        scale, inverse = binary_scale(tl.max(tl.abs(u), 0))
        u *= inverse
        level = tl.full((1,), 0.0, u.dtype) + only(group_level) * inverse
        radius = secular_radius(blocked(u, TILE), blocked(curvature, TILE), level, TILE)
        k = tl.where(level == 0.0, radius * 0.0, level / radius)
        x = 1.0 / (curvature + spread(k, lane, TILE)) * u * scale
    elif METRIC:
        k = pull(blocked(u, TILE), padded(curvature, TILE), group_level, TILE)
        x = 1.0 / (curvature + spread(k, lane, TILE)) * u
    else:
        factor = plain_factor(blocked(u, TILE), group_level, curvature, TILE.axis)
        x = u * spread(factor, lane, TILE)
    return x
