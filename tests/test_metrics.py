import math
import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from sparsedis_kernels.metrics import dci, dci_from_importance, mcc, mig, sap

Array = NDArray[Any]


def grid(*sizes: int, repeats: int) -> Array:
    """Every combination of factor values, equally often, so that factors are independent."""
    return np.array(list(product(*map(range, sizes))) * repeats)


FACTORS = grid(3, 4, 2, repeats=20)  # (480, 3)


def entropy(*p: float) -> float:
    return -sum(q * math.log(q) for q in p)


class TestDciFromImportance:
    def test_identity_is_perfect(self) -> None:
        assert dci_from_importance(np.eye(4)) == (1.0, 1.0)

    def test_uniform_is_worst(self) -> None:
        assert dci_from_importance(np.ones((3, 5))) == pytest.approx((0, 0), abs=1e-12)

    def test_by_hand(self) -> None:
        # Shares of the codes 4/8, 2/8, 2/8; rows (3/4, 1/4), (1, 0), (1/2, 1/2) in base 2:
        # D = 1/2 (1 - .8113) + 1/4 (1 - 0) + 1/4 (1 - 1) = .3444.
        # Shares of the factors 6/8, 2/8; columns (3/6, 2/6, 1/6), (1/2, 0, 1/2) in base 3:
        # C = 3/4 (1 - .9206) + 1/4 (1 - .6309) = .1518.
        importance = np.array([[3.0, 1.0], [2.0, 0.0], [1.0, 1.0]])
        disentanglement, completeness = dci_from_importance(importance)
        by_hand = 0.5 * (1 - entropy(0.75, 0.25) / math.log(2)) + 0.25
        assert disentanglement == pytest.approx(by_hand, abs=1e-12)
        assert disentanglement == pytest.approx(0.3444, abs=5e-5)
        assert completeness == pytest.approx(0.1518, abs=5e-5)

    def test_duplicated_codes_stay_disentangled_but_not_complete(self) -> None:
        importance = np.repeat(np.eye(3), 2, axis=0)  # two codes share every factor
        disentanglement, completeness = dci_from_importance(importance)
        assert disentanglement == 1
        assert completeness == pytest.approx(1 - math.log(2) / math.log(6))

    def test_code_that_matters_to_nothing_weighs_nothing(self) -> None:
        importance = np.array([[3.0, 1.0], [1.0, 2.0]])
        with_dead = np.vstack([importance, [[0.0, 0.0]]])
        assert dci_from_importance(with_dead)[0] == pytest.approx(
            dci_from_importance(importance)[0]
        )

    def test_nothing_learned_is_zero(self) -> None:
        assert dci_from_importance(np.zeros((3, 2))) == (0.0, 0.0)

    @given(
        arrays(float, (4, 3), elements=st.integers(0, 100)),
        st.permutations(range(4)),
        st.floats(0.1, 10),
    )
    def test_properties(self, importance: Array, order: list[int], scale: float) -> None:
        scores = dci_from_importance(importance)
        assert all(-1e-9 <= score <= 1 + 1e-9 for score in scores)
        assert dci_from_importance(scale * importance[order]) == pytest.approx(scores, abs=1e-9)
        assert dci_from_importance(importance.T) == pytest.approx(scores[::-1], abs=1e-12)

    @pytest.mark.parametrize("shape", [(1, 3), (3, 1), (4,)])
    def test_too_small(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"two or more of each, got \("):
            dci_from_importance(np.ones(shape))

    @pytest.mark.parametrize("bad", [-1.0, np.nan])
    def test_not_an_importance(self, bad: float) -> None:
        with pytest.raises(ValueError, match=f"importance must be >= 0, got {bad}"):
            dci_from_importance(np.array([[1.0, bad], [0.0, 1.0]]))


