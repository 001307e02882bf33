from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from sparsedis_kernels.data import ClassTasks, Labelled, Tasks
from sparsedis_kernels.data.labelled import by_group, limited
from sparsedis_kernels.data.tasks import Split

CLASSES, DOMAINS = ("ant", "bee", "cow", "dog"), ("air", "sea", "land")
SPLITS: tuple[Split, ...] = get_args(Split)
# Examples of each class in each domain; the data set's own test split takes every third in "sea".
COUNTS = ((20, 20, 20, 20), (30, 30, 0, 6), (40, 5, 40, 40))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def toy(counts: tuple[tuple[int, ...], ...] = COUNTS, own_test: tuple[int, ...] = (1,)) -> Labelled:
    """Examples whose inputs are (domain, class, number within them), in a shuffled order."""
    cells = [(d, k, i) for d, row in enumerate(counts) for k, n in enumerate(row) for i in range(n)]
    rows = torch.tensor(cells)[torch.randperm(len(cells), generator=seeded(5))]
    test = (rows[:, 2] % 3 == 0) & torch.isin(rows[:, 0], torch.tensor(own_test))
    return Labelled(
        "toy", rows.float(), rows[:, 1], rows[:, 0], test, CLASSES, DOMAINS[: len(counts)]
    )


def decode(tasks: Tasks) -> tuple[Tensor, Tensor, Tensor]:
    """Domain, class and number of every sample."""
    domain, label, number = tasks.x.long().unbind(-1)
    return domain, label, number


def drawn(source: ClassTasks, n_samples: int, **options: object) -> set[tuple[int, int, int]]:
    """Every example that 3,000 tasks hold."""
    tasks = source.sample(3000, n_samples, seeded(), **options)  # type: ignore[arg-type]
    return {tuple(row) for row in tasks.x.long().flatten(0, 1).tolist()}


def test_a_task_is_a_domain_and_as_many_classes_as_asked() -> None:
    source = ClassTasks(toy(), ways=3)
    tasks = source.sample(50, 9, seeded())
    domain, label, number = decode(tasks)
    assert torch.equal(domain, tasks.domain[:, None].expand(-1, 9))
    for t in range(50):
        pairs = set(zip(label[t].tolist(), tasks.y[t].argmax(1).tolist(), strict=True))
        assert len(pairs) == 3  # a class of the task is one class of the data
        assert len({k for k, _ in pairs}) == len({c for _, c in pairs}) == 3
        examples = set(zip(label[t].tolist(), number[t].tolist(), strict=True))
        assert len(examples) == 9  # without replacement
    assert torch.equal(tasks.y.sum(1), torch.full((50, 3), 3.0))
    assert torch.equal(tasks.y[:, :6].sum(1), torch.full((50, 3), 2.0))


@pytest.mark.parametrize(
    ("n_samples", "split", "expected"),
    [
        (6, "train", {(0, k) for k in range(4)} | {(1, k) for k in (0, 1, 3)}),
        (8, "train", {(0, k) for k in range(4)} | {(1, 0), (1, 1)}),  # sea has 3 dogs to train on
        (2, "validation", {(0, k) for k in range(4)} | {(1, k) for k in (0, 1, 3)}),
        (8, "validation", {(0, k) for k in range(4)} | {(1, 0), (1, 1)}),
        (4, "test", {(0, k) for k in range(4)} | {(1, k) for k in (0, 1, 3)}),
        (10, "test", {(1, 0), (1, 1)}),  # air has 4 test examples of a class
    ],
)
def test_only_classes_with_enough_examples_in_the_domain_are_drawn(
    n_samples: int, split: str, expected: set[tuple[int, int]]
) -> None:
    source = ClassTasks(toy(), ways=2)
    assert {row[:2] for row in drawn(source, n_samples, split=split)} == expected


