"""What a training is told."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


def _option(default: float, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Recipe:
    """How to train, the same for every arm of a comparison; each field's metadata has its meaning.

    Raises:
        ValueError: a number is not positive (`seed`: negative).
    """

    steps: int = _option(250, "training steps")
    tasks: int = _option(4, "tasks of a step")
    support: int = _option(50, "support samples of a task")
    query: int = _option(50, "query samples of a task")
    features: int = _option(64, "features of the backbone")
    lr: float = _option(2e-3, "AdamW's step size at the start; it falls to 0 along a cosine")
    seed: int = _option(0, "seed of the initial weights and of every draw of tasks")
    check_every: int = _option(25, "steps between validations, each of which saves a checkpoint")
    patience: int = _option(10, "validations without a better score before training stops")
    test_tasks: int = _option(200, "fresh test tasks of each evaluation")

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (value > 0 or (name == "seed" and value == 0)):
                raise ValueError(f"Recipe: {name} must be > 0, got {value}")
