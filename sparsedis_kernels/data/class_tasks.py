"""Few-way classification tasks from labelled examples in several domains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sparsedis_kernels.data.labelled import Labelled, by_group
from sparsedis_kernels.data.tasks import Kind, Split, Tasks, draw_domains, eligible_domains

_REST_SHARE = 0.8  # what is not for test
_TRAIN_SHARE = 0.75  # of the rest, so that validation has as many examples as test
_WAYS = 5


class ClassTasks:
    """Few-way classification, one domain a task; a ``TaskSource``.

    A task draws a domain and ``ways`` of the classes that have enough examples there; class c of a
    task is the c-th class it drew. Its samples are drawn without replacement and dealt to the
    classes in turn, so that class counts differ by at most one, also within consecutive parts such
    as support and query. A domain in which fewer than ``ways`` classes have enough examples gives
    no tasks.

    The examples of the three splits are apart. A domain keeps the data set's own test split. One
    that has no test examples is all test if it is held out, and else a fifth of each class is for
    test. Of the rest a quarter of each class is for validation; both choices are always the same.

    Args:
        data: examples whose ``inputs`` are a tensor (N, *input_shape): float32, sampled as it is,
            or uint8, sampled as x / 255.
        ways: number of classes C of a task, default 5, or all there are to choose from.
        held_out: the domain training never sees, an index or a name, default the last one; None
            holds out none.
        test_classes: names of classes that no training or validation task has, and no test task
            mixes with others, default none: then all tasks draw from the same classes.

    Raises:
        ValueError: ``ways``, ``held_out`` or ``test_classes`` is not among what there is.
        TypeError: ``data`` holds files or texts, which must be encoded first.
    """

    kind: Kind = "classification"

    def __init__(
        self,
        data: Labelled,
        *,
        ways: int | None = None,
        held_out: int | str | None = -1,
        test_classes: Sequence[str] = (),
    ) -> None:
        caller = type(self).__name__
        if not isinstance(data.inputs, Tensor):
            raise TypeError(f"{caller}: data.inputs must be a tensor, got {type(data.inputs)}")
        self._inputs = data.inputs
        allowed = _allowed_classes(caller, data.classes, test_classes)
        self.name = data.name
        self.input_shape: tuple[int, ...] = tuple(data.inputs.shape[1:])
        self.n_outputs = _check_ways(caller, ways, allowed)
        self.domains = data.domain_names
        self.held_out = _domain_index(caller, held_out, data.domain_names)
        self.details: dict[str, Any] = {
            "examples": len(data.inputs),
            "classes": list(data.classes),
            "test_classes": list(test_classes),
        }
        self._pools = _pools(data, self.held_out)
        self._sizes = _sizes(self._pools, allowed)

    def sample(
        self,
        n_tasks: int,
        n_samples: int,
        generator: torch.Generator,
        *,
        split: Split = "train",
        held_out: bool = False,
    ) -> Tasks:
        """Draw tasks as ``TaskSource.sample`` says.

        Raises:
            ValueError: as ``TaskSource.sample``, or no domain has enough examples of enough
                classes.
        """
        eligible = eligible_domains(self, split=split, held_out=held_out)
        per_class = -(-n_samples // self.n_outputs)
        size = self._sizes[split]
        most = size.sort(1, descending=True).values[:, self.n_outputs - 1]  # (D,), of every class
        if (available := int(most[eligible].max())) < per_class:
            raise ValueError(
                f"{type(self).__name__}.sample: n_samples={n_samples} needs {per_class} examples "
                f"of each of {self.n_outputs} classes in a domain, split {split!r} has {available}"
            )
        domain = draw_domains(eligible[most[eligible] >= per_class], n_tasks, generator)
        classes = self._draw_classes(size[domain] >= per_class, generator)
        pool = self._pools[split][domain[:, None], classes]  # (T, C, P)
        x = self._examples(_draw_examples(pool, n_samples, generator))  # (T, n, *input_shape)
        label = torch.arange(n_samples) % self.n_outputs
        y = F.one_hot(label, self.n_outputs).float()  # (n, C)
        return Tasks(x=x, y=y.repeat(n_tasks, 1, 1), domain=domain)

    def sample_examples(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw training examples of all classes at once, for joint training.

        A pair of a seen domain and a class that training tasks may have is drawn uniformly among
        those with examples, then one of its examples, both with replacement.

        Returns:
            Inputs (n, *input_shape) float32, and classes as in ``details["classes"]``, (n,) int64.
        """
        seen = eligible_domains(self, split="train", held_out=False)
        position, label = (self._sizes["train"][seen] > 0).nonzero().unbind(1)
        pair = torch.randint(len(label), (n,), generator=generator)
        domain, label = seen[position[pair]], label[pair]
        size = self._sizes["train"][domain, label]
        number = torch.randint(2**40, (n,), generator=generator) % size
        return self._examples(self._pools["train"][domain, label, number]), label

    def _examples(self, index: Tensor) -> Tensor:
        x = self._inputs[index]
        return x / 255 if x.dtype == torch.uint8 else x

    def _draw_classes(self, eligible: Tensor, generator: torch.Generator) -> Tensor:
        """Classes of each task, (T, C) int64, among the eligible ones, (T, K) bool."""
        key = torch.rand(eligible.shape, generator=generator).masked_fill(~eligible, torch.inf)
        return key.argsort(1)[:, : self.n_outputs]


