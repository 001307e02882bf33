"""Optimiser steps that end in the prox: every array is read once and written once.

A launch takes many tensors: a program finds its own in the tables of pointers and sizes that are
the kernel's arguments. The number of the step lies on the device, so that a step can be captured.
"""

import triton
import triton.language as tl

from sparsedis_kernels.triton.kernels.groups import (
    levels_of_all,
    levels_of_task,
    load_features,
    load_tile,
    on_lanes,
    place,
    place_of_features,
    root,
    solve_groups,
    store_features,
    store_tile,
    strength,
    threshold_entries,
)
from sparsedis_kernels.triton.kernels.prox import solve_features


@triton.jit
def number(coded):
    """An integer that came as 16 n + 3, on which a launch does not specialise the kernel."""
    return coded >> 4


@triton.jit
def chosen(table, starts):
    """The item of the tensor to which this program belongs: starts are the tensors' programs."""
    item = table[0]
    for i in tl.static_range(1, len(table)):
        item = tl.where(tl.program_id(0) >= number(starts[i]), table[i], item)
    return item


@triton.jit
def gradients_summed(step, momentum, NESTEROV: tl.constexpr):
    """1 + momentum + ... + momentum^(k-1) at step k, one term more with Nesterov's momentum."""
    k = tl.load(step).to(tl.float64)
    if NESTEROV:
        k += 1.0
    return (1.0 - tl.exp(k * tl.log(momentum))) / (1.0 - momentum)


@triton.jit
def sgd_direction(w, g, b, momentum, decay, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr):
    """(direction, new buffer), the latter of no meaning without MOMENTUM: (lanes,) each."""
    direction = g + decay * w
    if MOMENTUM:
        b = momentum * b + direction
        if NESTEROV:
            direction += momentum * b
        else:
            direction = b
    return direction, b


@triton.jit
def adamw_rates(step, lr, beta1, beta2):
    """(lr over the first bias correction, 1 over the root of the second), in float64."""
    k = tl.load(step).to(tl.float64)
    rate = lr / (1.0 - tl.exp(k * tl.log(beta1)))
    return rate, 1.0 / tl.sqrt(1.0 - tl.exp(k * tl.log(beta2)))


@triton.jit
def adamw_moments(g, first, second, beta1, beta2, correction, eps, ACC: tl.constexpr):
    """(first moment, second moment, metric d): (lanes,) each."""
    first += (1.0 - beta1).to(ACC) * (g - first)
    second = beta2.to(ACC) * second + (1.0 - beta2).to(ACC) * g * g
    return first, second, root(second) * correction + eps.to(ACC)


@triton.jit
def prox_sgd_kernel(
    weights, grads, buffers, steps, sizes, starts, l1, group, ridge,
    T, tasks,
    w_t, w_m, w_c, g_t, g_m, g_c, b_t, b_m, b_c,
    l1_t, l1_m, group_t, group_m, ridge_t, ridge_m,
    l1_scale: tl.float64, group_scale: tl.float64, ridge_scale: tl.float64,
    lr: tl.float64, momentum: tl.float64, decay: tl.float64,
    TILE: tl.constexpr, L1: tl.constexpr, GROUP: tl.constexpr, RIDGE: tl.constexpr,
    GROUPED: tl.constexpr, NONNEG: tl.constexpr, NESTEROV: tl.constexpr, PROX: tl.constexpr,
):  # fmt: skip
    """b = momentum b + g + decay w, w = prox(w - lr b)."""
    ACC: tl.constexpr = tl.float64 if TILE.double else tl.float32
    MOMENTUM: tl.constexpr = buffers is not None
    w_data, g_data, M = chosen(weights, starts), chosen(grads, starts), chosen(sizes, starts)
    if MOMENTUM:
        b_data = chosen(buffers, starts)
        if PROX:
            summed = gradients_summed(chosen(steps, starts), momentum, NESTEROV)
            l1_scale *= summed
            group_scale *= summed
            ridge_scale *= summed
    M = number(M)
    program = tl.program_id(0) - number(chosen(starts, starts))
    t0, m0, limit, lane, m, held = place(program, M, tl.cdiv(M, TILE.filled), tasks, TILE)
    penalty = (
        (l1, l1_scale, l1_t, l1_m),
        (group, group_scale, group_t, group_m),
        (ridge, ridge_scale, ridge_t, ridge_m),
    )
    levels = levels_of_all(penalty, t0, m, held, ACC, L1, GROUP, RIDGE)
    for t in range(t0, tl.minimum(t0 + tasks, T)):
        w = load_tile(w_data, t, m0, lane, limit, w_t, w_m, w_c, 0.0, TILE)
        g = load_tile(g_data, t, m0, lane, limit, g_t, g_m, g_c, 0.0, TILE)
        b = g
        if MOMENTUM:
            b = load_tile(b_data, t, m0, lane, limit, b_t, b_m, b_c, 0.0, TILE)
        direction, b = sgd_direction(w, g, b, momentum.to(ACC), decay.to(ACC), MOMENTUM, NESTEROV)
        if MOMENTUM:
            store_tile(b_data, b, t, m0, lane, limit, b_t, b_m, b_c, TILE)
        w -= lr.to(ACC) * direction
        if PROX:
            levels = levels_of_task(levels, penalty, t, m, held, ACC, L1, GROUP, RIDGE)
            l1_level, group_level, ridge_level = levels
            u = threshold_entries(w, l1_level, group_level, lane, L1, GROUP, GROUPED, NONNEG, TILE)
            w = solve_groups(u, 1.0 + ridge_level, group_level, lane, False, RIDGE, GROUPED, TILE)
        store_tile(w_data, w, t, m0, lane, limit, w_t, w_m, w_c, TILE)


