"""Runs every batch kernel over odd sizes, layouts and penalties.

As a script it is what runs under a sanitizer, in a process of its own:
``python exercise.py MODULE THREADS [FAULT]``.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

SIZES = list(itertools.product((0, 1, 5), (0, 1, 3, 50), (1, 7, 33, 129), (1, 2, 5)))
LEVELS = [
    ("ridge",),
    ("l1",),
    ("group",),
    ("l1", "group"),
    ("l1", "ridge", "nonneg"),
    ("shared",),
    ("l1", "group", "shared", "ridge"),
]
LAYOUTS = ["dense", "one_design", "ragged"]
NOT_FINITE = 2
SQUARED, MULTINOMIAL, LOGISTIC = 0, 1, 2


@dataclass(frozen=True)
class Case:
    name: str
    weights: dict[str, Any]  # v, grad, metric: (T, M, C)
    samples: dict[str, Any]  # z, y, offsets, sample_weight
    penalty: dict[str, Any]
    loss: int  # beside the squared one
    broken: bool  # the last task holds a NaN


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def odd_cases() -> Iterator[Case]:
    """Every size in every layout; penalties, dtypes and sample weights take turns."""
    for index, (layout, size) in enumerate(itertools.product(LAYOUTS, SIZES)):
        levels = LEVELS[index % len(LEVELS)]
        real = (np.float32, np.float64)[index // len(LEVELS) % 2]
        yield make_case(index, layout, size, levels, real)
    # Working sets that outgrow their room, and supports too large for a direct Newton step.
    yield make_case(1, "dense", (1, 3, 700, 2), ("l1",), np.float64)
    yield make_case(1, "dense", (1, 600, 530, 2), ("group",), np.float32)


def parallel_cases() -> Iterator[Case]:
    """Problems just large enough that every kernel shares its work out to threads."""
    for index, (layout, levels) in enumerate(itertools.product(LAYOUTS, LEVELS)):
        real = (np.float32, np.float64)[index % 2]
        yield make_case(index, layout, (30, 8, 20, 5), levels, real)
    # Without samples only the proxes and reductions have work.
    for levels in LEVELS:
        yield make_case(0, "dense", (30, 0, 130, 5), levels, np.float32)
    # Enough tasks for the sums over one feature.
    yield make_case(1, "dense", (2100, 2, 9, 1), ("l1", "shared"), np.float32)


def make_case(
    seed: int, layout: str, size: tuple[int, int, int, int], levels: tuple[str, ...], real: type
) -> Case:
    T, n, M, C = size
    rng = np.random.default_rng(seed)
    counts = {"dense": (T, n), "one_design": (n,), "ragged": (T * n,)}[layout]
    rows = (T, n) if layout != "ragged" else counts
    samples = {"z": normal(rng, (*counts, M), real), "y": normal(rng, (*rows, C), real)}
    if layout == "ragged":
        cuts = np.sort(rng.integers(0, T * n + 1, size=max(T - 1, 0)))
        samples["offsets"] = np.array([0, *cuts, T * n][: T + 1], dtype=np.int64)
    if rng.random() < 0.5:
        samples["sample_weight"] = rng.random(rows if rng.random() < 0.5 else counts).astype(real)
    broken = T >= 5 and n > 0 and layout != "ragged" and rng.random() < 0.3
    if broken:
        samples["y"][-1, -1, -1] = np.nan
    weights = {name: normal(rng, (T, M, C), real) for name in ("v", "grad")}
    weights["metric"] = (rng.random((T, M, C)) + 0.1).astype(real)
    name = f"{layout} {size} {'+'.join(levels)} {real.__name__} seed {seed}"
    loss = (MULTINOMIAL, LOGISTIC)[seed % 2]
    return Case(name, weights, samples, strengths(rng, levels, T, M, n, real), loss, broken)


def normal(rng: np.random.Generator, shape: tuple[int, ...], real: type) -> np.ndarray:
    return rng.standard_normal(shape).astype(real)


def strengths(
    rng: np.random.Generator, levels: tuple[str, ...], T: int, M: int, n: int, real: type
) -> dict[str, Any]:
    """Of the size of the correlations z'y / n, so that some features live and others do not."""
    size = 0.5 / np.sqrt(max(n, 1))
    shapes = {"shared": (M,), "nonneg": ()}
    values = {level: rng.random(shapes.get(level, (T, M))) * size for level in levels}
    return {level: np.asarray(value, dtype=real) for level, value in values.items()}


