"""How well codes (a representation) recover known factors of variation: DCI, MCC, SAP, MIG.

Every function takes codes (N, M) and factors (N, K), NumPy arrays or tensors, row i of both
describing sample i. Discrete factors are those of an integer dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sparsedis_kernels.data.extra import train_extra

Matrix = NDArray[Any] | torch.Tensor

_MIG_BINS = 20


@dataclass(frozen=True)
class DCI:
    """Scores of Eastwood and Williams (2018); those of different variants do not compare.

    Attributes:
        disentanglement: 1 where every code matters to one factor only, 0 where to all alike.
        completeness: 1 where every factor is read off one code only, 0 where off all alike.
        informativeness: mean over factors of test accuracy (classifiers) or test R^2 (regressors).
        importance: of each code for each factor, (M, K) float64.
        variant: how the importance was measured, "gbt" or "linear".
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: NDArray[np.float64]
    variant: Literal["gbt", "linear"]


def dci(
    codes: Matrix,
    factors: Matrix,
    *,
    variant: Literal["gbt", "linear"] = "gbt",
    train_size: float | int | None = None,
    test_size: float | int | None = 1 / 3,
    seed: int = 0,
) -> DCI:
    """Disentanglement, completeness and informativeness.

    One model per factor predicts it from all codes and says how important each code is to it:

    - ``gbt``: gradient-boosted trees (scikit-learn's defaults: 100 trees of depth 3), a classifier
      for integer and a regressor for float factors; impurity importance, summing to 1 per factor.
    - ``linear``: least squares on standardised codes and factors; absolute coefficients. Integer
      factors count as numbers, so one without an order (a shape) is scored by its numbering.

    disentanglement_lib fits the classifier on 10,000 fresh samples and tests on 5,000 more; that is
    ``train_size=10_000, test_size=5_000`` here, on a random split of the rows given. Regressors
    and ``linear`` are not part of its protocol, and codes that matter to nothing weigh nothing
    here, where it adds 1e-11 to the importance.

    Args:
        codes: (N, M), M >= 2.
        factors: (N, K), K >= 2, no constant column.
        variant: which model, default "gbt".
        train_size: rows to fit on, a number or a share, default all that are not for testing.
        test_size: rows to test on, a number or a share, default a third; None is all the rest.
        seed: of the split and of the trees, default 0.

    Raises:
        ValueError: unknown ``variant``, or shapes or factors that do not fit.
        ImportError: scikit-learn is not installed.
    """
    with train_extra("dci"):
        from sklearn.model_selection import train_test_split
    if variant not in ("gbt", "linear"):
        raise ValueError(f"dci: variant must be 'gbt' or 'linear', got {variant!r}")
    codes, factors = _pair("dci", codes, factors)
    _check_varying("dci", factors)
    x, x_test, y, y_test = train_test_split(
        codes, factors, train_size=train_size, test_size=test_size, random_state=seed
    )
    if variant == "gbt":
        importance, informativeness = _fit_trees(x, y, x_test, y_test, seed)
    else:
        importance, informativeness = _fit_linear(x, y, x_test, y_test)
    disentanglement, completeness = dci_from_importance(importance)
    return DCI(disentanglement, completeness, informativeness, importance, variant)


def dci_from_importance(importance: NDArray[Any]) -> tuple[float, float]:
    """Disentanglement and completeness of an importance matrix I, (M, K) and not negative.

    Disentanglement is sum_i rho_i (1 - H_K(I_i / sum_k I_ik)), with H_K the entropy in base K and
    rho_i = sum_k I_ik / sum I code i's share; completeness is the same of the transpose
    (Eastwood and Williams 2018, weighted as in disentanglement_lib). Both are 0 if I is 0.

    Raises:
        ValueError: fewer than two codes or factors, or an entry negative or NaN.
        ImportError: scipy is not installed.
    """
    if importance.ndim != 2 or min(importance.shape) < 2:
        raise ValueError(
            "dci_from_importance: importance must be (codes, factors) with two or more of each, "
            f"got {importance.shape}"
        )
    if not (importance >= 0).all():
        raise ValueError(f"dci_from_importance: importance must be >= 0, got {importance.min()}")
    return _purity(importance), _purity(importance.T)


