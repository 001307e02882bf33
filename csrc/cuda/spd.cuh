// A symmetric positive definite system of a block: K = L D L', by columns.
#pragma once

#include "block.cuh"

SPARSEDIS_BEGIN

// Where entry (i, j) of the lower half of a matrix lies.
struct Square {
  int64_t N;
  __device__ int64_t operator()(int64_t i, int64_t j) const { return i * N + j; }
};
struct Packed {
  __device__ int64_t operator()(int64_t i, int64_t j) const { return packed_numbers(i) + j; }
};

// The lower half of K (N, N) -> D on its diagonal and the columns of L D below it; false where it
// is not positive definite.
template <typename At>
__device__ bool factor_spd(const Block& block, double* K, int64_t N, At at) {
  Block::sync();
  for (int64_t k = 0; k < N; ++k) {
    const double pivot = K[at(k, k)];
    if (!(pivot > 0)) return false;
    const double inverse = 1 / pivot;
    for (int64_t i = k + 1 + Block::warp(); i < N; i += block.warps()) {
      const double scaled = K[at(i, k)] * inverse;
      for (int64_t j = k + 1 + Block::lane(); j <= i; j += kWarp)
        K[at(i, j)] -= scaled * K[at(j, k)];
    }
    Block::sync();
  }
  return true;
}

// x <- K^-1 x for x (N, C), from the factor.
template <typename At>
__device__ void solve_spd(const Block& block, const double* K, int64_t N, int64_t C, double* x,
                          At at) {
  for (int64_t k = 0; k < N; ++k) {
    const double inverse = 1 / K[at(k, k)];
    block.each((N - k - 1) * C, [&](int64_t entry) {
      const int64_t i = k + 1 + entry / C, c = entry % C;
      x[i * C + c] -= K[at(i, k)] * inverse * x[k * C + c];
    });
  }
  block.each(N * C, [&](int64_t entry) { x[entry] /= K[at(entry / C, entry / C)]; });
  for (int64_t k = N - 1; k > 0; --k)
    block.each(k * C, [&](int64_t entry) {
      const int64_t i = entry / C, c = entry % C;
      x[entry] -= K[at(k, i)] / K[at(i, i)] * x[k * C + c];
    });
}

SPARSEDIS_END
