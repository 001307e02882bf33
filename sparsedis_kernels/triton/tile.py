"""How a (T, M, C) problem is cut into programs: plain functions of shapes, strides and dtypes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

BYTES = 4096  # of one array in a tile: two 16-byte accesses for each of 128 threads
TASKS = 32  # at most, that one program walks through where tasks are independent
PROGRAMS = 1024  # enough to fill a device; more tasks make programs longer
FEW_PROGRAMS = 264  # two for every multiprocessor of a large device
SUMMED = 1024  # bytes of a feature beside which the sums of a chunk are small
MAX_WARPS = 16
SECTOR = 32  # bytes that memory moves at least
ITERATES = 6  # arrays that a kernel keeps which iterates for the norm of a feature
REGISTERS = 200 << 10  # bytes of a multiprocessor's 256 KiB that one program may plan with


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (max(n, 1) - 1).bit_length()


def _registers(groups: int, C: int, size: int, kept: int) -> int:
    """Bytes that a program keeps: values of every lane, and float64 values of every group."""
    return kept * (power_of_two(groups * C) * max(size, 4) + groups * 8)


@dataclass(frozen=True)
class Tile:
    """Groups that a program handles at a time; a constant of the kernel.

    They are consecutive groups of one task, or those of a few features for all tasks.
    """

    C: int  # entries of a group
    filled: int  # groups in a full tile
    groups: int  # `filled` and `C`, rounded up to powers of two
    entries: int
    lanes: int  # a power of two >= filled * C
    vector: int  # elements of a 16-byte access to the narrowest array; 1 if they are not aligned
    dense: bool  # groups and their entries lie one after another in memory
    double: bool  # computes in float64, else in float32
    tasks: int = 1  # a power of two; with more than one the groups go task after task
    single: bool = False  # the problem has one task

    @property
    def axis(self) -> int:
        """The axis of entries in blocked form: in registers of one thread where C is odd-sized."""
        return 1 if self.entries == self.C or self.groups == 1 else 0

    @property
    def newton_steps(self) -> int:
        """Newton steps of a secular equation.

        Measured over 20,000 random groups: from the start used here twelve reach float32's
        rounding where D spans twelve decades, sixteen float64's; six, which suffice near the
        threshold, leave 2e-4 of the weight away from it where D spans four.
        """
        return 16 if self.double else 12

    @property
    def warps(self) -> int:
        """Warps of a program: 32 bytes of an array for each thread.

        In float64 eight at most: more would leave a thread too few registers for its arithmetic.
        """
        size, most = (8, MAX_WARPS // 2) if self.double else (4, MAX_WARPS)
        return min(max(self.lanes * size // 1024, 1), most)


@dataclass(frozen=True)
class View:
    """A tensor of the problem and its strides over (T, M, C) or, for a strength, over (T, M)."""

    data: Tensor
    strides: tuple[int, ...]

    @staticmethod
    def of(data: Tensor) -> View:
        """The view of a tensor as it lies in memory."""
        return View(data, data.stride())


@dataclass(frozen=True)
class Problem:
    """Sizes and tensors of one launch, with axes merged where every tensor allows it."""

    T: int
    M: int
    C: int
    arrays: tuple[View | None, ...]
    strengths: tuple[View | None, ...]

    @staticmethod
    def of(
        shape: Sequence[int], arrays: Sequence[Tensor | None], strengths: Sequence[Tensor | None]
    ) -> Problem:
        """The problem as it is: shape and `arrays` (T, M, C), `strengths` (T, M)."""
        views = [None if a is None else View.of(a) for a in arrays]
        levels = [None if s is None else View.of(s) for s in strengths]
        T, M, C = shape
        return Problem(T, M, C, tuple(views), tuple(levels))

    def merged(self, *, grouped: bool) -> Problem:
        """The problem with tasks merged into features, and entries too if nothing groups them.

        Only where the strides allow it, and for ops that treat every group alike.
        """
        problem = self._with_tasks_merged()
        return problem if grouped else problem._with_entries_merged()

    @property
    def tensors(self) -> list[Tensor | None]:
        """The arrays, then the strengths."""
        return [None if v is None else v.data for v in (*self.arrays, *self.strengths)]

    @property
    def like(self) -> Tensor:
        """A tensor on the device of the problem."""
        return next(v.data for v in self.arrays if v is not None)

    @property
    def dense(self) -> bool:
        """Whether the groups of a task, and their entries, follow one another in every array."""
        return all(a is None or a.strides[1:] == (self.C, 1) for a in self.arrays)

    def _with_tasks_merged(self) -> Problem:
        present = [v for v in (*self.arrays, *self.strengths) if v is not None]
        if self.T == 1 or any(v.strides[0] != self.M * v.strides[1] for v in present):
            return self

        def merged(v: View | None) -> View | None:
            return None if v is None else View(v.data, (0, *v.strides[1:]))

        arrays, strengths = (tuple(map(merged, vs)) for vs in (self.arrays, self.strengths))
        return Problem(1, self.T * self.M, self.C, arrays, strengths)

    def _with_entries_merged(self) -> Problem:
        repeated = all(s is None or s.strides[1] == 0 for s in self.strengths)
        if not (self.dense and repeated):
            return self
        arrays = tuple(
            None if a is None else View(a.data, (a.strides[0], 1, 1)) for a in self.arrays
        )
        return replace(self, M=self.M * self.C, C=1, arrays=arrays)

    @property
    def strides(self) -> list[int]:
        """Three strides for every array, then two for every strength; 0 where there is none."""
        arrays = [(0, 0, 0) if a is None else a.strides for a in self.arrays]
        strengths = [(0, 0) if s is None else s.strides for s in self.strengths]
        return [stride for strides in (*arrays, *strengths) for stride in strides]

    def form(self, k: int) -> str:
        """How strength k varies: "number", or a tensor's "scalar", "task", "feature" or "both"."""
        view = self.strengths[k]
        if view is None:
            return "number"
        if not any(view.strides):
            return "scalar"
        if view.strides[1] == 0:
            return "task"
        return "feature" if self.T == 1 or view.strides[0] == 0 else "both"

    def is_shared(self, k: int) -> bool:
        """Whether strength k is the same for all tasks."""
        return self.form(k) in ("number", "scalar", "feature")

    def tile(self) -> Tile:
        """The tile of this problem."""
        size = max(a.data.element_size() for a in self.arrays if a is not None)
        entries = power_of_two(self.C)
        # Many tasks of few features leave no lanes idle; one task takes the common tile.
        most = BYTES // size
        lanes = max(min(most, power_of_two(self.M * self.C)) if self.T > 1 else most, entries)
        vector = self._vector() if self.dense else 1
        filled = lanes // self.C
        filled -= filled % (vector // math.gcd(self.C, vector))
        if filled == 0:
            filled, vector = 1, 1
        groups = power_of_two(filled)
        return Tile(
            self.C, filled, groups, entries, lanes, vector, self.dense, size == 8,
            single=self.T == 1,
        )  # fmt: skip

    def tile_of_features(self, kept: int) -> Tile | None:
        """The tile of a few features with all their tasks, if it fits in the registers.

        Rows are whole sectors if that fits, else 16 bytes at least; of any width for a kernel that
        iterates, which without such a tile would read everything a dozen times.

        Args:
            kept: array-sized values that the kernel holds at a time; `ITERATES` where it iterates.
        """
        size = max(a.data.element_size() for a in self.arrays if a is not None)
        tasks, row = power_of_two(self.T), self.C * size
        features = 1
        while features * row % SECTOR or (tasks * features * row < BYTES and features < self.M):
            features *= 2
        while _registers(tasks * features, self.C, size, kept) > REGISTERS:
            if features == 1 or (features * row < 32 and kept != ITERATES):
                return None
            features //= 2
        return self._tile_of_features(tasks, features, size)

    def _tile_of_features(self, tasks: int, features: int, size: int) -> Tile:
        groups, entries = tasks * features, power_of_two(self.C)
        lanes = power_of_two(groups * self.C)
        vector = self._vector() if self.dense else 1
        if self.M * self.C % vector or features * self.C % vector:
            vector = 1
        return Tile(self.C, groups, groups, entries, lanes, vector, self.dense, size == 8, tasks)

    def _vector(self) -> int:
        """Elements of a 16-byte access to the narrowest array, or 1 where a task is not aligned."""
        arrays = [a for a in self.arrays if a is not None]
        for a in arrays:
            stride = a.strides[0] * a.data.element_size() if self.T > 1 else 0
            if a.data.data_ptr() % 16 or stride % 16:
                return 1
        return 16 // min(a.data.element_size() for a in arrays)

    def chunks(self, tile: Tile) -> tuple[int, int, int]:
        """(blocks of features, tasks per program, chunks of tasks).

        A program walks through the tasks of a chunk and keeps what they share.
        """
        blocks = -(-self.M // tile.filled)
        tasks = min(-(-self.T * blocks // PROGRAMS), TASKS, self.T)
        return blocks, tasks, -(-self.T // tasks)

    def chunks_of_sums(self, tile: Tile) -> tuple[int, int, int]:
        """`chunks` for a kernel that leaves the sums of every chunk: fewer, larger chunks.

        So that sums are few beside what they sum, as long as enough programs remain.
        """
        blocks = -(-self.M // tile.filled)
        enough = -(-SUMMED // (tile.C * (8 if tile.double else 4)))
        tasks = max(-(-self.T * blocks // PROGRAMS), min(enough, self.T * blocks // FEW_PROGRAMS))
        tasks = min(max(tasks, 1), self.T)
        return blocks, tasks, -(-self.T // tasks)
