"""Fits the heads of many tasks at once, and differentiates the solution."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsedis_kernels import arrays, backends, reference
from sparsedis_kernels.ops import _check
from sparsedis_kernels.ops._define import call, define, raw, raw_backward
from sparsedis_kernels.ops._samples import (
    PENALTY_SCHEMA,
    SAMPLES_SCHEMA,
    Samples,
    read_samples,
    refuse_bad,
    task_count,
)
from sparsedis_kernels.ops.fit_sharing import fit_sharing
from sparsedis_kernels.penalty import Penalty

NOT_CONVERGED, NOT_FINITE = 1, 2
# Relative gaps that leave objectives about equally accurate. For the others than squares the dual
# point is first order in the error, so a gap of 5e-3 is an error near 1e-4 of the objective.
DEFAULT_TOL = {"squared": 1e-4, "multinomial": 5e-3, "logistic": 5e-3}


class HeadsFit(NamedTuple):
    """The heads of T tasks, with a certificate for each.

    Attributes:
        weight: (T, M, C); entries off the support are exactly 0. Differentiable.
        bias: (T, C), 0 without an intercept, but for a class that a task does not have under the
            multinomial loss, whose bias is -inf all the same. Differentiable.
        gap: (T,), duality gap relative to the task's objective at zero weights; one number over all
            tasks where `shared` couples them; 0 for a task without samples. With `sharing`, that
            of the last reweighted problem, which is convex.
        n_iter: (T,) int32, passes plus Newton steps, of all solves.
        converged: (T,) bool, whether `gap` reached the tolerance.
    """

    weight: Tensor
    bias: Tensor
    gap: Tensor
    n_iter: Tensor
    converged: Tensor


def _fit_fake(z: Tensor, y: Tensor, offsets: Tensor | None, *_: Any) -> tuple[Tensor, ...]:
    T, M, C = task_count(z, y, offsets), z.shape[-1], y.shape[-1]
    n_iter = z.new_empty((T,), dtype=torch.int32)
    return (
        z.new_empty((T, M, C)),
        z.new_empty((T, C)),
        z.new_empty((T,)),
        n_iter,
        torch.empty_like(n_iter),
    )


def _backward_fake(
    grad_weight: Tensor, grad_bias: Tensor, weight: Tensor, z: Tensor, y: Tensor,
    offsets: Tensor | None, sample_weight: Tensor | None, loss: int, l1: Any, group: Any,
    shared: Any, ridge: Any, scale: list[float], nonneg: bool, fit_intercept: bool,
    needs: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    T, M, _ = weight.shape
    samples = (0,) if sample_weight is None else sample_weight.shape
    shapes = [z.shape, y.shape, samples, (T, M), (T, M), (M,), (T, M)]
    return arrays.outputs(z, shapes, needs)


def _check_status(status: Tensor, tol: float, raise_on_error: bool) -> Tensor:
    converged = status == 0
    if bool(converged.all()):
        return converged
    if raise_on_error:
        remedy = "; on_error='flag' marks such tasks and fits the others"
        refuse_bad("fit_heads", status == NOT_FINITE, remedy)
    open_tasks = int((status == NOT_CONVERGED).sum())
    if open_tasks:
        warnings.warn(
            f"fit_heads: {open_tasks} of {status.numel()} tasks did not reach tol={tol:g}; see "
            "HeadsFit.gap, and raise max_iter or tol",
            RuntimeWarning,
            stacklevel=3,  # the caller of fit_heads
        )
    return converged


define(
    f"fit_heads({SAMPLES_SCHEMA}, {PENALTY_SCHEMA}, bool fit_intercept, Tensor? init, float tol, "
    "int max_iter) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.fit_heads,
    fake=_fit_fake,
)
define(
    f"fit_heads_backward(Tensor grad_weight, Tensor grad_bias, Tensor weight, {SAMPLES_SCHEMA}, "
    f"{PENALTY_SCHEMA}, bool fit_intercept, bool[] needs) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.fit_heads_backward,
    fake=_backward_fake,
)
# The check reads the status on the host. As an op it keeps its place in a compiled graph.
define(
    "check_status(Tensor status, float tol, bool raise_on_error) -> Tensor",
    reference=_check_status,
    fake=lambda status, *_: torch.empty_like(status, dtype=torch.bool),
    autocast=False,
    native=False,
)


class _FitHeads(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        ns: str, z: Tensor, y: Tensor, offsets: Tensor | None, sample_weight: Tensor | None,
        loss: int, l1: Tensor | None, group: Tensor | None, shared: Tensor | None,
        ridge: Tensor | None, scale: list[float], nonneg: bool, fit_intercept: bool,
        init: Tensor | None, tol: float, max_iter: int,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        return raw(ns, "fit_heads")(
            z, y, offsets, sample_weight, loss, l1, group, shared, ridge, scale, nonneg,
            fit_intercept, init, tol, max_iter,
        )  # fmt: skip

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.ns, ctx.loss = inputs[0], inputs[5]
        ctx.numbers = inputs[10:13]  # scale, nonneg, fit_intercept
        ctx.save_for_backward(output[0], *inputs[1:5], *inputs[6:10])
        ctx.mark_non_differentiable(*output[2:])

    @staticmethod
    def backward(
        ctx: Any, grad_weight: Tensor, grad_bias: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, ...]:
        weight, z, y, offsets, sample_weight, *penalty = ctx.saved_tensors
        needs_z, needs_y, _, needs_weight, _, *rest = ctx.needs_input_grad[1:10]
        needs = [needs_z, needs_y, needs_weight, *rest]
        grads = raw_backward(
            ctx.ns, "fit_heads", grad_weight, grad_bias, weight, z, y, offsets, sample_weight,
            ctx.loss, *penalty, *ctx.numbers, needs,
        )  # fmt: skip
        grad_z, grad_y, grad_s, *others = arrays.wanted(grads, needs)
        return None, grad_z, grad_y, None, grad_s, None, *others, *6 * [None]


def fit_heads(
    z: Tensor,
    y: Tensor,
    penalty: Penalty,
    *,
    loss: str = "squared",
    offsets: Tensor | None = None,
    sample_weight: Tensor | None = None,
    fit_intercept: bool = True,
    init: Tensor | None = None,
    n_classes: int | None = None,
    tol: float | None = None,
    max_iter: int = 10_000,
    on_error: str = "raise",
    backend: str | None = None,
) -> HeadsFit:
    r"""Linear heads of T tasks under a nested group-sparse penalty, each solved to a certified gap.

    .. math::
        \min_{W, b} \sum_t \frac{1}{S_t} \sum_i s_{ti}\, \ell(z_{ti} W_t + b_t;\, y_{ti})
        + \Omega(W), \qquad S_t = \sum_i s_{ti}

    Without `penalty.shared` the tasks are independent. The loss of scores u is

    - ``"squared"``: :math:`\frac{1}{2} \|u - y\|^2`;
    - ``"multinomial"``: :math:`\log \sum_c e^{u_c} - \langle y, u \rangle`, y a distribution over
      classes or a class index. A class without weight in a task is not one of its classes: weights
      0, bias -inf. So tasks may differ in their number of classes. Biases have sum 0.
    - ``"logistic"``: :math:`\sum_c \log(1 + e^{u_c}) - y_c u_c`, y_c in [0, 1]: outputs by
      themselves. With an intercept an output that is 0 (or 1) throughout a task gets weights 0 and
      the bias -inf (or inf).

    Squares: ridge alone is solved by one Cholesky factor of the smaller side; sparse penalties by
    block coordinate descent on a working set and Newton steps on the support, stopped by the
    duality gap. Other losses by passes over a quadratic bound of the loss (Boehning, 1992), which
    find the support, and Newton steps by conjugate gradients on it, the bias exact at every point;
    coupled by `shared`, by passes alone. Gradients come from implicit differentiation on the
    support. A feature that nothing penalises gets a ridge of 1e-6 (float64: 1e-10) of its squared
    norm, so that the problem has a solution also where classes are separable. It is unique but for
    multinomial l1 alone, where adding a number to all classes of a feature may cost nothing.

    `penalty.sharing` adds sharing T H(p(W)), T times the strength times the entropy of feature
    usage over all tasks (floored; `feature_usage`), which is not convex. Convex problems with
    reweighted l1 are then solved, each from the last, while the whole objective falls by more than
    min(tol, 1e-4) of its value at zero weights: it never rises, but no minimum is certified, not
    even a local one. `gap` certifies the last reweighted problem. The gradient is that of the fixed
    point of the reweighting, also in `sharing`; where it was stopped before, that at a constant
    distance from one. Tasks marked by ``on_error="flag"`` count neither in H nor in T; tasks
    without samples, whose weights are 0, count in T.

    Args:
        z: features. Dense (T, n, M); one design for all tasks (n, M); ragged (N, M) with `offsets`;
            or a jagged nested tensor. Floating; half precision is computed in float32.
        y: targets: (T, n, C), (T, n, C), (N, C), or jagged nested. For the multinomial loss also
            class indices: integers without the last axis. Its distributions may sum to 1 up to
            0.01, as half precision leaves them, and are divided by their sum.
        penalty: the regulariser.
        loss: ``"squared"``, ``"multinomial"`` or ``"logistic"``. Default ``"squared"``.
        offsets: (T + 1,) int64, the first row of each task, with the end. Default None.
        sample_weight: weights >= 0 of y's rows: (T, n), (N,), jagged nested, or for one design also
            (n,). Default: all equal.
        fit_intercept: fit an unpenalised bias per output. Default True.
        init: warm start (T, M, C), such as the weights of the previous training step; with
            `penalty.nonneg` what is below 0 starts at 0. Not differentiated. Default None.
        n_classes: C for class indices. Default: the largest index plus one, which waits for y.
        tol: relative duality gap at which a task stops. Default 1e-4 for squares, else 5e-3, which
            is an error of the objective near 1e-4.
        max_iter: most passes plus Newton steps per task. Default 10,000.
        on_error: ``"raise"``, or ``"flag"``: a task with NaN or infinity gets NaN weights and
            ``converged`` False, and the others are what they are without it. Default ``"raise"``.
        backend: ``"cpu"``, ``"cuda"``, ``"reference"`` or None: the environment variable
            ``SPARSEDIS_BACKEND``, else the best there is. Default None.

    Returns:
        HeadsFit; `weight` and `bias` are differentiable in z, y, sample_weight and every tensor
        strength. A task without samples, or with only zero weights, gets weight and bias 0.

    Raises:
        ValueError: shapes or offsets that do not fit, an unknown `loss` or `on_error`, `tol` or
            `max_iter` that is not >= 0, or a bad task (named): NaN, infinity, a negative sample
            weight, or a target that is no distribution (multinomial) or not in [0, 1] (logistic).
        TypeError: z or sample_weight is not floating, y is neither that nor class indices for the
            multinomial loss, or offsets are not int64.
        RuntimeError: `backend` cannot serve the tensors' device or the loss, or a second
            derivative is taken.

    Warns:
        RuntimeWarning: some tasks did not reach `tol` (their number is given).
    """
    if on_error not in ("raise", "flag"):
        raise ValueError(f"fit_heads: on_error={on_error!r}, expected 'raise' or 'flag'")
    samples = read_samples("fit_heads", z, y, offsets, sample_weight, loss, n_classes)
    tol = DEFAULT_TOL[loss] if tol is None else tol
    _check.tolerance("fit_heads", tol)
    if max_iter < 0:
        raise ValueError(f"fit_heads: max_iter must be >= 0, got {max_iter}")
    convex = replace(penalty, sharing=0.0) if penalty.shares else penalty
    numbers = convex.strengths("fit_heads", (samples.T, samples.M), samples.z)
    ns = samples.namespace("fit_heads", backend)
    strengths = (*numbers.tensors, numbers.scale, numbers.nonneg, fit_intercept)
    options = (_warm_start(samples, init, penalty.nonneg), tol, max_iter)
    if penalty.shares:
        sharing = torch.as_tensor(penalty.sharing, dtype=samples.z.dtype, device=samples.z.device)
        solution = fit_sharing(ns, *samples.args, *strengths, sharing, *options)
    else:
        solution = call(_FitHeads, ns, *samples.args, *strengths, *options)
    weight, bias, gap, n_iter, status = solution[:5]
    # As an op the check costs as much as a small fit.
    check = _check_status if arrays.plain(status) else raw(backends.AUTOMATIC, "check_status")
    converged = check(status, tol, on_error == "raise")
    return HeadsFit(weight.to(samples.dtype), bias.to(samples.dtype), gap, n_iter, converged)


def _warm_start(s: Samples, init: Tensor | None, nonneg: bool) -> Tensor | None:
    if init is None:
        return None
    _check.same_shape("fit_heads", "init", init, "(T, M, C)", (s.T, s.M, s.C))
    init = init.detach().to(s.z.dtype)
    return init.clamp_min(0) if nonneg else init  # where the penalty is finite
