"""Calls the torch-free core for callgrind: ``counted.py MODULE COUNTER CASE ...``."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

TASKS, SAMPLES, FEATURES, OUTPUTS = 16, 50, 64, 5  # tasks for all lanes of a vector
SHARE = np.float32(0.1)  # of lambda_max
MOVE = np.float32(0.01)  # of the features, before a warm start
MULTINOMIAL = 1
WARM = 3  # calls, which set up what the counted one finds
NOTHING = "nothing"


def levels(**strengths: float) -> dict[str, np.ndarray]:
    """Strengths as the core takes them: (T, M), `shared` (M)."""
    shapes = {"shared": (FEATURES,)}
    every = (TASKS, FEATURES)
    return {k: np.full(shapes.get(k, every), v, np.float32) for k, v in strengths.items()}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def samples() -> tuple[np.ndarray, np.ndarray]:
    """Features (T, n, M) and targets (T, n, C) that five of the features make."""
    z = normal(0, TASKS, SAMPLES, FEATURES)
    noise = normal(1, TASKS, SAMPLES, OUTPUTS)
    return z, z[..., ::13] @ normal(2, OUTPUTS, OUTPUTS) + np.float32(0.3) * noise


def prox(core: Any, **strengths: float) -> Callable[[], Any]:
    return partial(core.prox, normal(0, TASKS, FEATURES, OUTPUTS), levels(**strengths))


def prox_backward(core: Any) -> Callable[[], Any]:
    v, grad = (normal(seed, TASKS, FEATURES, OUTPUTS) for seed in (0, 1))
    penalty = levels(group=0.5)
    return partial(core.prox_backward, grad, core.prox(v, penalty), v, penalty)


def step(core: Any, kind: str, **strengths: float) -> Callable[[], Any]:
    w, grad, first = (normal(seed, TASKS, FEATURES, OUTPUTS) for seed in range(3))
    moments = (first,) if kind == "prox_sgd" else (first, first * first)
    return partial(getattr(core, kind), w, grad, *moments, levels(**strengths))


def ridge(core: Any) -> Callable[[], Any]:
    return partial(core.fit_heads, *samples(), levels(ridge=0.1))


def ridge_backward(core: Any) -> Callable[[], Any]:
    fit, weight = ridge(core), ridge(core)()["weight"]
    seed = normal(3, *weight.shape), np.zeros((TASKS, OUTPUTS), np.float32)
    return partial(core.fit_heads_backward, *fit.args, weight, *seed)


def group(core: Any, *, warm: bool = False) -> Callable[[], Any]:
    z, y = samples()
    penalty = at_share(core, z, y)
    if not warm:
        return partial(core.fit_heads, z, y, penalty)
    before = core.fit_heads(z * (1 + MOVE * normal(3, *z.shape)), y, penalty, tol=1e-6)
    return partial(core.fit_heads, z, y, penalty, init=before["weight"])


def multinomial(core: Any) -> Callable[[], Any]:
    z, y = samples()
    classes = np.eye(OUTPUTS, dtype=np.float32)[y.argmax(2)]
    penalty = at_share(core, z, classes, loss=MULTINOMIAL)
    return partial(core.fit_heads, z, classes, penalty, tol=5e-3, loss=MULTINOMIAL)


def at_share(core: Any, z: np.ndarray, y: np.ndarray, **loss: int) -> dict[str, np.ndarray]:
    """The group level at `SHARE` of every task's lambda_max."""
    penalty = levels(group=1.0)
    largest = core.lambda_max(z, y, penalty, **loss)
    return {"group": SHARE * largest[:, None] * penalty["group"]}


CASES: dict[str, Callable[[Any], Callable[[], Any]]] = {
    "prox group": partial(prox, group=0.5),
    "prox shared": partial(prox, l1=0.25, shared=2.0),
    "prox group, backward": prox_backward,
    "prox_sgd group": partial(step, kind="prox_sgd", group=0.1),
    "prox_adamw group": partial(step, kind="prox_adamw", group=0.1),
    "prox_adamw shared": partial(step, kind="prox_adamw", l1=0.1, shared=2.0),
    "ridge forward": ridge,
    "ridge backward": ridge_backward,
    "group cold": group,
    "group warm": partial(group, warm=True),
    "multinomial group": multinomial,
    NOTHING: lambda core: lambda: None,  # what is in every count
}


def main(module: str, counter: str, cases: Sequence[str]) -> None:
    spec = importlib.util.spec_from_file_location("sparsedis_core", module)
    assert spec is not None
    assert spec.loader is not None
    core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core)
    requests = ctypes.CDLL(counter)
    gc.disable()  # it would come at another call in every run
    for case in cases:
        call = CASES[case](core)
        for _ in range(WARM):
            call()
        requests.start()
        call()
        requests.stop(case.encode())


if __name__ == "__main__":
    main(*sys.argv[1:3], sys.argv[3:])
