"""Problems that the tests and the benchmarks share, and what is right about an answer to them."""

import torch
from torch import Tensor

import sparsedis_kernels as sk
from sparsedis_kernels.bench.problems import Samples, heads_problem

LEVELS = ("l1", "group", "shared", "ridge")

# Every way in which levels combine that takes a path of its own.
LEVEL_SETS = [
    ("l1",),
    ("group",),
    ("shared",),
    ("ridge",),
    ("l1", "group"),
    ("l1", "shared"),
    ("group", "shared"),
    ("l1", "group", "ridge"),
    ("l1", "group", "shared", "ridge"),
]

# Penalties of a head fit, in proportions: `scaled_penalty` brings them to a share of lambda_max.
HEAD_PENALTIES = {
    "ridge": sk.Penalty(ridge=0.1),
    "lasso": sk.Penalty(l1=1.0),
    "elastic_net": sk.Penalty(l1=1.0, ridge=0.1),
    "nonneg": sk.Penalty(l1=1.0, nonneg=True),
    "group": sk.Penalty(group=1.0),
    "sparse_group": sk.Penalty(l1=0.5, group=0.5),
    "sparse_group_ridge": sk.Penalty(l1=0.5, group=0.5, ridge=0.1),
    "shared": sk.Penalty(shared=1.0),
    "nested": sk.Penalty(l1=0.3, group=0.3, shared=0.6),
    "nested_ridge": sk.Penalty(l1=0.3, group=0.3, shared=0.6, ridge=0.1),
}


def ragged(counts: list[int], M: int, C: int) -> Samples:
    """Samples of tasks with the given numbers of samples, packed."""
    offsets = torch.tensor([0, *counts]).cumsum(0)
    dense = heads_problem(1, int(offsets[-1]), M, C)
    return Samples(dense.z[0], dense.y[0], offsets)


# Tasks that lanes take: either side is the smaller one; one task has no sample, and one too many to
# go with the others.
UNEVEN_FEATURES = 20
UNEVEN_COUNTS = [*range(41), 500, 21, 20, 19, 3, 3, 90]
NAN_TASK, CONSTANT_TASK, WEIGHTLESS_TASK = 7, 11, 45


def uneven_tasks(C: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z, y, weights and offsets of tasks among which some are no problem at all."""
    torch.manual_seed(C)
    samples = ragged(UNEVEN_COUNTS, UNEVEN_FEATURES, C)
    weight = torch.rand(sum(UNEVEN_COUNTS), dtype=torch.float64) + 0.1
    begin = samples.offsets.tolist()
    samples.z[begin[NAN_TASK], 3] = torch.nan
    samples.y[begin[CONSTANT_TASK] : begin[CONSTANT_TASK + 1]] = 2.0
    weight[begin[WEIGHTLESS_TASK] : begin[WEIGHTLESS_TASK + 1]] = 0.0
    return samples.z.to(dtype), samples.y.to(dtype), weight.to(dtype), samples.offsets


def uneven_task(data: tuple[Tensor, ...], t: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same of task t by itself."""
    z, y, weight, offsets = data
    rows = slice(int(offsets[t]), int(offsets[t + 1]))
    return z[rows], y[rows], weight[rows], torch.tensor([0, UNEVEN_COUNTS[t]])


def one_design(T: int, n: int, M: int, C: int) -> Samples:
    """One design for all tasks."""
    dense = heads_problem(1, n, M, T * C)
    return Samples(dense.z[0], dense.y[0].unflatten(1, (T, C)).transpose(0, 1).contiguous())


LAYOUTS = {
    "dense": lambda: heads_problem(4, 14, 9, 2),
    "wide": lambda: heads_problem(3, 7, 15, 2),
    "ragged": lambda: ragged([9, 0, 14, 1], 8, 2),
    "one_design": lambda: one_design(4, 14, 9, 2),
}

# Large enough that the kernels share them between threads.
LARGE_LAYOUTS = {
    "dense": lambda: heads_problem(40, 30, 20, 2),
    "ragged": lambda: ragged([25 + t % 11 for t in range(40)], 20, 2),
    "one_design": lambda: one_design(40, 30, 20, 2),
}


def scaled_penalty(samples: Samples, penalty: sk.Penalty, share: float = 0.15) -> sk.Penalty:
    """The penalty at `share` of lambda_max, the same number for every task."""
    if penalty == HEAD_PENALTIES["ridge"]:
        return penalty
    largest = sk.lambda_max(samples.z, samples.y, penalty, **samples.keywords())
    finite = largest[torch.isfinite(largest)]
    return penalty.scaled(share * float(finite.max()))


def fit(samples: Samples, penalty: sk.Penalty, **options) -> sk.HeadsFit:
    return sk.fit_heads(samples.z, samples.y, penalty, **samples.keywords(), **options)


def random_penalty(levels, T: int, M: int, *, dtype=torch.float64, like: str = "group", **extra):
    """A penalty with strengths of the given form: "float", "task", "feature" or "group"."""
    shapes = {"task": (T, 1), "feature": (1, M), "group": (T, M)}
    values = {}
    for level in levels:
        if like == "float":
            values[level] = 0.3
        elif level == "shared":
            values[level] = 0.2 + 0.4 * torch.rand(M, dtype=dtype)
        else:
            values[level] = 0.2 + 0.4 * torch.rand(shapes[like], dtype=dtype)
    return sk.Penalty(**values, **extra)


def assert_as_accurate(actual: Tensor, reference: Tensor, exact: Tensor) -> None:
    """`actual` is at most twice as far from `exact` (float64) as the reference in its dtype.

    The floor, four units in the last place of the largest value, is what rounding the exact answer
    and one more operation cost.
    """
    ours = float((actual.double() - exact).abs().max()) if actual.numel() else 0.0
    theirs = float((reference.double() - exact).abs().max()) if actual.numel() else 0.0
    size = float(exact.abs().max()) if actual.numel() else 0.0
    floor = 4 * torch.finfo(actual.dtype).eps * size
    assert ours <= 2 * theirs + floor, (
        f"error {ours:.3g}, reference {theirs:.3g}, floor {floor:.3g}"
    )