class TestDci:
    @pytest.mark.parametrize("factors", [FACTORS, FACTORS.astype(float)], ids=["class", "number"])
    def test_perfect_codes(self, factors: Array) -> None:
        scores = dci(factors[:, [2, 0, 1]] * [1.0, -3.0, 0.5], factors)
        assert scores.disentanglement == pytest.approx(1, abs=1e-6)
        assert scores.completeness == pytest.approx(1, abs=1e-6)
        assert scores.informativeness == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(scores.importance, np.eye(3)[[2, 0, 1]], atol=1e-6)
        assert scores.variant == "gbt"

    def test_round_off_below_zero_is_not_an_error(self) -> None:
        # The trees' impurity importance is -3e-17 somewhere for these factors.
        factors = np.random.default_rng(4).integers(0, [4, 6, 9], (200, 3))
        scores = dci(factors, factors)
        assert scores.disentanglement > 0.95
        assert (scores.importance >= 0).all()

    def test_integer_factors_are_classes_and_float_ones_numbers(self) -> None:
        # The code is |v - 1|: it tells class 1 from {0, 2} but cannot order 0 and 2.
        codes = np.stack([np.abs(FACTORS[:, 0] - 1), FACTORS[:, 1]], 1)
        as_class = dci(codes, FACTORS[:, :2])
        as_number = dci(codes, FACTORS[:, :2].astype(float))
        # Accuracy: all of class 1 and half of the rest, 2/3, averaged with 1; R^2: 0 and 1.
        assert as_class.informativeness == pytest.approx((2 / 3 + 1) / 2, abs=0.04)
        assert as_number.informativeness == pytest.approx(0.5, abs=0.04)

    def test_rotation_is_entangled(self) -> None:
        factors = np.random.default_rng(0).standard_normal((900, 2))
        turn = np.array([[1.0, -1.0], [1.0, 1.0]]) / 2**0.5
        for variant in ("gbt", "linear"):
            scores = dci(factors @ turn, factors, variant=variant)  # type: ignore[arg-type]
            assert scores.disentanglement < 0.05
            assert scores.completeness < 0.05
            assert scores.informativeness > 0.9

    def test_linear_importance_is_the_standardised_coefficient(self) -> None:
        rng = np.random.default_rng(0)
        codes = rng.standard_normal((3000, 3)) * [1.0, 10.0, 0.1] + 5
        unit = (codes - 5) / [1.0, 10.0, 0.1]
        factors = unit @ np.array([[3.0, 0.0], [-4.0, 0.0], [0.0, 7.0]])
        scores = dci(codes, factors, variant="linear")
        # Factor 0 = 3 u0 - 4 u1 has standard deviation 5, factor 1 = 7 u2 has 7.
        expected = [[0.6, 0.0], [0.8, 0.0], [0.0, 1.0]]
        np.testing.assert_allclose(scores.importance, expected, atol=0.03)
        assert scores.informativeness == pytest.approx(1)
        assert scores.variant == "linear"

    def test_duplicated_codes_lower_completeness_only(self) -> None:
        factors = np.random.default_rng(0).standard_normal((600, 3))
        scores = dci(np.hstack([factors, 2 * factors]), factors, variant="linear")
        assert scores.disentanglement == pytest.approx(1, abs=1e-6)
        assert scores.completeness == pytest.approx(1 - math.log(2) / math.log(6), abs=1e-6)

    @pytest.mark.parametrize("variant", ["gbt", "linear"])
    def test_order_and_scale_of_codes_do_not_matter(self, variant: Any) -> None:
        rng = np.random.default_rng(0)
        factors = rng.standard_normal((450, 2))
        codes = factors @ rng.standard_normal((2, 3)) + 0.3 * rng.standard_normal((450, 3))
        first = dci(codes, factors, variant=variant)
        again = dci(codes[:, [2, 0, 1]] * [4.0, 0.5, 2.0], factors, variant=variant)
        np.testing.assert_allclose(again.importance, first.importance[[2, 0, 1]], atol=0.02)
        assert again.disentanglement == pytest.approx(first.disentanglement, abs=0.02)
        assert again.completeness == pytest.approx(first.completeness, abs=0.02)

    def test_informativeness_is_measured_on_unseen_rows(self) -> None:
        rng = np.random.default_rng(0)
        codes, factors = rng.standard_normal((300, 4)), rng.integers(0, 2, (300, 2))
        # Nothing to learn: trees fit the training rows, but unseen ones come out by chance.
        assert dci(codes, factors).informativeness == pytest.approx(0.5, abs=0.1)

    def test_sizes_and_seed_choose_the_rows(self) -> None:
        rng = np.random.default_rng(0)
        codes = rng.standard_normal((400, 3))
        factors = codes + rng.standard_normal((400, 3))
        sizes: dict[str, Any] = {"variant": "linear", "train_size": 100, "test_size": 50}
        first, again = (dci(codes, factors, **sizes) for _ in range(2))
        assert first.informativeness == again.informativeness
        assert first.informativeness != dci(codes, factors, seed=1, **sizes).informativeness
        with pytest.raises(ValueError, match=r"train_size and test_size = 430"):
            dci(codes, factors, train_size=380, test_size=50)

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="dci: variant must be 'gbt' or 'linear', got 'lasso'"):
            dci(FACTORS, FACTORS, variant="lasso")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"factors must vary, columns \[1\] are constant"):
            dci(FACTORS, FACTORS * [1, 0, 1])