def test_own_test_split_is_kept_and_else_a_fifth_of_each_class_is_set_apart() -> None:
    source = ClassTasks(toy(), ways=2, held_out=None)
    train, validation, test = (drawn(source, 2, split=split) for split in SPLITS)
    sea = {row for row in train | validation | test if row[0] == 1}
    assert {row for row in sea if row[2] % 3 == 0} == {row for row in test if row[0] == 1}
    for label in range(4):
        sizes = [sum(row[:2] == (0, label) for row in rows) for rows in (train | validation, test)]
        assert sizes == [16, 4]


def test_a_quarter_of_what_is_not_for_test_is_for_validation() -> None:
    source = ClassTasks(toy(), ways=2, held_out=None)
    parts = [drawn(source, 2, split=split) for split in SPLITS]
    assert len(set.union(*parts)) == sum(map(len, parts)) == sum(map(sum, COUNTS))
    sizes = {(0, 0): [12, 4, 4], (1, 0): [15, 5, 10], (1, 3): [3, 1, 2], (2, 1): [3, 1, 1]}
    for cell, expected in sizes.items():
        assert [sum(row[:2] == cell for row in part) for part in parts] == expected


def test_validation_tasks_are_like_those_of_training() -> None:
    source = ClassTasks(toy(), ways=2, held_out="land", test_classes=("cow", "dog"))
    validation = drawn(source, 2, split="validation")
    assert {row[:2] for row in validation} == {(d, k) for d in (0, 1) for k in (0, 1)}
    with pytest.raises(ValueError, match="held_out=True needs split='test', got split='valid"):
        source.sample(1, 2, seeded(), split="validation", held_out=True)


def test_a_held_out_domain_without_test_examples_is_all_test() -> None:
    source = ClassTasks(toy(), ways=2, held_out="land")
    assert source.held_out == 2
    land = drawn(source, 10, split="test", held_out=True)
    assert land == {(2, k, i) for k, n in enumerate(COUNTS[2]) for i in range(n)}
    assert {row[0] for row in drawn(source, 2)} == {0, 1}
    own = ClassTasks(toy(), ways=2, held_out="sea")
    assert all(row[2] % 3 == 0 for row in drawn(own, 2, split="test", held_out=True))


def test_a_domain_that_is_all_test_gives_no_training_tasks() -> None:
    data = toy()
    late = Labelled(**{**vars(data), "test": data.domains == 2})
    source = ClassTasks(late, ways=2, held_out=None)
    assert {row[0] for row in drawn(source, 2)} == {0, 1}
    assert {row[0] for row in drawn(source, 2, split="test")} == {0, 1, 2}


def test_test_classes_are_for_test_tasks_alone() -> None:
    source = ClassTasks(toy(), ways=2, test_classes=("cow", "dog"))
    assert {row[1] for row in drawn(source, 4)} == {0, 1}
    assert {row[1] for row in drawn(source, 2, split="test")} == {2, 3}
    assert {row[1] for row in drawn(source, 2, split="test", held_out=True)} == {2, 3}
    # Without cows the sea has one test class only, which makes no task.
    assert {row[0] for row in drawn(source, 2, split="test")} == {0}


def test_by_default_five_ways_or_all_classes_and_the_last_domain_held_out() -> None:
    source = ClassTasks(toy())
    assert (source.n_outputs, source.held_out) == (4, 2)
    assert ClassTasks(toy(), test_classes=("cow", "dog")).n_outputs == 2
    many = Labelled(**{**vars(toy()), "classes": tuple("abcdefgh")})
    assert ClassTasks(many).n_outputs == 5


