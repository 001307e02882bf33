// A symmetric positive definite system of a block: K = L D L', by columns.
#pragma once

#include "block.cuh"

SPARSEDIS_BEGIN

// The lower half of K (N, N) -> D on its diagonal and the columns of L D below it; false where it
// is not positive definite.
__device__ inline bool factor_spd(const Block& block, double* K, int64_t N) {
  Block::sync();
  for (int64_t k = 0; k < N; ++k) {
    const double pivot = K[k * N + k];
    if (!(pivot > 0)) return false;
    const double inverse = 1 / pivot;
    for (int64_t i = k + 1 + Block::warp(); i < N; i += kWarps) {
      const double scaled = K[i * N + k] * inverse;
      for (int64_t j = k + 1 + Block::lane(); j <= i; j += kWarp)
        K[i * N + j] -= scaled * K[j * N + k];
    }
    Block::sync();
  }
  return true;
}

// x <- K^-1 x for x (N, C), from the factor.
__device__ inline void solve_spd(const Block& block, const double* K, int64_t N, int64_t C,
                                 double* x) {
  for (int64_t k = 0; k < N; ++k) {
    const double inverse = 1 / K[k * N + k];
    block.each((N - k - 1) * C, [&](int64_t at) {
      const int64_t i = k + 1 + at / C, c = at % C;
      x[i * C + c] -= K[i * N + k] * inverse * x[k * C + c];
    });
  }
  block.each(N * C, [&](int64_t at) { x[at] /= K[at / C * N + at / C]; });
  for (int64_t k = N - 1; k > 0; --k)
    block.each(k * C, [&](int64_t at) {
      const int64_t i = at / C, c = at % C;
      x[at] -= K[k * N + i] / K[i * N + i] * x[k * C + c];
    });
}

SPARSEDIS_END