class TestMcc:
    codes = np.random.default_rng(0).standard_normal((200, 4))

    @pytest.mark.parametrize("method", ["pearson", "spearman"])
    def test_permutation_sign_scale_and_shift_give_one(self, method: Any) -> None:
        factors = self.codes[:, [2, 0, 3, 1]] * [1.0, -5.0, 0.1, -1.0] + [0.0, 3.0, -1.0, 2.0]
        assert mcc(self.codes, factors, method=method) == pytest.approx(1)

    def test_by_hand(self) -> None:
        # x = (1, 2, 3, 4), y = (1, 3, 2, 5): covariance sum 5.5, squares 5 and 8.75, r = .8315;
        # ranks of y (1, 3, 2, 4): rho = 1 - 6 * 2 / (4 * 15) = .8.
        x, y = np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([[1.0], [3.0], [2.0], [5.0]])
        assert mcc(x, y) == pytest.approx(5.5 / math.sqrt(5 * 8.75))
        assert mcc(x, y, method="spearman") == pytest.approx(0.8)

    def test_matching_is_the_best_and_one_to_one(self) -> None:
        basis = np.linalg.qr(self.codes - self.codes.mean(0))[0]
        a, b, c = basis[:, 0], basis[:, 1], basis[:, 2]
        factors = np.stack([a, b], 1)
        # Correlations [[.8, .6], [.5, 0]]. Greedy takes .8 and 0, both factors' own best .8 and .6;
        # the best matching is .5 and .6.
        codes = np.stack([0.8 * a + 0.6 * b, 0.5 * a + 0.75**0.5 * c], 1)
        assert mcc(codes, factors) == pytest.approx((0.5 + 0.6) / 2)

    def test_spearman_sees_through_a_monotone_map_and_pearson_does_not(self) -> None:
        warped = np.exp(2 * self.codes)
        assert mcc(warped, self.codes, method="spearman") == pytest.approx(1)
        assert mcc(warped, self.codes) < 0.8

    @pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 / 3])
    def test_constant_column_counts_zero(self, constant: float) -> None:
        codes = self.codes.copy()
        codes[:, 1] = constant
        assert mcc(codes, self.codes) == pytest.approx(0.75)
        assert mcc(self.codes, codes) == pytest.approx(0.75)
        assert mcc(np.full((200, 4), constant), self.codes) == 0

    def test_left_over_factor_counts_zero_and_left_over_code_does_not(self) -> None:
        assert mcc(self.codes[:, :3], self.codes) == pytest.approx(0.75)
        assert mcc(self.codes, self.codes[:, :3]) == pytest.approx(1)

    @given(st.permutations(range(4)), arrays(float, 4, elements=st.floats(0.01, 100)))
    def test_order_and_scale_do_not_matter(self, order: list[int], scale: Array) -> None:
        factors = self.codes @ np.array(
            [[1, 0.5, 0, 0], [0, 1, 0.5, 0], [0, 0, 1, 0.5], [0.5, 0, 0, 1]]
        )
        again = mcc(self.codes[:, order] * scale, factors)
        assert again == pytest.approx(mcc(self.codes, factors), abs=1e-9)

    def test_matches_scipy(self) -> None:
        rng = np.random.default_rng(1)
        x, y = rng.integers(0, 5, (50, 1)), rng.integers(0, 3, (50, 1))
        expected = abs(stats.spearmanr(x[:, 0], y[:, 0]).statistic)
        assert mcc(x, y, method="spearman") == pytest.approx(expected)

    def test_tensors_and_arrays_agree(self) -> None:
        factors = np.round(self.codes + 0.5 * self.codes[::-1], 2)
        tensors = torch.tensor(self.codes, requires_grad=True), torch.tensor(factors)
        assert mcc(*tensors) == mcc(self.codes, factors)

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match=r"mcc: method must be .* got 'kendall'"):
            mcc(self.codes, self.codes, method="kendall")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"\(N, K\), got \(200, 4\) and \(199, 4\)"):
            mcc(self.codes, self.codes[1:])
        with pytest.raises(ValueError, match=r"\(N, K\), got \(200,\) and \(200, 4\)"):
            mcc(self.codes[:, 0], self.codes)


