"""The pieces of csrc/core on their own, against NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

EPS = np.finfo(np.float64).eps
SEEDS = range(5)


def soft(u: np.ndarray, threshold: np.ndarray | float) -> np.ndarray:
    return np.sign(u) * np.maximum(np.abs(u) - threshold, 0)


def bisect(above: Callable[[float], bool], low: float, high: float) -> float:
    """The point where `above` turns false."""
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if above(middle) else (low, middle)
    return 0.5 * (low + high)


@pytest.mark.parametrize("nonneg", [False, True])
def test_soft_threshold(core: ModuleType, nonneg: bool) -> None:
    for v in (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.75):
        expected = 0.0 if nonneg and v < 0 else float(soft(np.array(v), 1.0))
        assert core.soft_threshold(v, 1.0, nonneg) == expected
    assert math.isnan(core.soft_threshold(math.nan, 1.0, nonneg))


@pytest.mark.parametrize("decades", [0, 1, 4])
@pytest.mark.parametrize("excess", [1e-6, 1e-3, 1.0, 1e3])
def test_secular_root_solves_its_equation(core: ModuleType, decades: int, excess: float) -> None:
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        u, d = rng.standard_normal(6), 10.0 ** rng.uniform(-decades / 2, decades / 2, 6)
        c = np.linalg.norm(u) / (1 + excess)
        r = core.secular_root(u, d, c)
        assert r > 0
        # Rounding of ||u|| - c limits the root: its equation is met to that, relative.
        residual = np.linalg.norm(u / (d * r + c)) - 1
        assert abs(residual) <= 8 * EPS
        rebuilt = bisect(lambda x: np.linalg.norm(u / (d * x + c)) > 1, 0.0, 1e9)  # noqa: B023
        assert r == pytest.approx(rebuilt, rel=16 * EPS * (1 + 1 / excess))


def test_secular_root_is_zero_inside_the_threshold(core: ModuleType) -> None:
    rng = np.random.default_rng(0)
    u, d = rng.standard_normal(6), 10.0 ** rng.uniform(-2, 2, 6)
    for shrink in (0.0, 1e-15, 1e-6, 0.5):
        assert core.secular_root(u * (1 - shrink), d, float(np.linalg.norm(u)) * (1 + EPS)) == 0.0
    assert math.isnan(core.secular_root(u * np.nan, d, 1.0))


@pytest.mark.parametrize("weighted", [False, True])
def test_clip_level(core: ModuleType, weighted: bool) -> None:
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        v, d = rng.standard_normal(9), rng.uniform(0.1, 3, 9)
        metric, d = (d, d) if weighted else (None, np.ones(9))
        total = float(np.sum(d * np.abs(v)))
        for lam in (0.0, 0.3 * total, 0.999 * total):
            tau = core.clip_level(v, metric, lam)
            removed = np.sum(d * np.maximum(np.abs(v) - tau, 0))
            assert removed == pytest.approx(lam, abs=20 * EPS * total)
        assert core.clip_level(v, metric, 1.001 * total) == 0.0
    assert math.isnan(core.clip_level(np.array([1.0, np.nan]), None, 0.1))


def mcp(x: np.ndarray, lam: float, gamma: float) -> np.ndarray:
    return np.where(x <= gamma * lam, lam * x - x**2 / (2 * gamma), gamma * lam**2 / 2)


def scad(x: np.ndarray, lam: float, a: float) -> np.ndarray:
    middle = (2 * a * lam * x - x**2 - lam**2) / (2 * (a - 1))
    return np.where(x <= lam, lam * x, np.where(x <= a * lam, middle, lam**2 * (a + 1) / 2))


def l0(x: np.ndarray, lam: float, _: float) -> np.ndarray:
    return lam * (x > 0)


@pytest.mark.parametrize(("kind", "value"), [(0, mcp), (1, scad), (2, l0)])
@pytest.mark.parametrize("r", [0.2, 0.9, 1.2, 2.0, 3.2, 5.0])
def test_radial_scale_minimises_over_a_grid(
    core: ModuleType, kind: int, value: Callable[..., np.ndarray], r: float
) -> None:
    lam, eta, shape = 0.8, 0.7, 3.3
    grid = np.linspace(0, 1.2 * r, 240_001)
    objective = 0.5 * (grid - r) ** 2 + eta * value(grid, lam, shape)
    scale = core.radial(kind, r, lam, eta, shape)[0]
    assert scale * r == pytest.approx(grid[objective.argmin()], abs=1e-5 * r)


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("r", [0.9, 1.2, 2.0, 3.2])
def test_radial_derivatives_are_those_of_the_scale(core: ModuleType, kind: int, r: float) -> None:
    point, h = np.array([r, 0.8, 0.7, 3.3]), 1e-6
    derivatives = core.radial(kind, *point)[1:]
    for direction, expected in zip(np.eye(4), derivatives, strict=True):
        above, below = (core.radial(kind, *(point + s * h * direction))[0] for s in (1, -1))
        assert (above - below) / (2 * h) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("M", [1, 4, 7, 33])
@pytest.mark.parametrize("n", [0, 1, 50, 700])
def test_gram_matrices(core: ModuleType, n: int, M: int) -> None:
    Z = np.random.default_rng(0).standard_normal((n, M))
    for begin in (0, 1, M // 2, M):
        np.testing.assert_allclose(core.gram_columns(Z, begin), Z.T @ Z, atol=1e-12 * (n + 1))


@pytest.mark.parametrize("n", [1, 2, 4, 5, 16, 19, 40, 67])
def test_cholesky(core: ModuleType, n: int) -> None:
    rng = np.random.default_rng(n)
    A = rng.standard_normal((n, n + 3))
    K = A @ A.T
    factor = core.cholesky(np.triu(K))  # what lies left of the diagonal is not read
    np.testing.assert_allclose(np.triu(factor), np.linalg.cholesky(K).T, rtol=1e-10, atol=1e-12)
    assert np.array_equal(np.tril(factor), np.triu(factor).T)
    rounding = 50 * n * EPS * np.linalg.norm(K)
    for C in (1, 2, 5, 9):
        b = rng.standard_normal((C, n))
        x = core.cholesky_solve(factor, b)
        assert np.linalg.norm(K @ x.T - b.T) <= rounding * np.linalg.norm(x)
    inverse = core.invert(np.triu(factor) + np.tril(np.full((n, n), np.nan), -1))
    assert np.array_equal(inverse, inverse.T)
    assert np.linalg.norm(K @ inverse - np.eye(n)) <= rounding * np.linalg.norm(inverse)
    assert core.cholesky(K - 1.01 * np.linalg.eigvalsh(K)[0] * np.eye(n)) is None


@pytest.mark.parametrize(("l1", "group"), [(0.5, 0.0), (0.0, 0.5), (0.3, 0.2), (1e-4, 10.0)])
@pytest.mark.parametrize("nonneg", [False, True])
def test_dual_norm(core: ModuleType, l1: float, group: float, nonneg: bool) -> None:
    for seed in SEEDS:
        g = np.random.default_rng(seed).standard_normal(5)
        if nonneg:
            g = np.maximum(g, 0)

        def outside(nu: float, g: np.ndarray = g) -> bool:
            return bool(np.linalg.norm(soft(g, nu * l1)) > nu * group)

        expected = bisect(outside, 0.0, 1e6)
        assert core.dual_norm(g, l1, group, nonneg) == pytest.approx(expected, rel=1e-12)
    assert core.dual_norm(np.ones(3), 0.0, 0.0, nonneg) == math.inf


def feature(seed: int) -> tuple[np.ndarray, ...]:
    """g (T, C), and l1, group, ridge (T) with one task that has neither l1 nor group."""
    rng = np.random.default_rng(seed)
    l1, group, ridge = rng.uniform(0.05, 0.4, (3, 6))
    l1[0] = group[0] = 0.0
    return rng.standard_normal((6, 3)), l1, group, ridge


def excess(g: np.ndarray, l1: np.ndarray, group: np.ndarray) -> np.ndarray:
    return np.maximum(np.linalg.norm(soft(g, l1[:, None]), axis=1) - group, 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_feature_dual_norm(core: ModuleType, seed: int) -> None:
    g, l1, group, ridge = feature(seed)

    def outside(nu: float) -> bool:
        return bool(np.linalg.norm(excess(g, nu * l1, nu * group)) > nu * 0.6)

    expected = bisect(outside, 0.0, 1e6)
    assert core.feature_dual_norm(g, l1, group, ridge, 0.6) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("decades", [0, 4])
@pytest.mark.parametrize("seed", SEEDS)
def test_feature_norm(core: ModuleType, seed: int, decades: int) -> None:
    rng = np.random.default_rng(seed)
    b, d = rng.uniform(0, 1, 6), 10.0 ** rng.uniform(-decades / 2, decades / 2, 6)
    for share in (1e-6, 0.3, 1 - 1e-6):
        shared = share * np.linalg.norm(b)
        theta = core.feature_norm(b, d, shared)
        assert theta > 0
        assert np.linalg.norm(b / (d * theta + shared)) == pytest.approx(1, abs=20 * EPS)
    assert core.feature_norm(b, d, np.linalg.norm(b)) == 0.0


@pytest.mark.parametrize("shared", [0.0, 0.4, 5.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_feature_conjugate(core: ModuleType, seed: int, shared: float) -> None:
    """Young's inequality, and equality at the maximiser, which one ridge gives in closed form."""
    g, l1, group, _ = feature(seed)
    ridge = np.full(6, 0.7)

    def gain(w: np.ndarray) -> float:
        norms = np.linalg.norm(w, axis=1)
        penalty = l1 @ np.abs(w).sum(1) + group @ norms + shared * np.linalg.norm(w)
        return float(np.sum(g * w) - penalty - 0.5 * 0.7 * np.sum(w**2))

    b = excess(g, l1, group)
    direction = soft(g, l1[:, None])
    direction *= (b / np.maximum(np.linalg.norm(direction, axis=1), 1e-300))[:, None]
    best = direction * max(0.0, 1 - shared / np.linalg.norm(b)) / 0.7
    conjugate = core.feature_conjugate(g, l1, group, ridge, shared)
    assert conjugate == pytest.approx(gain(best), abs=1e-12)
    for w in np.random.default_rng(seed).standard_normal((20, 6, 3)):
        assert gain(w) <= conjugate + 1e-12