@triton.jit
def prox_adamw_kernel(
    weights, grads, firsts, seconds, metrics, steps, sizes, starts, l1, group, ridge,
    T, tasks,
    w_t, w_m, w_c, g_t, g_m, g_c, first_t, first_m, first_c, second_t, second_m, second_c,
    metric_t, metric_m, metric_c, l1_t, l1_m, group_t, group_m, ridge_t, ridge_m,
    l1_scale: tl.float64, group_scale: tl.float64, ridge_scale: tl.float64,
    lr: tl.float64, beta1: tl.float64, beta2: tl.float64, eps: tl.float64, decay: tl.float64,
    TILE: tl.constexpr, L1: tl.constexpr, GROUP: tl.constexpr, RIDGE: tl.constexpr,
    GROUPED: tl.constexpr, NONNEG: tl.constexpr,
):  # fmt: skip
    """Both moments, then w = argmin_x 1/2 sum d (x - v)^2 + levels, v being AdamW's weight.

    With `metrics` d is written there and w = v: the prox is left to another kernel.
    """
    ACC: tl.constexpr = tl.float64 if TILE.double else tl.float32
    w_data, g_data, M = chosen(weights, starts), chosen(grads, starts), chosen(sizes, starts)
    first_data, second_data = chosen(firsts, starts), chosen(seconds, starts)
    if metrics is not None:
        metric_data = chosen(metrics, starts)
    rate, correction = adamw_rates(chosen(steps, starts), lr, beta1, beta2)
    rate, correction = rate.to(ACC), correction.to(ACC)
    M = number(M)
    program = tl.program_id(0) - number(chosen(starts, starts))
    t0, m0, limit, lane, m, held = place(program, M, tl.cdiv(M, TILE.filled), tasks, TILE)
    penalty = (
        (l1, l1_scale, l1_t, l1_m),
        (group, group_scale, group_t, group_m),
        (ridge, ridge_scale, ridge_t, ridge_m),
    )
    levels = levels_of_all(penalty, t0, m, held, ACC, L1, GROUP, RIDGE)
    for t in range(t0, tl.minimum(t0 + tasks, T)):
        w = load_tile(w_data, t, m0, lane, limit, w_t, w_m, w_c, 0.0, TILE)
        g = load_tile(g_data, t, m0, lane, limit, g_t, g_m, g_c, 0.0, TILE)
        first = load_tile(first_data, t, m0, lane, limit, first_t, first_m, first_c, 0.0, TILE)
        second = load_tile(second_data, t, m0, lane, limit, second_t, second_m, second_c, 0.0, TILE)
        first, second, d = adamw_moments(g, first, second, beta1, beta2, correction, eps, ACC)
        store_tile(first_data, first, t, m0, lane, limit, first_t, first_m, first_c, TILE)
        store_tile(second_data, second, t, m0, lane, limit, second_t, second_m, second_c, TILE)
        w *= (1.0 - lr * decay).to(ACC)
        if metrics is not None:
            w -= rate * first / d
            store_tile(metric_data, d, t, m0, lane, limit, metric_t, metric_m, metric_c, TILE)
        else:
            levels = levels_of_task(levels, penalty, t, m, held, ACC, L1, GROUP, RIDGE)
            l1_level, group_level, ridge_level = levels
            u = d * w - rate * first
            u = threshold_entries(u, l1_level, group_level, lane, L1, GROUP, GROUPED, NONNEG, TILE)
            w = solve_groups(u, d + on_lanes(ridge_level, lane, RIDGE, TILE), group_level, lane,
                             True, RIDGE, GROUPED, TILE)  # fmt: skip
        store_tile(w_data, w, t, m0, lane, limit, w_t, w_m, w_c, TILE)


