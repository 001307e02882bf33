// Where ridge keeps the system of a block's task.
#pragma once

#include "task_memory.h"

SPARSEDIS_BEGIN

struct RidgeMemory {
  double *K, *x, *inverse,
      *partial;  // the lower half of (N, N), row after row; (N, C); (M); scratch

  SPARSEDIS_HD RidgeMemory(Arena& arena, double* scratch, int64_t N, int64_t M, int64_t C)
      : partial(scratch) {
    K = arena.take<double>(packed_numbers(N)), x = arena.take<double>(N * C);
    inverse = arena.take<double>(M);
  }
};

// Unknowns of the largest system: ragged tasks may have any number of samples.
template <typename Real>
SPARSEDIS_HD int64_t ridge_unknowns(const SamplesArgs<Real>& s) {
  return s.offsets || s.M < s.n ? s.M : s.n;
}

SPARSEDIS_END
