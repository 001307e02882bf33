from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import sparsedis_kernels as sk
from sparsedis_kernels.data import load
from sparsedis_kernels.nn import Hypergradient, SparseHeads
from sparsedis_kernels.training.backbone import Backbone
from sparsedis_kernels.training.episodes import Episode, sample_episode
from sparsedis_kernels.training.evaluate import Evaluation, evaluate, few_shot
from sparsedis_kernels.training.factors import factor_scores
from sparsedis_kernels.training.recipe import Recipe
from sparsedis_kernels.training.step import bilevel_step

RIDGE = SparseHeads(sk.Penalty(ridge=1e-3))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_episode_parts_are_the_tasks_in_order_and_balanced() -> None:
    source = load("digits", ways=4)
    tasks = source.sample(3, 20, generator())
    episode = sample_episode(source, 3, (8, 12), generator())
    support, query = episode.parts(episode.x)
    assert torch.equal(torch.cat([support, query], 1), tasks.x)
    y_support, y_query = episode.parts(episode.y)
    assert (y_support.sum(1) == 2).all()
    assert (y_query.sum(1) == 3).all()


def test_episode_takes_the_sources_options() -> None:
    source = load("digits")
    tasks = source.sample(3, 20, generator(), split="test", held_out=True)
    episode = sample_episode(source, 3, (8, 12), generator(), split="test", held_out=True)
    assert torch.equal(episode.x, tasks.x)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 9, 13), (7,)], ids=str)