def exercise(core: Any, case: Case) -> dict[str, np.ndarray]:
    """Every kernel on one case: its outputs by name."""
    both = heads(core, case, SQUARED) | heads(core, case, case.loss)
    return proxes(core, case) | reductions(core, case) | both


def proxes(core: Any, case: Case) -> dict[str, np.ndarray]:
    v, grad, metric = (case.weights[name] for name in ("v", "grad", "metric"))
    out = {}
    for name, d in (("prox", None), ("metric prox", metric)):
        out[name] = core.prox(v, case.penalty, d)
        out |= labelled(name, core.prox_backward(grad, out[name], v, case.penalty, d))
    for name, momentum, nesterov in (
        ("sgd", None, False), ("momentum sgd", metric, False), ("nesterov sgd", metric, True),
    ):  # fmt: skip
        out |= labelled(name, core.prox_sgd(v, grad, momentum, case.penalty, nesterov))
    out |= labelled("adamw", core.prox_adamw(v, grad, v - grad, metric, case.penalty))
    level = np.abs(v[..., 0])
    radial = {"strength": level, "step": level * 0 + 0.5, "shape": level * 0 + 3.5}
    for kind in range(3):
        out[f"radial {kind}"] = core.radial_prox(v, radial, kind)
        out |= labelled(f"radial {kind}", core.radial_prox_backward(grad, v, radial, kind))
    for name, d in (("linf", None), ("metric linf", metric)):
        out[name] = core.linf_prox(v, radial, d)
        out |= labelled(name, core.linf_prox_backward(grad, out[name], v, radial, d))
    return out


def reductions(core: Any, case: Case) -> dict[str, np.ndarray]:
    x = core.prox(case.weights["v"], case.penalty)
    usage = core.feature_usage(x)
    return {
        "penalty_value": core.penalty_value(x, case.penalty),
        **labelled("penalty_value", core.penalty_value_backward(0.5, x, case.penalty)),
        **labelled("feature_usage", usage),
        "feature_usage_backward": core.feature_usage_backward(usage["magnitude"], x),
    }


def targets(y: np.ndarray, loss: int) -> np.ndarray:
    """y itself, the class of its largest entry as a distribution, or its signs as 0 and 1."""
    if loss == SQUARED:
        return y
    largest = y == y.max(-1, keepdims=True) if y.size else y
    hard = (largest if loss == MULTINOMIAL else y > 0).astype(y.dtype)
    return np.where(np.isnan(y), y, hard)


def heads(core: Any, case: Case, loss: int) -> dict[str, np.ndarray]:
    z, y = case.samples["z"], targets(case.samples["y"], loss)
    rest = {key: value for key, value in case.samples.items() if key not in "zy"} | {"loss": loss}
    # Coupled passes start threads for every feature: two passes run all the code there is. Lanes
    # take sparse heads that may take a hundred.
    max_iter = 2 if "shared" in case.penalty else 100
    cold = core.fit_heads(z, y, case.penalty, max_iter=max_iter, **rest)
    warm = core.fit_heads(z, y, case.penalty, init=case.weights["v"], max_iter=max_iter, **rest)
    weight, grad = cold["weight"], case.weights["grad"]
    backward = core.fit_heads_backward(
        z, y, case.penalty, weight, grad, np.ones_like(cold["bias"]), **rest
    )
    outputs = {
        **labelled("cold", cold),
        **labelled("warm", warm),
        **labelled("fit_heads", backward),
        "lambda_max": core.lambda_max(z, y, case.penalty, **rest),
        "duality_gap": core.duality_gap(z, y, case.penalty, weight, **rest),
    }
    return outputs if loss == SQUARED else labelled(f"loss {loss}", outputs)


def labelled(name: str, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{name}: {key}": value for key, value in outputs.items()}


def main(path: str, threads: str, fault: str | None = None) -> None:
    core = load(path)
    core.set_threads(int(threads))
    if fault is not None:
        getattr(core, fault)()
        return
    cases = odd_cases() if threads == "1" else parallel_cases()
    print(sum(1 for case in cases if exercise(core, case)), "cases")


if __name__ == "__main__":
    main(*sys.argv[1:])