@pytest.mark.parametrize(("real", "name"), [(np.float32, "exp_of_float"), (np.float64, "exp_of")])
def test_exp_errs_by_two_roundings_and_saturates(core: ModuleType, real: type, name: str) -> None:
    exp = getattr(core, name)
    far = 87 if real is np.float32 else 708
    points = np.concatenate([np.linspace(-far, far, 20_001), [0, 1e-30, -1e-30]]).astype(real)
    found = np.array([exp(float(x)) for x in points])
    expected = np.exp(points.astype(np.longdouble))
    assert float(np.max(np.abs(found / expected - 1))) < 2 * np.finfo(real).eps
    assert exp(0.0) == 1
    assert 0 < exp(-1e4) < 1e-37 < 1e37 < exp(1e4) < np.inf


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_logarithms_err_by_three_roundings(core: ModuleType, real: type) -> None:
    suffix, far = ("_float", 37) if real is np.float32 else ("", 307)
    near = np.linspace(0, 1, 20_001)
    wide = np.concatenate([10 ** np.linspace(-far, far, 20_001), 1 + near, 1 - near[1:-1] / 2])
    for name, points, exact in (("log_of", wide, np.log), ("log1p_of", near[1:], np.log1p)):
        log, x = getattr(core, name + suffix), points.astype(real)
        found, expected = np.array([log(float(v)) for v in x]), exact(x.astype(np.longdouble))
        error = np.abs(found - expected) / np.maximum(np.abs(expected), np.finfo(real).tiny)
        assert float(error.max()) < 3 * np.finfo(real).eps, name
    assert getattr(core, "log_of" + suffix)(1.0) == getattr(core, "log1p_of" + suffix)(0.0) == 0
    assert -np.inf < getattr(core, "log_of" + suffix)(0.0) < -80
