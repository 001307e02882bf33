"""Episodes: tasks whose samples are parted into support and query."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Generator, Tensor

from sparsedis_kernels.data import TaskSource


class Episode(NamedTuple):
    """T tasks; the first `n_support` samples of each are its support, the others its query."""

    x: Tensor  # (T, n, *input_shape)
    y: Tensor  # (T, n, C)
    n_support: int

    def parts(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Split (T, n, ...) into support and query."""
        return values[:, : self.n_support], values[:, self.n_support :]


def sample_episode(
    source: TaskSource, n_tasks: int, sizes: tuple[int, int], generator: Generator, **options: Any
) -> Episode:
    """Draw an episode with `sizes` (support, query); `options` go to ``source.sample``."""
    tasks = source.sample(n_tasks, sum(sizes), generator, **options)
    return Episode(tasks.x, tasks.y, sizes[0])
