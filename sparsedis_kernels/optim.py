"""Stochastic optimisers that end each step with the exact prox of a `Penalty`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.optimizer import Optimizer, ParamsT
from torch.optim.sgd import sgd

from sparsedis_kernels.ops import prox_adamw_, prox_sgd_
from sparsedis_kernels.penalty import Penalty

__all__ = ["ProxAdamW", "ProxSGD"]


class _Proximal(Optimizer):
    """What both optimisers share: groups with a penalty, and the loop over groups."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its ``penalty`` (default: the optimiser's) needs weights with T, M axes.

        Raises:
            ValueError: an option of the group is out of range, or it has a penalty and a parameter
                is neither (T, M, C) nor (T, M).
        """
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def _check_group(self, group: dict[str, Any]) -> None:
        for name in ("lr", "weight_decay"):
            if not group[name] >= 0:
                raise ValueError(f"{type(self).__name__}: {name} must be >= 0, got {group[name]}")
        shapes = [tuple(p.shape) for p in group["params"] if p.dim() not in (2, 3)]
        if group["penalty"] is not None and shapes:
            raise ValueError(
                f"{type(self).__name__}: params with a penalty must have shape (T, M, C) or "
                f"(T, M), got {shapes[0]}; give other parameters a group with penalty=None"
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on every parameter that has a gradient; the others keep their values.

        Args:
            closure: reevaluates the model and returns the loss. Default None.

        Returns:
            What the closure returned, else None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for pairs in _alike(group["params"]):
                params, grads = map(list, zip(*pairs, strict=True))
                self._update(group, params, grads)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; step counters come to the device of their parameter."""
        super().load_state_dict(state_dict)
        for p, state in self.state.items():
            state["step"] = torch.as_tensor(state["step"], dtype=torch.float32, device=p.device)

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        raise NotImplementedError

    def _buffers(self, params: list[Tensor], name: str) -> list[Tensor]:
        """The state `name` of every parameter, zeros at first."""
        for p in params:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return [self.state[p][name] for p in params]

    def _steps(self, params: list[Tensor]) -> list[Tensor]:
        """The number of steps that every parameter has taken, on its device."""
        for p in params:
            if "step" not in self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
        return [self.state[p]["step"] for p in params]


