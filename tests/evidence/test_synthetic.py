from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LassoCV, RidgeCV
from sklearn.model_selection import PredefinedSplit

from sparsedis_kernels.evidence import synthetic
from sparsedis_kernels.evidence.model_selection import fit_lasso, fit_ridge

DATA = synthetic.Setting(relevant=5, samples=50, tasks=6)


def test_lasso_is_that_of_cross_validation_by_scikit_learn() -> None:
    x, y, _ = synthetic._draw(DATA, torch.Generator().manual_seed(1))
    ours = fit_lasso(x, y).weight[..., 0].numpy()
    folds = PredefinedSplit(np.arange(50) % 5)
    for t in range(DATA.tasks):
        z, target = x[t].double().numpy(), y[t, :, 0].double().numpy()
        top = np.abs((z - z.mean(0)).T @ (target - target.mean())).max() / 50
        alphas = top * np.logspace(0, -3, 20)
        theirs = LassoCV(alphas=alphas, cv=folds, tol=1e-8, max_iter=100_000).fit(z, target).coef_
        # Gaps of 1e-4 and, along the path, 3e-3 against 1e-8.
        assert np.linalg.norm(ours[t] - theirs) < 0.05 * np.linalg.norm(theirs)


@pytest.mark.parametrize("samples", [50, 150])
def test_ridge_is_that_of_leave_one_out_by_scikit_learn(samples: int) -> None:
    setting = synthetic.Setting(relevant=5, samples=samples, tasks=6)
    x, y, _ = synthetic._draw(setting, torch.Generator().manual_seed(1))
    ours = fit_ridge(x, y)
    for t in range(6):
        alphas = samples * np.logspace(-4, 2, 40)
        theirs = RidgeCV(alphas=alphas).fit(x[t].double().numpy(), y[t, :, 0].double().numpy())
        np.testing.assert_allclose(ours.weight[t, :, 0], theirs.coef_, atol=2e-4)
        np.testing.assert_allclose(ours.bias[t, 0], theirs.intercept_, atol=2e-4)


def test_score_is_the_r2_on_fresh_samples() -> None:
    x, y, weight = synthetic._draw(DATA, torch.Generator().manual_seed(2))
    fit = fit_ridge(x, y)
    generator = torch.Generator().manual_seed(3)
    fresh = torch.randn(100_000, 100, generator=generator)
    noise = 0.2 * torch.randn(100_000, 1, generator=generator)
    for t, score in enumerate(synthetic._score(fit, weight)):
        target = fresh @ weight[t, :, None] + noise
        error = fresh @ fit.weight[t] + fit.bias[t] - target
        expected = 1 - error.square().mean() / target.var(correction=0)
        assert score.item() == pytest.approx(expected.item(), abs=0.01)


def test_ridge_does_not_see_the_rotation_and_lasso_does() -> None:
    x, y, weight = synthetic._draw(DATA, torch.Generator().manual_seed(4))
    rotation = synthetic._rotation(torch.Generator().manual_seed(5))
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(100), rtol=0, atol=1e-5)
    scores = [synthetic._score(f, w) for f, w in (
        (fit_ridge(x, y), weight), (fit_ridge(x @ rotation, y), weight @ rotation)
    )]  # fmt: skip
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-3)
    lasso = synthetic._score(fit_lasso(x, y), weight)
    mixed = synthetic._score(fit_lasso(x @ rotation, y), weight @ rotation)
    # In 20 draws of such six tasks the difference was .67 or more.
    assert lasso.mean() - mixed.mean() > 0.4


def test_relevant_features_are_counted_and_weights_have_norm_1() -> None:
    _, _, weight = synthetic._draw(DATA, torch.Generator().manual_seed(6))
    assert ((weight != 0).sum(1) == 5).all()
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(6))
    assert (weight != 0).any(0).sum() > 15  # not the same places for all tasks


def test_cells_are_reproducible_and_every_setting_is_its_own() -> None:
    first, again, other = (synthetic._measure(DATA, seed) for seed in (0, 0, 1))
    assert first == again
    assert first["lasso"] != other["lasso"]
    settings = synthetic.EXPERIMENT.settings(False)
    assert len(settings) == len(set(settings.values())) == 18
    for claim in synthetic.EXPERIMENT.claims:
        assert all(check.labels <= settings.keys() for check in claim.checks)
