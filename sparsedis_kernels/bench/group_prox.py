"""The standalone proxes of a group: MCP, SCAD, L0 and L-infinity, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sparsedis_kernels import ops
from sparsedis_kernels.bench.case import Case, function_case, shapes_of

STRENGTH, GAMMA, A = 1.0, 3.0, 3.7


def cases(op: str, device_type: str, quick: bool) -> Iterator[Case]:
    """Both directions at every shape."""
    function = getattr(ops, op)
    functions: dict[str, Callable[..., Tensor]] = {
        "ours": lambda v: function(v, STRENGTH),
        "reference": lambda v: function(v, STRENGTH, backend="reference"),
        "torch eager": EAGER[op],
    }
    for shape in shapes_of(device_type, quick):
        yield function_case(op, "", shape, "forward", functions, arrays=2)
        yield function_case(op, "", shape, "backward", functions, arrays=3)


def _norm(v: Tensor) -> Tensor:
    return v.norm(dim=2, keepdim=True).clamp(min=1e-30)


def mcp(v: Tensor) -> Tensor:
    """MCP in plain PyTorch."""
    r = _norm(v)
    inside = v * (1 - STRENGTH / r).clamp(min=0) / (1 - 1 / GAMMA)
    return torch.where(r <= GAMMA * STRENGTH, inside, v)


def scad(v: Tensor) -> Tensor:
    """SCAD in plain PyTorch."""
    r = _norm(v)
    soft = v * (1 - STRENGTH / r).clamp(min=0)
    middle = v * ((A - 1) - A * STRENGTH / r) / (A - 2)
    return torch.where(r <= 2 * STRENGTH, soft, torch.where(r <= A * STRENGTH, middle, v))


def l0(v: Tensor) -> Tensor:
    """Hard thresholding of groups in plain PyTorch."""
    return torch.where(v.square().sum(dim=2, keepdim=True) > 2 * STRENGTH, v, 0)


def linf(v: Tensor) -> Tensor:
    """L-infinity in plain PyTorch: v less its projection onto the l1 ball (Duchi et al. 2008)."""
    size = v.abs()
    ordered = size.sort(dim=2, descending=True).values
    rank = torch.arange(1, v.shape[2] + 1, device=v.device, dtype=v.dtype)
    level = (ordered.cumsum(dim=2) - STRENGTH) / rank
    tau = level.amax(dim=2, keepdim=True).clamp(min=0)
    return torch.minimum(size, tau).copysign(v)


EAGER = {"prox_mcp": mcp, "prox_scad": scad, "prox_l0": l0, "prox_linf": linf}