def test_bytes_are_sampled_as_shares_and_floats_as_they_are() -> None:
    data = toy()
    pixels = Labelled(**{**vars(data), "inputs": data.inputs.byte()})  # type: ignore[union-attr]
    as_bytes, as_floats = (ClassTasks(d, ways=2).sample(5, 8, seeded()).x for d in (pixels, data))
    torch.testing.assert_close(as_bytes, as_floats / 255)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 5}, r"ClassTasks: ways must be in \[2, 4\], got 5"),
        ({"ways": 3, "test_classes": ("ant", "bee")}, r"ways must be in \[2, 2\], got 3"),
        ({"held_out": 3}, "held_out=3, but there are 3 domains: air, sea, land"),
        ({"held_out": "sky"}, "held_out='sky', but there are 3 domains: air, sea, land"),
        ({"test_classes": ("eel",)}, "test_classes names 'eel', but there is ant, bee, cow, dog"),
    ],
)
def test_impossible_choices_name_the_argument(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassTasks(toy(), **options)  # type: ignore[arg-type]


def test_the_only_domain_cannot_be_held_out() -> None:
    one = toy(COUNTS[:1])
    with pytest.raises(ValueError, match="held_out=-1, but there are 1 domains: air"):
        ClassTasks(one)
    assert ClassTasks(one, held_out=None).held_out is None


def test_too_few_examples_say_how_many_there_are() -> None:
    source = ClassTasks(toy(), ways=3)
    message = (
        "n_samples=60 needs 20 examples of each of 3 classes in a domain, split 'train' has 12"
    )
    with pytest.raises(ValueError, match=message):
        source.sample(1, 60, seeded())


def test_files_and_texts_must_be_encoded_first() -> None:
    texts = Labelled(**{**vars(toy()), "inputs": [Path("a.png")] * 251})
    with pytest.raises(TypeError, match=r"data.inputs must be a tensor, got <class 'list'>"):
        ClassTasks(texts)


def test_groups_keep_their_members_in_a_fixed_random_order() -> None:
    group = torch.tensor([2, 0, 2, 2, 0, 2])
    members = by_group(group, 4)
    assert [sorted(m.tolist()) for m in members] == [[1, 4], [], [0, 2, 3, 5], []]
    torch.manual_seed(3)
    assert all(map(torch.equal, members, by_group(group, 4)))
    many = by_group(torch.zeros(100, dtype=torch.long))[0]
    assert many.tolist() != sorted(many.tolist())


def test_a_limit_keeps_so_many_of_each_class_domain_and_split() -> None:
    data = toy()
    texts = Labelled(**{**vars(data), "inputs": [str(row) for row in data.inputs.tolist()]})  # type: ignore[union-attr]
    few = limited(texts, 7)
    rows = torch.tensor([[float(n) for n in text.strip("[]").split(",")] for text in few.inputs])  # type: ignore[union-attr]
    assert torch.equal(rows[:, 0].long(), few.domains)
    assert torch.equal(rows[:, 1].long(), few.labels)
    assert torch.equal(few.test, (rows[:, 2] % 3 == 0) & (rows[:, 0] == 1))
    cells = torch.stack([few.domains, few.labels, few.test.long()], 1).unique(
        dim=0, return_counts=True
    )
    count = {tuple(cell): n for cell, n in zip(cells[0].tolist(), cells[1].tolist(), strict=True)}
    assert count == {
        **{(0, k, 0): 7 for k in range(4)},
        **{(1, k, t): 7 for k in (0, 1) for t in (0, 1)},
        (1, 3, 0): 4,
        (1, 3, 1): 2,
        **{(2, k, 0): 7 for k in (0, 2, 3)},
        (2, 1, 0): 5,
    }
    assert len({str(row) for row in rows.tolist()}) == len(rows)
    assert list(limited(texts, 1000).inputs) == list(texts.inputs)
    with pytest.raises(ValueError, match="limited: limit must be at least 1, got 0"):
        limited(texts, 0)


def test_examples_for_joint_training_are_training_examples_of_seen_domains() -> None:
    source = ClassTasks(toy(), ways=2, test_classes=("cow", "dog"))
    x, label = source.sample_examples(4000, seeded())
    assert torch.equal(x[:, 1].long(), label)
    assert {tuple(row) for row in x.long().tolist()} == drawn(source, 8)
    pairs = (2 * x[:, 0] + x[:, 1]).long().bincount()  # of two domains and two classes
    assert torch.allclose(pairs / 4000, torch.full((4,), 0.25), atol=0.03)
