"""Optimiser steps that end in the prox: every array is read once and written once.

A launch takes many tensors: a program finds its own in the tables of pointers and sizes that are
the kernel's arguments. The number of the step lies on the device, so that a step can be captured.
"""

import triton
import triton.language as tl

from sparsedis_kernels.triton.kernels.groups import (
    load_tile,
    on_lanes,
    place,
    root,
    solve_groups,
    store_tile,
    strength_of_all,
    strength_of_task,
    threshold_entries,
)


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
    w_data, g_data, M = chosen(weights, starts), chosen(grads, starts), chosen(sizes, starts)
    if buffers is not None:
        b_data = chosen(buffers, starts)
        if PROX:
            summed = gradients_summed(chosen(steps, starts), momentum, NESTEROV)
            l1_scale *= summed
            group_scale *= summed
            ridge_scale *= summed
    M = number(M)
    program = tl.program_id(0) - number(chosen(starts, starts))
    t0, m0, limit, lane, m, held = place(program, M, tl.cdiv(M, TILE.filled), tasks, TILE)
    l1_level = strength_of_all(l1, l1_scale, t0, m, held, l1_t, l1_m, ACC, L1)
    group_level = strength_of_all(group, group_scale, t0, m, held, group_t, group_m, ACC, GROUP)
    ridge_level = strength_of_all(ridge, ridge_scale, t0, m, held, ridge_t, ridge_m, ACC, RIDGE)
    for t in range(t0, tl.minimum(t0 + tasks, T)):
        w = load_tile(w_data, t, m0, lane, limit, w_t, w_m, w_c, 0.0, TILE)
        direction = load_tile(g_data, t, m0, lane, limit, g_t, g_m, g_c, 0.0, TILE)
        direction += decay.to(ACC) * w
        if buffers is not None:
            b = load_tile(b_data, t, m0, lane, limit, b_t, b_m, b_c, 0.0, TILE)
            b = momentum.to(ACC) * b + direction
            store_tile(b_data, b, t, m0, lane, limit, b_t, b_m, b_c, TILE)
            if NESTEROV:
                direction += momentum.to(ACC) * b
            else:
                direction = b
        w -= lr.to(ACC) * direction
        if PROX:
            l1_level = strength_of_task(l1_level, l1, l1_scale, t, m, held, l1_t, l1_m, ACC, L1)
            group_level = strength_of_task(
                group_level, group, group_scale, t, m, held, group_t, group_m, ACC, GROUP
            )
            ridge_level = strength_of_task(
                ridge_level, ridge, ridge_scale, t, m, held, ridge_t, ridge_m, ACC, RIDGE
            )
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
    k = tl.load(chosen(steps, starts)).to(tl.float64)
    rate = (lr / (1.0 - tl.exp(k * tl.log(beta1)))).to(ACC)
    correction = (1.0 / tl.sqrt(1.0 - tl.exp(k * tl.log(beta2)))).to(ACC)
    M = number(M)
    program = tl.program_id(0) - number(chosen(starts, starts))
    t0, m0, limit, lane, m, held = place(program, M, tl.cdiv(M, TILE.filled), tasks, TILE)
    l1_level = strength_of_all(l1, l1_scale, t0, m, held, l1_t, l1_m, ACC, L1)
    group_level = strength_of_all(group, group_scale, t0, m, held, group_t, group_m, ACC, GROUP)
    ridge_level = strength_of_all(ridge, ridge_scale, t0, m, held, ridge_t, ridge_m, ACC, RIDGE)
    for t in range(t0, tl.minimum(t0 + tasks, T)):
        w = load_tile(w_data, t, m0, lane, limit, w_t, w_m, w_c, 0.0, TILE)
        g = load_tile(g_data, t, m0, lane, limit, g_t, g_m, g_c, 0.0, TILE)
        first = load_tile(first_data, t, m0, lane, limit, first_t, first_m, first_c, 0.0, TILE)
        second = load_tile(second_data, t, m0, lane, limit, second_t, second_m, second_c, 0.0, TILE)
        first += (1.0 - beta1).to(ACC) * (g - first)
        second = beta2.to(ACC) * second + (1.0 - beta2).to(ACC) * g * g
        store_tile(first_data, first, t, m0, lane, limit, first_t, first_m, first_c, TILE)
        store_tile(second_data, second, t, m0, lane, limit, second_t, second_m, second_c, TILE)
        d = root(second) * correction + eps.to(ACC)
        w *= (1.0 - lr * decay).to(ACC)
        if metrics is not None:
            w -= rate * first / d
            store_tile(metric_data, d, t, m0, lane, limit, metric_t, metric_m, metric_c, TILE)
        else:
            l1_level = strength_of_task(l1_level, l1, l1_scale, t, m, held, l1_t, l1_m, ACC, L1)
            group_level = strength_of_task(
                group_level, group, group_scale, t, m, held, group_t, group_m, ACC, GROUP
            )
            ridge_level = strength_of_task(
                ridge_level, ridge, ridge_scale, t, m, held, ridge_t, ridge_m, ACC, RIDGE
            )
            u = d * w - rate * first
            u = threshold_entries(u, l1_level, group_level, lane, L1, GROUP, GROUPED, NONNEG, TILE)
            w = solve_groups(u, d + on_lanes(ridge_level, lane, RIDGE, TILE), group_level, lane,
                             True, RIDGE, GROUPED, TILE)  # fmt: skip
        store_tile(w_data, w, t, m0, lane, limit, w_t, w_m, w_c, TILE)
