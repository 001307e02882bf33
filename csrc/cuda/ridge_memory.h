// Where ridge keeps the system of a block's task.
#pragma once

#include "task_job.h"

SPARSEDIS_BEGIN

constexpr int kTileSide = 4;  // rows and columns of the system that a thread sums up together

template <typename Compute>
struct RidgeMemory {
  Compute *K, *inverse;  // the lower half of (N, N), row after row; (M)

  SPARSEDIS_HD RidgeMemory(Arena& arena, int64_t N, int64_t M) {
    K = arena.take<Compute>(packed_numbers(N)), inverse = arena.take<Compute>(M);
  }
};

// The same task in double, off the chip but for what it has in double anyway: where float32 does
// not reach the gap.
template <typename Real>
struct ExactMemory {
  RidgeMemory<double> ridge;
  TaskMemory<double, Real> task{};

  SPARSEDIS_HD ExactMemory(Arena& arena, const TaskMemory<Real>& fitted, int64_t N, int64_t M,
                           int64_t C)
      : ridge(arena, N, M) {
    task.zbar = fitted.zbar, task.ybar = fitted.ybar, task.g = fitted.g;
    task.p = fitted.p, task.root = fitted.root, task.y = fitted.y, task.R = fitted.R;
    task.ridge = arena.take<double>(M), task.W = arena.take<double>(M * C);
  }
};

// Unknowns of the largest system: ragged tasks may have any number of samples.
template <typename Real>
SPARSEDIS_HD int64_t ridge_unknowns(const SamplesArgs<Real>& s) {
  return s.offsets || s.M < s.n ? s.M : s.n;
}

// A warp where no more tiles of the system than it has threads are to be summed up, and few
// features are left for more: it waits for no other warp, and four times as many tasks are under
// way.
inline int ridge_threads(int64_t unknowns, int64_t M) {
  const int64_t side = (unknowns + kTileSide - 1) / kTileSide;
  return side * (side + 1) / 2 <= kWarp && M <= 2 * kWarp ? kWarp : kThreads;
}

SPARSEDIS_END