class ProxSGD(_Proximal):
    r"""Proximal stochastic gradient descent, with momentum as in `torch.optim.SGD`.

    .. math:: g \gets \nabla f(w) + decay\; w, \quad b \gets \mu b + g, \quad
              w \gets \mathrm{prox}_{lr\, s_k \Omega}(w - lr\, b), \quad
              s_k = 1 + \mu + \dots + \mu^{k-1}

    at step k with momentum :math:`\mu`; Nesterov's momentum takes :math:`g + \mu b` for b and
    :math:`s_{k+1}` for :math:`s_k`. The buffer sums that many gradients, so that the penalty counts
    as often as the loss and the fixed points are stationary points of :math:`f + \Omega`; a prox
    with step lr would weigh the penalty with :math:`1 - \mu`. Without momentum :math:`s_k = 1`: the
    stochastic proximal gradient method (Parikh and Boyd, Proximal Algorithms, 2014). Without a
    penalty it is `torch.optim.SGD`.

    Args:
        params: parameters or groups; each group may set its own options, `penalty` among them.
        lr: step size >= 0.
        momentum: factor of the momentum buffer, in [0, 1). Default 0.
        nesterov: whether to use Nesterov's momentum. Default False.
        weight_decay: strength of the l2 term added to the gradient, >= 0. Default 0.
        penalty: the regulariser of weights (T, M, C), or (T, M) taken as (T, M, 1); None for a
            plain step. Default None.

    Raises:
        ValueError: an option out of range, `nesterov` without momentum, or a parameter with a
            penalty that is neither (T, M, C) nor (T, M).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.0,
        *,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        penalty: Penalty | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "penalty": penalty,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        if not 0 <= group["momentum"] < 1:
            raise ValueError(f"ProxSGD: momentum must be in [0, 1), got {group['momentum']}")
        if group["nesterov"] and group["momentum"] == 0:
            raise ValueError("ProxSGD: nesterov=True needs momentum > 0, got momentum=0")

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        options = {name: group[name] for name in ("lr", "momentum", "nesterov", "weight_decay")}
        moving = group["momentum"] != 0
        buffers = self._buffers(params, "momentum_buffer") if moving else []
        penalty, steps = group["penalty"], self._steps(params)
        if penalty is None:
            torch._foreach_add_(steps, 1)
            state: list[Tensor | None] = [*buffers] if moving else [None] * len(params)
            sgd(params, grads, state, dampening=0.0, maximize=False, foreach=True, **options)
        else:
            weights, grads, buffers = _weights(params), _weights(grads), _weights(buffers)
            prox_sgd_(weights, grads, buffers, steps, penalty, **options)


class ProxAdamW(_Proximal):
    r"""AdamW with the prox in Adam's own metric.

    .. math:: m \gets \beta_1 m + (1 - \beta_1) g, \quad s \gets \beta_2 s + (1 - \beta_2) g^2,
              \quad d = \sqrt{s / (1 - \beta_2^k)} + \epsilon
    .. math:: v = (1 - lr\; decay)\, w - lr\, \frac{m / (1 - \beta_1^k)}{d}, \quad
              w \gets \arg\min_x \tfrac12 \sum_i d_i (x_i - v_i)^2 + lr\; \Omega(x)

    at step k: AdamW (Loshchilov and Hutter, ICLR 2019) followed by the prox of its preconditioner
    (Yun, Lozano and Yang, NeurIPS 2021). Weight i sees the threshold :math:`lr\; l_1 / d_i`, both
    bias corrections included. Without decay its fixed points are stationary points of
    :math:`f + \Omega`, which those of a prox in the identity metric are not.
    A weight whose gradient has always been 0 has d = eps, so that any l1 or group penalty sets it
    to 0. Without a penalty it is `torch.optim.AdamW`.

    Args:
        params: parameters or groups; each group may set its own options, `penalty` among them.
        lr: step size >= 0. Default 1e-3.
        betas: decay rates of the two moments, in [0, 1). Default (0.9, 0.999).
        eps: added to the root of the second moment, > 0. Default 1e-8.
        weight_decay: strength of the decoupled decay, >= 0. Default 1e-2.
        penalty: the regulariser of weights (T, M, C), or (T, M) taken as (T, M, 1); None for a
            plain step. Default None.

    Raises:
        ValueError: an option out of range, or a parameter with a penalty that is neither
            (T, M, C) nor (T, M).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        penalty: Penalty | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "penalty": penalty,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        if not all(0 <= beta < 1 for beta in group["betas"]):
            raise ValueError(f"ProxAdamW: betas must be in [0, 1), got {group['betas']}")
        if not group["eps"] > 0:  # the metric of the prox must be positive
            raise ValueError(f"ProxAdamW: eps must be > 0, got {group['eps']}")

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        first, second = (self._buffers(params, name) for name in ("exp_avg", "exp_avg_sq"))
        penalty, steps, betas = group["penalty"], self._steps(params), group["betas"]
        lr, eps, decay = group["lr"], group["eps"], group["weight_decay"]
        if penalty is None:
            adamw(
                params, grads, first, second, [], steps,
                foreach=True, capturable=params[0].device.type == "cuda",
                amsgrad=False, beta1=betas[0], beta2=betas[1], lr=lr, weight_decay=decay, eps=eps,
                maximize=False,
            )  # fmt: skip
        else:
            weights, grads, first, second = map(_weights, (params, grads, first, second))
            prox_adamw_(
                weights, grads, first, second, steps, penalty,
                lr=lr, betas=betas, eps=eps, weight_decay=decay,
            )  # fmt: skip


def _alike(params: list[Tensor]) -> list[list[tuple[Tensor, Tensor]]]:
    """Parameters that have a gradient, with it, by device and dtype: what an op can take."""
    kinds: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
    for p in params:
        if p.grad is not None:
            kinds.setdefault((p.device, p.dtype), []).append((p, p.grad))
    return list(kinds.values())


def _weights(tensors: list[Tensor]) -> list[Tensor]:
    """Views (T, M, C)."""
    return [t if t.dim() == 3 else t.unsqueeze(2) for t in tensors]