def _draw_examples(pool: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
    """Indices of examples, (T, n) int64, from (T, C, P); sample i is of class i mod C."""
    # The smallest of random keys are a draw without replacement, for all tasks at once.
    key = torch.rand(pool.shape, generator=generator).masked_fill(pool < 0, torch.inf)
    drawn = pool.gather(2, key.argsort(2)[..., : -(-n_samples // pool.shape[1])])
    return drawn.transpose(1, 2).flatten(1)[:, :n_samples]


def stratified_test(labels: Tensor) -> Tensor:
    """Which examples are for test, (N,) bool: a fixed random fifth of each class.

    Args:
        labels: class of each example, (N,) int64.
    """
    test = torch.zeros(len(labels), dtype=torch.bool)
    for members in by_group(labels):
        test[members[round(_REST_SHARE * len(members)) :]] = True
    return test


def _pools(data: Labelled, held_out: int | None) -> dict[Split, Tensor]:
    """Each split's examples by domain and class, (D, K, P) int64, short rows padded with -1."""
    n_domains, n_classes = len(data.domain_names), len(data.classes)
    rows: dict[Split, list[Tensor]] = {"train": [], "validation": [], "test": []}
    for domain in range(n_domains):
        where = (data.domains == domain).nonzero().squeeze(1)
        labels, test = data.labels[where], data.test[where]
        if not test.any():
            test = torch.ones_like(test) if domain == held_out else stratified_test(labels)
        for members in by_group(labels, n_classes):
            rest = members[~test[members]]
            n_train = round(_TRAIN_SHARE * len(rest))
            rows["train"].append(where[rest[:n_train]])
            rows["validation"].append(where[rest[n_train:]])
            rows["test"].append(where[members[test[members]]])
    padded = {split: pad_sequence(r, True, padding_value=-1) for split, r in rows.items()}
    return {split: pool.view(n_domains, n_classes, -1) for split, pool in padded.items()}


def _sizes(pools: dict[Split, Tensor], allowed: dict[Split, Tensor]) -> dict[Split, Tensor]:
    """How many examples tasks may draw from, by split, domain and class, (D, K) int64."""
    return {split: (pool >= 0).sum(2) * allowed[split] for split, pool in pools.items()}


def _domain_index(caller: str, held_out: int | str | None, names: Sequence[str]) -> int | None:
    if held_out is None:
        return None
    if isinstance(held_out, str) and held_out in names:
        return names.index(held_out)
    if isinstance(held_out, int) and -len(names) <= held_out < len(names) > 1:
        return held_out % len(names)
    raise ValueError(
        f"{caller}: held_out={held_out!r}, but there are {len(names)} domains: {', '.join(names)}"
    )


def _allowed_classes(
    caller: str, classes: Sequence[str], test_classes: Sequence[str]
) -> dict[Split, Tensor]:
    """Which classes each split's tasks may have, (K,) bool."""
    if unknown := [name for name in test_classes if name not in classes]:
        raise ValueError(
            f"{caller}: test_classes names {unknown[0]!r}, but there is {', '.join(classes)}"
        )
    reserved = torch.tensor([name in test_classes for name in classes])
    test = reserved if test_classes else ~reserved
    return {"train": ~reserved, "validation": ~reserved, "test": test}


def _check_ways(caller: str, ways: int | None, allowed: dict[Split, Tensor]) -> int:
    most = int(min(classes.sum() for classes in allowed.values()))
    ways = min(_WAYS, most) if ways is None else ways
    if not 2 <= ways <= most:
        raise ValueError(f"{caller}: ways must be in [2, {most}], got {ways}")
    return ways