def mcc(
    codes: Matrix, factors: Matrix, *, method: Literal["pearson", "spearman"] = "pearson"
) -> float:
    """Mean correlation coefficient: the mean over factors of |correlation| with the matched code.

    The matching is one to one and the best there is (Hungarian algorithm). A constant column
    correlates 0 with everything, and so does a factor left over where M < K.

    Args:
        codes: (N, M).
        factors: (N, K).
        method: "pearson" (default) or "spearman", the correlation of ranks.

    Raises:
        ValueError: unknown ``method``, or shapes that do not fit.
        ImportError: scipy is not installed.
    """
    with train_extra("mcc"):
        from scipy.optimize import linear_sum_assignment
        from scipy.stats import rankdata
    if method not in ("pearson", "spearman"):
        raise ValueError(f"mcc: method must be 'pearson' or 'spearman', got {method!r}")
    x, y = _pair("mcc", codes, factors)
    if method == "spearman":
        x, y = rankdata(x, axis=0), rankdata(y, axis=0)
    correlation = np.abs(_unit_columns(x).T @ _unit_columns(y))  # (M, K)
    matched = linear_sum_assignment(correlation, maximize=True)
    return float(correlation[matched].sum() / y.shape[1])


def sap(
    codes: Matrix,
    factors: Matrix,
    *,
    train_size: float | int | None = None,
    test_size: float | int | None = 1 / 3,
    seed: int = 0,
) -> float:
    """Separated attribute predictability (Kumar et al. 2018): the gap of the two best codes.

    Each code alone predicts each factor with LinearSVC(C=0.01, class_weight="balanced"); the score
    is the test accuracy of a factor's best code less that of its second best, averaged over
    factors. As in disentanglement_lib codes are not standardised, so their scale matters a little;
    it draws 10,000 fresh samples to fit and 5,000 to test on, here the rows given are split.
    A linear classifier on one code singles out only the outermost of many classes, so perfect codes
    come near 1/2 for factors of two classes and stay lower for more.

    Args:
        codes: (N, M), M >= 2.
        factors: (N, K) of an integer dtype, no constant column.
        train_size: rows to fit on, a number or a share, default all that are not for testing.
        test_size: rows to test on, a number or a share, default a third; None is all the rest.
        seed: of the split and of the solver, default 0.

    Raises:
        ValueError: shapes or factors that do not fit.
        ImportError: scikit-learn is not installed.
    """
    with train_extra("sap"):
        from sklearn.model_selection import train_test_split
        from sklearn.svm import LinearSVC
    codes, factors = _pair("sap", codes, factors)
    _check_gap("sap", codes, factors)
    x, x_test, y, y_test = train_test_split(
        codes, factors, train_size=train_size, test_size=test_size, random_state=seed
    )
    accuracy = np.zeros((codes.shape[1], factors.shape[1]))
    for m, k in np.ndindex(*accuracy.shape):
        model = LinearSVC(C=0.01, class_weight="balanced", random_state=seed)
        model.fit(x[:, [m]], y[:, k])
        accuracy[m, k] = model.score(x_test[:, [m]], y_test[:, k])
    return float(_top_two_gap(accuracy).mean())


def mig(codes: Matrix, factors: Matrix) -> float:
    """Mutual information gap (Chen et al. 2018) of codes in 20 bins of equal width.

    The mean over factors of (I(best code; v_k) - I(second best code; v_k)) / H(v_k), as in
    disentanglement_lib.

    Args:
        codes: (N, M), M >= 2.
        factors: (N, K) of an integer dtype, no constant column.

    Raises:
        ValueError: shapes or factors that do not fit.
        ImportError: scikit-learn is not installed.
    """
    with train_extra("mig"):
        from sklearn.metrics import mutual_info_score
    codes, factors = _pair("mig", codes, factors)
    _check_gap("mig", codes, factors)
    edges = [np.histogram_bin_edges(code, _MIG_BINS)[1:-1] for code in codes.T]
    binned = [np.digitize(code, edge) for code, edge in zip(codes.T, edges, strict=True)]
    information = np.array([[mutual_info_score(f, code) for f in factors.T] for code in binned])
    entropy = np.array([mutual_info_score(f, f) for f in factors.T])
    return float((_top_two_gap(information) / entropy).mean())


