// A symmetric positive definite system of a block: K = L D L', by columns.
#pragma once

#include "block.cuh"

SPARSEDIS_BEGIN

// K (N, N) -> D on its diagonal and the columns of L D below it; false where it is not positive
// definite.
__device__ inline bool factor_spd(const Block& block, double* K, int64_t N) {
  for (int64_t k = 0; k < N; ++k) {
    const double pivot = K[k * N + k];
    if (!(pivot > 0)) return false;
    const int64_t left = N - k - 1;
    block.each(left * left, [&](int64_t at) {
      const int64_t i = k + 1 + at / left, j = k + 1 + at % left;
      if (j <= i) K[i * N + j] -= K[i * N + k] * K[j * N + k] / pivot;
    });
  }
  return true;
}

// x <- K^-1 x
__device__ inline void solve_spd(const Block& block, const double* K, int64_t N, double* x) {
  for (int64_t k = 0; k < N; ++k) {
    const double solved = x[k] / K[k * N + k];
    block.each(N - k - 1, [&](int64_t at) { x[k + 1 + at] -= K[(k + 1 + at) * N + k] * solved; });
  }
  block.each(N, [&](int64_t k) { x[k] /= K[k * N + k]; });
  for (int64_t k = N - 1; k > 0; --k) {
    const double solved = x[k];
    block.each(k, [&](int64_t i) { x[i] -= K[k * N + i] / K[i * N + i] * solved; });
  }
}

SPARSEDIS_END