def test_features_are_standardised_per_sample(shape: tuple[int, ...]) -> None:
    backbone = Backbone(shape, 6)
    x = 100 * torch.rand(3, 40, *shape, generator=generator())
    z = backbone(x)
    assert z.shape == (3, 40, 6)
    torch.testing.assert_close(z.mean((0, 1)), torch.zeros(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.var((0, 1), correction=0), torch.ones(6), rtol=0.02, atol=0)
    backbone.eval()
    alone = torch.stack([backbone(task[None])[0] for task in x])
    torch.testing.assert_close(backbone(x), alone, rtol=1e-4, atol=1e-5)


def test_backbone_depends_on_its_seed_alone() -> None:
    state = torch.get_rng_state()
    first = Backbone((1, 8, 8), 6, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    again, other = (Backbone((1, 8, 8), 6, seed=s).state_dict() for s in (3, 4))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


def test_vectors_go_through_one_linear_layer() -> None:
    backbone = Backbone((5,), 3).eval()
    x = torch.randn(2, 4, 5, generator=generator())
    weight, bias = (p.detach() for p in backbone.parameters())
    # Before any training the running mean is 0 and the running variance 1.
    torch.testing.assert_close(backbone(x) * (1 + 1e-5) ** 0.5, x @ weight.T + bias)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"input_shape must be .* or \(d,\), got \(8, 8\)"):
        Backbone((8, 8), 3)


def linear_episode(kind: str) -> Episode:
    """Tasks that a linear head on the inputs themselves solves."""
    x = torch.randn(3, 60, 4, generator=generator())
    w = torch.randn(3, 4, 3, generator=generator(1))
    y = x @ w + 0.5
    if kind == "classification":
        x = nn.functional.one_hot(torch.arange(60) % 3, 4).float().expand(3, -1, -1)
        y = x[..., :3]
    return Episode(x, y, 30)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_score_of_a_solvable_task_is_1(kind: str) -> None:
    outcome = bilevel_step(nn.Identity(), RIDGE, linear_episode(kind), kind)  # type: ignore[arg-type]
    torch.testing.assert_close(outcome.score, torch.ones(3), rtol=0, atol=1e-3)
    assert float(outcome.loss) < 1e-3


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_scores_and_loss_by_hand(kind: str) -> None:
    episode = linear_episode(kind)
    noisy = episode._replace(y=episode.y + torch.randn(episode.y.shape, generator=generator(2)))
    outcome = bilevel_step(nn.Identity(), RIDGE, noisy, kind)  # type: ignore[arg-type]
    loss = torch.zeros(())
    for t in range(3):
        x, y = noisy.x[t, 30:], noisy.y[t, 30:]
        prediction = x @ outcome.fit.weight[t] + outcome.fit.bias[t]
        loss += (prediction - y).pow(2).sum() / (2 * 30 * 3)
        if kind == "classification":
            score = (
                sum(float(p.argmax() == q.argmax()) for p, q in zip(prediction, y, strict=True))
                / 30
            )
        else:
            score = 1 - float((prediction - y).pow(2).mean() / y.var(0, correction=0).mean())
        assert outcome.score[t].item() == pytest.approx(score, abs=1e-5)
    torch.testing.assert_close(outcome.loss, loss)


def test_multinomial_heads_are_judged_by_cross_entropy() -> None:
    episode = linear_episode("classification")
    episode = episode._replace(x=episode.x + 0.5 * torch.randn(3, 60, 4, generator=generator(2)))
    heads = SparseHeads(sk.Penalty(ridge=0.1), loss="multinomial")
    outcome = bilevel_step(nn.Identity(), heads, episode, "classification")
    scores = episode.x[:, 30:] @ outcome.fit.weight + outcome.fit.bias[:, None]
    label = episode.y[:, 30:].argmax(2)
    loss = nn.functional.cross_entropy(scores.flatten(0, 1), label.flatten())
    torch.testing.assert_close(outcome.loss, loss)
    torch.testing.assert_close(outcome.score, (scores.argmax(2) == label).float().mean(1))


@pytest.mark.parametrize("penalty", [sk.Penalty(ridge=0.1), sk.Penalty(group=0.3, ridge=0.1)])
def test_few_shot_is_what_an_episode_of_so_few_samples_gives(penalty: sk.Penalty) -> None:
    heads = SparseHeads(penalty, relative=True)
    backbone = Backbone((1, 8, 8), 16)
    episodes = [
        sample_episode(load("digits", ways=3), 4, (15, 9), generator(seed), split="test")
        for seed in (0, 1)
    ]
    result = few_shot(backbone, heads, episodes, (1, 5))
    assert backbone.training
    backbone.eval()
    for k in (1, 5):
        scores, weights = [], []
        for x, y, _ in episodes:
            keep = [*range(3 * k), *range(15, 24)]  # k of each class, and the query
            few = Episode(x[:, keep], y[:, keep], 3 * k)
            assert torch.equal(few.parts(few.y)[0].sum(1), torch.full((4, 3), float(k)))
            outcome = bilevel_step(backbone, heads, few, "classification")
            scores.append(outcome.score)
            weights.append(outcome.fit.weight.detach())
        torch.testing.assert_close(result[k].score, torch.cat(scores))
        torch.testing.assert_close(result[k].weight, torch.cat(weights))


def test_hypergradients_are_finite_and_differ() -> None:
    episode = sample_episode(load("digits"), 3, (20, 20), generator())
    grads: dict[Hypergradient, Tensor] = {}
    for mode in ("implicit", "detached", "unrolled"):
        backbone = Backbone((1, 8, 8), 16)
        heads = SparseHeads(
            sk.Penalty(group=0.2, ridge=0.1), relative=True, hypergradient=mode, unrolled_steps=5
        )
        bilevel_step(backbone, heads, episode, "classification").loss.backward()
        grads[mode] = torch.cat([p.grad.flatten() for p in backbone.parameters()])
        assert bool(grads[mode].isfinite().all())
        assert float(grads[mode].norm()) > 0
    size = float(grads["implicit"].norm())
    for a, b in (("implicit", "detached"), ("implicit", "unrolled"), ("detached", "unrolled")):
        assert float((grads[a] - grads[b]).norm()) > 0.05 * size


class Mixed(nn.Module):
    """Codes that are the factors, in another order and scaled, or all of them mixed."""

    def __init__(self, mixed: bool) -> None:
        super().__init__()
        order = torch.tensor([[0.0, -2, 0], [0, 0, 1], [0.5, 0, 0]])
        self.matrix = torch.tensor([[1.0, 1, 1], [1, -1, 1], [1, 1, -2]]) if mixed else order

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        return x @ self.matrix


class Numbers:
    """Three independent factors, whose inputs they are themselves."""

    factor_names = ("a", "b", "c")

    def sample_inputs(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        factors = torch.randint(9, (n, 3), generator=generator)
        return factors.float(), factors


def test_features_that_are_the_factors_score_one() -> None:
    scores = factor_scores(Mixed(False), Numbers(), generator())
    assert scores.mcc == pytest.approx(1)
    assert scores.dci.disentanglement > 0.99
    assert scores.dci.importance.argmax(0).tolist() == [1, 2, 0]
    assert scores.names == ("a", "b", "c")
    assert scores.dci.variant == "gbt"
    mixed = factor_scores(Mixed(True), Numbers(), generator())
    # Two codes are the sum of all factors but for signs, and one has two thirds of its variance
    # from the last factor.
    expected = (2 / math.sqrt(3) + math.sqrt(2 / 3)) / 3
    assert mixed.mcc == pytest.approx(expected, abs=0.03)
    assert mixed.dci.disentanglement < 0.7


def test_evaluation_leaves_the_backbone_as_it_was() -> None:
    backbone = Backbone((1, 8, 8), 16)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    episode = sample_episode(load("digits"), 3, (20, 20), generator(), split="test")
    result = evaluate(backbone, RIDGE, [episode, episode], "classification")
    assert result.score.shape == (6,)
    assert torch.equal(result.score[:3], result.score[3:])
    assert backbone.training
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())
    backbone.eval()
    expected = bilevel_step(backbone, RIDGE, episode, "classification")
    torch.testing.assert_close(result.score[:3], expected.score)
    torch.testing.assert_close(result.weight[:3], expected.fit.weight.detach())


def test_summary_by_hand() -> None:
    weight = torch.zeros(3, 4, 2)
    weight[0, 0, 0], weight[1, 0, 1], weight[2, 1, 0] = 1.0, -1.0, 2.0
    summary = Evaluation(torch.tensor([0.5, 0.7, 0.9]), weight).summary()
    assert summary["score"] == pytest.approx(0.7)
    assert summary["standard_error"] == pytest.approx(math.sqrt(0.08 / 3 / 3))
    assert summary["features_per_task"] == 1
    assert summary["effective_features"] == pytest.approx(2)
    assert summary["shared_share"] == 0.5


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("lr", -1.0), ("seed", -1)])
def test_recipe_refuses_numbers_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"Recipe: {name} must be > 0, got {value}"):
        Recipe(**{name: value})


def test_an_error_leaves_the_backbone_in_its_mode() -> None:
    backbone = Backbone((3,), 4)

    def episodes() -> Iterator[Episode]:
        assert not backbone.training
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        evaluate(backbone, SparseHeads(sk.Penalty(ridge=0.1)), episodes(), "regression")
    assert backbone.training