def _pair(caller: str, codes: Matrix, factors: Matrix) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as NumPy matrices, once their shapes are known to fit."""
    x, y = (
        m.detach().cpu().numpy() if isinstance(m, torch.Tensor) else np.asarray(m)
        for m in (codes, factors)
    )
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            f"{caller}: codes must be (N, M) and factors (N, K), got {x.shape} and {y.shape}"
        )
    return x, y


def _check_varying(caller: str, factors: NDArray[Any]) -> None:
    constant = np.flatnonzero((factors == factors[:1]).all(0))
    if constant.size:
        raise ValueError(f"{caller}: factors must vary, columns {constant.tolist()} are constant")


def _check_gap(caller: str, codes: NDArray[Any], factors: NDArray[Any]) -> None:
    """A gap between codes needs two of them, and factors that are classes."""
    if codes.shape[1] < 2:
        raise ValueError(f"{caller}: codes must have two columns or more, got {codes.shape}")
    if not np.issubdtype(factors.dtype, np.integer):
        raise ValueError(f"{caller}: factors must have an integer dtype, got {factors.dtype}")
    _check_varying(caller, factors)


def _purity(weight: NDArray[Any]) -> float:
    """Mean over rows of 1 - entropy (base: number of columns), each row by its share."""
    with train_extra("dci_from_importance"):
        from scipy.special import entr
    total = weight.sum(1, keepdims=True)
    if not total.any():
        return 0.0
    share = weight / np.where(total > 0, total, 1)
    purity = 1 - entr(share).sum(1) / np.log(weight.shape[1])
    return float(np.average(purity, weights=total[:, 0]))


def _fit_trees(
    x: NDArray[Any], y: NDArray[Any], x_test: NDArray[Any], y_test: NDArray[Any], seed: int
) -> tuple[NDArray[Any], float]:
    """Importance, (M, K), and the mean test score of one boosted ensemble per factor."""
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    discrete = np.issubdtype(y.dtype, np.integer)
    trees = GradientBoostingClassifier if discrete else GradientBoostingRegressor
    models = [trees(random_state=seed).fit(x, factor) for factor in y.T]
    scores = [model.score(x_test, f) for model, f in zip(models, y_test.T, strict=True)]
    # Round-off can leave an impurity importance a hair below zero.
    importance = np.abs([model.feature_importances_ for model in models]).T
    return importance, float(np.mean(scores))


def _fit_linear(
    x: NDArray[Any], y: NDArray[Any], x_test: NDArray[Any], y_test: NDArray[Any]
) -> tuple[NDArray[Any], float]:
    """Importance, (M, K), and the mean test score of least squares on all factors."""
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LinearRegression()).fit(x, y)
    return np.abs(model[-1].coef_.T) / y.std(0), float(model.score(x_test, y_test))


def _unit_columns(x: NDArray[Any]) -> NDArray[Any]:
    """Columns centred and scaled to norm 1, float64; constant ones become 0."""
    x = x.astype(np.float64)
    # Decided on the values: a constant column's mean is rounded, so its norm may miss 0.
    constant = (x == x[:1]).all(0)
    centred = np.where(constant, 0.0, x - x.mean(0))
    return centred / np.where(constant, 1.0, np.linalg.norm(centred, axis=0))


def _top_two_gap(score: NDArray[Any]) -> NDArray[Any]:
    """Best less second best over codes, (M, K) -> (K,)."""
    best = np.sort(score, axis=0)
    return best[-1] - best[-2]
