"""The Newton system of a support and one step of the sparse solver, against NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class System:
    """H V = G V + e V + d_j (V_j - wh_j <wh_j, V_j>) on the live entries."""

    G: np.ndarray  # (S, S)
    e: np.ndarray  # (S)
    W: np.ndarray  # (S, C)
    group: np.ndarray  # (S)
    held: bool

    @property
    def live(self) -> np.ndarray:
        return ((self.W != 0) | (not self.held)).ravel()

    def dense(self) -> np.ndarray:
        """H over the S * C entries, with identity rows where an entry does not move."""
        C = self.W.shape[1]
        H = np.kron(self.G + np.diag(self.e), np.eye(C))
        for j, w in enumerate(self.W):
            norm = np.linalg.norm(w)
            projector = np.eye(C) - np.outer(w, w) / norm**2
            H[j * C : (j + 1) * C, j * C : (j + 1) * C] += self.group[j] / norm * projector
        H[~self.live] = H[:, ~self.live] = 0
        return H + np.diag((~self.live).astype(float))

    def solve(self, rhs: np.ndarray) -> np.ndarray:
        return np.linalg.solve(self.dense(), rhs.ravel() * self.live).reshape(rhs.shape)

    def bound(self, core: ModuleType) -> Any:
        return core.Support(self.G, self.e, self.W, self.group, self.held)


def system(S: int, C: int, *, curved: bool = True, zeros: bool = False, seed: int = 0) -> System:
    rng = np.random.default_rng(seed)
    Z, W = rng.standard_normal((S + 5, S)), rng.standard_normal((S, C))
    if zeros:
        W[::2, 0] = 0
    group = rng.uniform(0.5, 2, S) * curved
    group[S // 2] = 0  # a row without a rank-one term
    return System(Z.T @ Z, rng.uniform(0.1, 1, S), W, group, held=zeros)


SHAPES = [(1, 1), (1, 3), (7, 1), (7, 2), (17, 5), (40, 3)]


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(("S", "C"), SHAPES)
def test_apply_is_the_dense_matrix(core: ModuleType, S: int, C: int, zeros: bool) -> None:
    s = system(S, C, zeros=zeros and C > 1)
    V = np.random.default_rng(1).standard_normal((S, C)) * s.live.reshape(S, C)
    expected = (s.dense() @ V.ravel()).reshape(S, C)
    np.testing.assert_allclose(s.bound(core).apply(V), expected, atol=1e-10)


@pytest.mark.parametrize(("S", "C"), SHAPES)
@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
def test_direct_solves_are_the_dense_solve(
    core: ModuleType, S: int, C: int, curved: bool, zeros: bool
) -> None:
    s = system(S, C, curved=curved, zeros=zeros and C > 1)
    rhs = np.random.default_rng(1).standard_normal((S, C)) * s.live.reshape(S, C)
    solved = s.bound(core).directly(rhs, True)
    np.testing.assert_allclose(solved, s.solve(rhs), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("S", "C"), SHAPES)
@pytest.mark.parametrize("zeros", [False, True])
def test_conjugate_gradients_are_the_dense_solve(
    core: ModuleType, S: int, C: int, zeros: bool
) -> None:
    s = system(S, C, zeros=zeros and C > 1)
    rhs = np.random.default_rng(1).standard_normal((S, C)) * s.live.reshape(S, C)
    x = s.bound(core).by_cg(rhs, 1e-14, 20 * S * C)
    np.testing.assert_allclose(x, s.solve(rhs), rtol=1e-8, atol=1e-9)


def test_one_factor_does_not_do_for_curved_rows_with_held_zeros(core: ModuleType) -> None:
    s = system(7, 3, zeros=True)
    assert s.bound(core).directly(np.ones((7, 3)), False) is None


@dataclass(frozen=True)
class Problem:
    """min 1/2n ||z W - y||^2 + sum_j l1_j |W_j|_1 + group_j ||W_j|| + ridge_j / 2 ||W_j||^2."""

    z: np.ndarray
    y: np.ndarray
    penalty: dict[str, np.ndarray]  # (1, M) each
    start: np.ndarray

    def strength(self, level: str) -> np.ndarray:
        return self.penalty.get(level, np.zeros((1, self.z.shape[1])))[0]

    def objective(self, W: np.ndarray) -> float:
        norms = np.linalg.norm(W, axis=1)
        loss = 0.5 * np.sum((self.z @ W - self.y) ** 2) / len(self.z)
        l1 = self.strength("l1") @ np.abs(W).sum(1)
        return float(
            loss + l1 + self.strength("group") @ norms + 0.5 * self.strength("ridge") @ norms**2
        )

    def correlations(self, W: np.ndarray) -> np.ndarray:
        return self.z.T @ (self.y - self.z @ W) / len(self.z)

    def spread(self, solve: Any) -> np.ndarray:
        W = np.zeros_like(self.start)
        W[solve.features()] = solve.weights()
        return W

    def one_pass(self, W: np.ndarray) -> np.ndarray:
        """Exact minimisation over one row after the other."""
        W = W.copy()
        for j in range(len(W)):
            h = np.mean(self.z[:, j] ** 2)
            u = h * W[j] + self.correlations(W)[j]
            u = np.sign(u) * np.maximum(np.abs(u) - self.strength("l1")[j], 0)
            keep = max(0.0, 1 - self.strength("group")[j] / max(np.linalg.norm(u), 1e-300))
            W[j] = keep * u / (h + self.strength("ridge")[j])
        return W


def problem(levels: tuple[str, ...], n: int, M: int, C: int, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, M)) + rng.standard_normal((n, 1))
    truth = rng.standard_normal((M, C)) * (rng.random((M, 1)) < 0.4)
    y = z @ truth + 0.1 * rng.standard_normal((n, C))
    penalty = {level: rng.uniform(0.05, 0.15, (1, M)) for level in levels}
    return Problem(z, y, penalty, rng.standard_normal((M, C)) * (rng.random((M, 1)) < 0.6))


def start(core: ModuleType, p: Problem) -> Any:
    return core.Solve(p.z, p.y, p.penalty, p.start)


LEVELS = [("l1",), ("group",), ("l1", "group"), ("l1", "group", "ridge")]


@pytest.mark.parametrize("C", [1, 3])
@pytest.mark.parametrize("levels", LEVELS)
def test_a_pass_minimises_row_by_row(core: ModuleType, levels: tuple[str, ...], C: int) -> None:
    p = problem(levels, 40, 19, C)
    solve, expected = start(core, p), p.start
    for _ in range(3):
        solve.descend()
        expected = p.one_pass(expected)
        np.testing.assert_allclose(p.spread(solve), expected, atol=1e-11)
        np.testing.assert_allclose(solve.correlations(), p.correlations(expected), atol=1e-11)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(("n", "M", "C"), [(40, 19, 1), (40, 19, 3), (12, 30, 1), (12, 30, 2)])
@pytest.mark.parametrize("levels", LEVELS)
def test_a_newton_step_lowers_the_objective_or_changes_nothing(
    core: ModuleType, levels: tuple[str, ...], n: int, M: int, C: int, direct: bool
) -> None:
    p = problem(levels, n, M, C)
    solve, before = start(core, p), p.start
    for _ in range(4):
        taken, after = solve.newton(direct, 1e-2), p.spread(solve)
        assert p.objective(after) < p.objective(before) if taken else np.array_equal(after, before)
        expected = p.correlations(after)[solve.features()]
        np.testing.assert_allclose(solve.correlations(), expected, atol=1e-10)
        solve.descend()
        before = p.spread(solve)


@pytest.mark.parametrize("C", [1, 3])
@pytest.mark.parametrize("levels", LEVELS)
def test_passes_and_newton_steps_reach_the_minimum(
    core: ModuleType, levels: tuple[str, ...], C: int
) -> None:
    """The restricted gap bounds the distance to the minimum, and falls to rounding.

    The same number of passes alone leaves a gap: the Newton steps are what closes it.
    """
    p = problem(levels, 40, 19, C)
    solve, passes, reference = start(core, p), start(core, p), p.start
    for _ in range(800):
        reference = p.one_pass(reference)
    zero, best = p.objective(0 * reference), p.objective(reference)
    for _ in range(30):
        passes.descend()
        solve.descend()
        gap = solve.relative_gap()
        assert p.objective(p.spread(solve)) - best <= gap * zero + 1e-12
        solve.newton(True, gap)
    assert solve.relative_gap() <= 1e-13 < 1e-11 < passes.relative_gap()
    np.testing.assert_allclose(p.spread(solve), reference, atol=1e-6)
