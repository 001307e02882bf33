"""What a source of tasks is, and the batch of tasks it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

Kind = Literal["classification", "regression"]
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Tasks:
    """A batch of T tasks with n samples each.

    Attributes:
        x: inputs, (T, n, *input_shape) float32.
        y: targets, (T, n, C) float32; one-hot for classification.
        domain: the domain each task was drawn from, (T,) int64, an index into the source's domains.
    """

    x: Tensor
    y: Tensor
    domain: Tensor


class TaskSource(Protocol):
    """Anything that draws tasks.

    Attributes:
        name: name of the source.
        input_shape: shape of one sample of ``x``.
        n_outputs: C, the number of classes or of regression targets.
        kind: what the targets are.
        domains: names of the domains.
        held_out: index of the domain that training never sees, or None.
        details: what else its tasks depend on; goes into reports and checkpoints, so plain values.
    """

    name: str
    input_shape: tuple[int, ...]
    n_outputs: int
    kind: Kind
    domains: tuple[str, ...]
    held_out: int | None
    details: dict[str, Any]

    def sample(
        self,
        n_tasks: int,
        n_samples: int,
        generator: torch.Generator,
        *,
        split: Split = "train",
        held_out: bool = False,
    ) -> Tasks:
        """Draw ``n_tasks`` tasks of ``n_samples`` samples; ``generator`` is the only randomness.

        Each task stays within one domain: a seen one, or the held-out one if ``held_out``. Tasks
        of the split "validation" are like those of training, of examples that it never sees.

        Raises:
            ValueError: unknown ``split``, or ``held_out`` with no such domain or with another split
                than "test".
        """
        ...


@runtime_checkable
class KnownFactors(Protocol):
    """A source that knows the K factors of variation behind its inputs.

    Attributes:
        factor_names: names of the factors.
    """

    factor_names: tuple[str, ...]

    def sample_inputs(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """N inputs, (N, *input_shape) float32, and their factors, (N, K) int64."""
        ...


def describe(source: TaskSource) -> dict[str, Any]:
    """What makes the source's tasks what they are, as plain values."""
    names = ("name", "kind", "n_outputs", "domains", "held_out")
    return {**{name: getattr(source, name) for name in names}, **source.details}


def eligible_domains(source: TaskSource, *, split: Split, held_out: bool) -> Tensor:
    """The domains that tasks may be of: seen ones only, or the held-out one, (E,) int64.

    Raises:
        ValueError: unknown ``split``, or ``held_out`` with no such domain or with another split
            than "test".
    """
    caller = f"{type(source).__name__}.sample"
    if split not in get_args(Split):
        raise ValueError(f"{caller}: split must be one of {get_args(Split)}, got {split!r}")
    if held_out and source.held_out is None:
        raise ValueError(f"{caller}: held_out=True, but source {source.name!r} holds out no domain")
    if held_out and split != "test":
        raise ValueError(f"{caller}: held_out=True needs split='test', got split={split!r}")
    domains = range(len(source.domains))
    return torch.tensor([d for d in domains if (d == source.held_out) == held_out])


def draw_domains(eligible: Tensor, n_tasks: int, generator: torch.Generator) -> Tensor:
    """Draw each task's domain uniformly among the eligible ones, (T,) int64."""
    return eligible[torch.randint(len(eligible), (n_tasks,), generator=generator)]
