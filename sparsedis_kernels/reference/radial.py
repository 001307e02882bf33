"""Proximal operators of group MCP, group SCAD and group L0, and their derivatives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsedis_kernels.reference.prox import norm
from sparsedis_kernels.reference.strengths import safe_reciprocal

MCP, SCAD, L0 = 0, 1, 2


class Profile(NamedTuple):
    """The shrunk radius h(r) and its partial derivatives, all (T, M, 1)."""

    value: Tensor
    d_radius: Tensor
    d_strength: Tensor
    d_step: Tensor
    d_shape: Tensor


def dead_profile(r: Tensor) -> Profile:
    """h = 0."""
    return Profile(*(torch.zeros_like(r),) * 5)


def identity_profile(r: Tensor) -> Profile:
    """h = r."""
    zero = torch.zeros_like(r)
    return Profile(r, torch.ones_like(r), zero, zero, zero)


def soft_profile(r: Tensor, strength: Tensor, step: Tensor) -> Profile:
    """h = r - step strength."""
    return Profile(r - step * strength, torch.ones_like(r), -step, -strength, torch.zeros_like(r))


def mcp_middle(r: Tensor, strength: Tensor, step: Tensor, gamma: Tensor) -> Profile:
    """h = (r - step strength)/(1 - step/gamma)."""
    gain = 1 / (1 - step / gamma)
    value = gain * (r - step * strength)
    d_step = gain * (value / gamma - strength)
    return Profile(value, gain, -gain * step, d_step, -gain * value * step / gamma.square())


def scad_middle(r: Tensor, strength: Tensor, step: Tensor, a: Tensor) -> Profile:
    """h = ((a - 1) r - step a strength)/(a - 1 - step)."""
    span = a - 1 - step
    value = ((a - 1) * r - step * a * strength) / span
    d_step = (a - 1) * (r - a * strength) / span.square()
    d_shape = step * (strength * (1 + step) - r) / span.square()
    return Profile(value, (a - 1) / span, -step * a / span, d_step, d_shape)


def select(condition: Tensor, yes: Profile, no: Profile) -> Profile:
    """Choose a branch elementwise."""
    pairs = zip(yes, no, strict=True)
    return Profile(*(torch.where(condition, first, second) for first, second in pairs))


def profile(r: Tensor, strength: Tensor, step: Tensor, shape: Tensor, kind: int) -> Profile:
    """h(r) and its derivatives for one of the three penalties.

    A group that no strength acts on keeps the identity, so that its gradient at v = 0 is right.
    """
    threshold = step * strength
    if kind == L0:
        dead = (r <= (2 * threshold).sqrt()) & (threshold > 0)
        return select(dead, dead_profile(r), identity_profile(r))
    dead = (r <= threshold) & (threshold > 0)
    if kind == MCP:
        shrunk = mcp_middle(r, strength, step, shape)
    else:
        soft = soft_profile(r, strength, step)
        shrunk = select(r <= strength * (1 + step), soft, scad_middle(r, strength, step, shape))
    alive = select(r >= shape * strength, identity_profile(r), shrunk)
    return select(dead, dead_profile(r), alive)


def radial_prox(v: Tensor, strength: Tensor, step: Tensor, shape: Tensor, kind: int) -> Tensor:
    """Minimise 1/2 ||x - v||^2 + step pen(||x_tm||) per group; v is (T, M, C), the rest (T, M).

    With r = ||v_tm||, lam = `strength`, eta = `step`, x = v h(r)/r:
    kind 0, group MCP (Zhang 2010), gamma = `shape` > eta: h = 0 for r <= eta lam,
    (r - eta lam)/(1 - eta/gamma) for r <= gamma lam, else r.
    kind 1, group SCAD (Fan and Li 2001), a = `shape` > 1 + eta: h = (r - eta lam)_+ for
    r <= lam (1 + eta), ((a - 1) r - eta a lam)/(a - 1 - eta) for r <= a lam, else r.
    kind 2, group L0: v where ||v||^2 > 2 eta lam, else 0.
    """
    r = norm(v, (2,))
    result = profile(r, strength[:, :, None], step[:, :, None], shape[:, :, None], kind)
    # Where h = r the group passes unchanged, bit for bit.
    return v * torch.where(result.value == r, 1, result.value / r)


def radial_prox_backward(
    grad: Tensor, v: Tensor, strength: Tensor, step: Tensor, shape: Tensor, kind: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vector-Jacobian product of `radial_prox`: (T, M, C) and three of (T, M).

    With vh = v/r and a = <vh, grad>: grad_v = h/r (grad - a vh) + h' a vh, and a times the
    partial derivative of h for strength, step and shape.
    """
    r = norm(v, (2,))
    result = profile(r, strength[:, :, None], step[:, :, None], shape[:, :, None], kind)
    unit = v * safe_reciprocal(r)
    along = (unit * grad).sum(2, keepdim=True)
    ratio = torch.where(r == 0, result.d_radius, result.value / r)
    grad_v = ratio * grad + (result.d_radius - ratio) * along * unit
    scalars = (along * d for d in (result.d_strength, result.d_step, result.d_shape))
    grad_strength, grad_step, grad_shape = (s.squeeze(2) for s in scalars)
    return grad_v, grad_strength, grad_step, grad_shape