class TestSap:
    def test_by_hand(self) -> None:
        # Two fair binary factors. Code 0 is factor 0; code 1 is factor 1 but for a quarter of the
        # rows, flipped whatever the factors. Accuracies: factor 0: 1 and 1/2, factor 1: 3/4, 1/2.
        rows = grid(2, 2, 4, repeats=300)
        factors = rows[:, :2]
        codes = np.stack([rows[:, 0], np.where(rows[:, 2] == 0, 1 - rows[:, 1], rows[:, 1])], 1)
        assert sap(2.0 * codes - 1, factors) == pytest.approx((0.5 + 0.25) / 2, abs=0.03)

    def test_duplicated_codes_leave_no_gap(self) -> None:
        codes = FACTORS.astype(float)
        assert sap(codes, FACTORS) > 0.2
        assert sap(np.hstack([codes, codes]), FACTORS) == pytest.approx(0, abs=1e-12)

    def test_order_of_codes_does_not_matter(self) -> None:
        codes = FACTORS + np.random.default_rng(0).standard_normal(FACTORS.shape)
        assert sap(codes[:, [1, 2, 0]], FACTORS) == pytest.approx(sap(codes, FACTORS), abs=1e-9)


class TestMig:
    def test_by_hand(self) -> None:
        # Code 0 and the factor have counts [[3, 1], [1, 3]]: I = 3/4 log(3/2) + 1/4 log(1/2)
        # = .1308 nats, H = log 2; code 1 is independent of the factor. MIG = .1308 / .6931 = .1887.
        factor = np.array([0, 0, 0, 0, 1, 1, 1, 1])
        codes = np.stack([[0, 0, 0, 1, 1, 1, 1, 0], [0, 1, 0, 1, 0, 1, 0, 1]], 1)
        assert mig(codes, factor[:, None]) == pytest.approx(0.1887, abs=5e-5)

    def test_perfect_codes_give_one_and_duplicates_zero(self) -> None:
        codes = FACTORS[:, [1, 2, 0]] * [1.0, -2.0, 10.0]
        assert mig(codes, FACTORS) == pytest.approx(1)
        assert mig(np.hstack([codes, codes + 1]), FACTORS) == pytest.approx(0, abs=1e-12)

    def test_a_mixed_code_closes_the_gap(self) -> None:
        # Code 2 is the pair of two fair bits: as good as code 0 for factor 0, and as code 1 for 1.
        factors = grid(2, 2, repeats=5)
        codes = np.stack([factors[:, 0], factors[:, 1], factors @ [2, 1]], 1)
        assert mig(codes[:, :2], factors) == pytest.approx(1)
        assert mig(codes, factors) == pytest.approx(0, abs=1e-12)

    def test_twenty_bins_of_equal_width(self) -> None:
        # 40 equally spaced values fall in 20 bins of two: of log 40 nats log 20 are left.
        factor = np.arange(40)
        codes = np.stack([factor, np.zeros(40)], 1)
        assert mig(codes, factor[:, None]) == pytest.approx(math.log(20) / math.log(40))

    @settings(max_examples=20)
    @given(st.permutations(range(3)), st.integers(-3, 3), st.integers(-5, 5))
    def test_order_scale_and_shift_do_not_matter(
        self, order: list[int], power: int, shift: int
    ) -> None:
        codes = FACTORS + np.random.default_rng(0).integers(0, 3, FACTORS.shape)
        again = codes[:, order] * 2.0**power + shift
        assert mig(again, FACTORS) == pytest.approx(mig(codes, FACTORS), abs=1e-9)


@pytest.mark.parametrize("metric", [sap, mig])
def test_gap_metrics_need_two_codes_and_varying_classes(metric: Callable[..., float]) -> None:
    name = metric.__name__
    with pytest.raises(ValueError, match=rf"{name}: codes must have two .* got \(480, 1\)"):
        metric(FACTORS[:, :1], FACTORS)
    with pytest.raises(
        ValueError, match=f"{name}: factors must have an integer dtype, got float64"
    ):
        metric(FACTORS, FACTORS / 2)
    with pytest.raises(ValueError, match=rf"{name}: factors must vary, columns \[0, 2\]"):
        metric(FACTORS, FACTORS * [0, 1, 0])


@pytest.mark.parametrize("metric", [dci, sap, mig, mcc])
def test_missing_package_is_one_plain_sentence(
    metric: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = "scipy" if metric is mcc else "sklearn"
    for module in [m for m in sys.modules if m.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as caught:
        metric(FACTORS, FACTORS)
    expected = f"{metric.__name__} needs {package}: pip install 'sparsedis-kernels[train]'"
    assert str(caught.value) == expected
