// Where ridge keeps the system of a block's task.
#pragma once

#include "task_job.h"

SPARSEDIS_BEGIN

constexpr int kTileSide = 4;  // rows and columns of the system that a thread sums up together

struct RidgeMemory {
  double *K, *inverse;  // the lower half of (N, N), row after row; (M)

  SPARSEDIS_HD RidgeMemory(Arena& arena, int64_t N, int64_t M) {
    K = arena.take<double>(packed_numbers(N)), inverse = arena.take<double>(M);
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