@triton.jit
def coupled_prox_sgd_kernel(
    weight, grad, buffer, step, l1, group, ridge, shared, T, M,
    w_t, w_m, w_c, g_t, g_m, g_c, b_t, b_m, b_c,
    l1_t, l1_m, group_t, group_m, ridge_t, ridge_m,
    l1_scale: tl.float64, group_scale: tl.float64, ridge_scale: tl.float64,
    lr: tl.float64, momentum: tl.float64, decay: tl.float64,
    TILE: tl.constexpr, L1: tl.constexpr, GROUP: tl.constexpr, RIDGE: tl.constexpr,
    GROUPED: tl.constexpr, NONNEG: tl.constexpr, NESTEROV: tl.constexpr, UNIFORM: tl.constexpr,
):  # fmt: skip
    """`prox_sgd_kernel` with the shared level, for all tasks of a few features of one weight."""
    ACC: tl.constexpr = tl.float64 if TILE.double else tl.float32
    MOMENTUM: tl.constexpr = buffer is not None
    m0, t, m, held = place_of_features(T, M, TILE)
    lane = tl.arange(0, TILE.lanes)
    w = load_features(weight, m0, T, M, w_t, w_m, w_c, 0.0, TILE)
    g = load_features(grad, m0, T, M, g_t, g_m, g_c, 0.0, TILE)
    b, summed = g, tl.full((), 1.0, tl.float64)
    if MOMENTUM:
        b = load_features(buffer, m0, T, M, b_t, b_m, b_c, 0.0, TILE)
        summed = gradients_summed(step, momentum, NESTEROV)
    direction, b = sgd_direction(w, g, b, momentum.to(ACC), decay.to(ACC), MOMENTUM, NESTEROV)
    if MOMENTUM:
        store_features(buffer, b, m0, T, M, b_t, b_m, b_c, TILE)
    l1_level = strength((l1, l1_scale * summed, l1_t, l1_m), t, m, held, ACC, L1)
    group_level = strength((group, group_scale * summed, group_t, group_m), t, m, held, ACC, GROUP)
    ridge_level = strength((ridge, ridge_scale * summed, ridge_t, ridge_m), t, m, held, ACC, RIDGE)
    u = threshold_entries(
        w - lr.to(ACC) * direction, l1_level, group_level, lane, L1, GROUP, GROUPED, NONNEG, TILE
    )
    x = solve_features(u, 1.0, ridge_level, group_level, shared, summed, m0, M, held, False, RIDGE,
                       GROUPED, UNIFORM, TILE)  # fmt: skip
    store_features(weight, x, m0, T, M, w_t, w_m, w_c, TILE)


@triton.jit
def coupled_prox_adamw_kernel(
    weight, grad, exp_avg, exp_avg_sq, step, l1, group, ridge, shared, T, M,
    w_t, w_m, w_c, g_t, g_m, g_c, first_t, first_m, first_c, second_t, second_m, second_c,
    l1_t, l1_m, group_t, group_m, ridge_t, ridge_m,
    l1_scale: tl.float64, group_scale: tl.float64, ridge_scale: tl.float64,
    lr: tl.float64, beta1: tl.float64, beta2: tl.float64, eps: tl.float64, decay: tl.float64,
    TILE: tl.constexpr, L1: tl.constexpr, GROUP: tl.constexpr, RIDGE: tl.constexpr,
    GROUPED: tl.constexpr, NONNEG: tl.constexpr,
):  # fmt: skip
    """`prox_adamw_kernel` with the shared level, for all tasks of a few features of one weight."""
    ACC: tl.constexpr = tl.float64 if TILE.double else tl.float32
    m0, t, m, held = place_of_features(T, M, TILE)
    lane = tl.arange(0, TILE.lanes)
    rate, correction = adamw_rates(step, lr, beta1, beta2)
    rate, correction = rate.to(ACC), correction.to(ACC)
    w = load_features(weight, m0, T, M, w_t, w_m, w_c, 0.0, TILE)
    g = load_features(grad, m0, T, M, g_t, g_m, g_c, 0.0, TILE)
    first = load_features(exp_avg, m0, T, M, first_t, first_m, first_c, 0.0, TILE)
    second = load_features(exp_avg_sq, m0, T, M, second_t, second_m, second_c, 0.0, TILE)
    first, second, d = adamw_moments(g, first, second, beta1, beta2, correction, eps, ACC)
    store_features(exp_avg, first, m0, T, M, first_t, first_m, first_c, TILE)
    store_features(exp_avg_sq, second, m0, T, M, second_t, second_m, second_c, TILE)
    l1_level = strength((l1, l1_scale, l1_t, l1_m), t, m, held, ACC, L1)
    group_level = strength((group, group_scale, group_t, group_m), t, m, held, ACC, GROUP)
    ridge_level = strength((ridge, ridge_scale, ridge_t, ridge_m), t, m, held, ACC, RIDGE)
    u = d * ((1.0 - lr * decay).to(ACC) * w) - rate * first
    u = threshold_entries(u, l1_level, group_level, lane, L1, GROUP, GROUPED, NONNEG, TILE)
    x = solve_features(u, d, ridge_level, group_level, shared, 1.0, m0, M, held, True, RIDGE,
                       GROUPED, False, TILE)  # fmt: skip
    store_features(weight, x, m0, T, M, w_t, w_m, w_c, TILE)
