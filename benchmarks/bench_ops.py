"""The cases of `sparsedis bench` under pytest-benchmark."""

import torch

from sparsedis_kernels.bench import MODULES
from sparsedis_kernels.bench.measure import cases

CASES = list(cases(list(MODULES), "cuda" if torch.cuda.is_available() else "cpu"))


def bench_ops(timed, case, provider):
    timed(case, provider)
