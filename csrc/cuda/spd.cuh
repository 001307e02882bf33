// A symmetric positive definite system of a block: K = L D L', by columns.
#pragma once

#include "block.cuh"

SPARSEDIS_BEGIN

// Where entry (i, j) of the lower half of a matrix lies.
struct Square {
  int N;
  __device__ int operator()(int i, int j) const { return i * N + j; }
};
struct Packed {
  __device__ int operator()(int i, int j) const { return (i * (i + 1) >> 1) + j; }
};

// The lower half of K (N, N) -> 1 / D on its diagonal and the columns of L D below it; false where
// it is not positive definite.
template <typename Number, typename At>
__device__ bool factor_spd(const Block& block, Number* K, int N, At at) {
  Block::sync();
#pragma unroll 1
  for (int k = 0; k < N; ++k) {
    const Number pivot = K[at(k, k)];
    if (!(pivot > 0)) return false;
    const Number inverse = 1 / pivot;
#pragma unroll 1
    for (int first = k + 1; first < N; first += kWarp) {
      const int j = first + Block::lane();
      const Number scaled = j < N ? K[at(j, k)] * inverse : Number(0);
#pragma unroll 1
      for (int i = first + Block::warp(); i < N; i += block.warps())
        if (j <= i) K[at(i, j)] -= K[at(i, k)] * scaled;
    }
    Block::sync();
  }
  block.each(N, [&](int k) { K[at(k, k)] = 1 / K[at(k, k)]; });
  return true;
}

// x <- K^-1 x for x (N, C), from the factor: a warp takes a column, and waits for no other.
template <typename Number, typename At>
__device__ void solve_spd(const Block& block, const Number* K, int N, int C, Number* x, At at) {
#pragma unroll 1
  for (int c = Block::warp(); c < C; c += block.warps()) {
#pragma unroll 1
    for (int k = 0; k < N; ++k) {
      const Number from = K[at(k, k)] * x[k * C + c];
#pragma unroll 1
      for (int i = k + 1 + Block::lane(); i < N; i += kWarp) x[i * C + c] -= K[at(i, k)] * from;
      __syncwarp();
    }
#pragma unroll 1
    for (int i = Block::lane(); i < N; i += kWarp) x[i * C + c] *= K[at(i, i)];
    __syncwarp();
#pragma unroll 1
    for (int k = N - 1; k > 0; --k) {
      const Number from = x[k * C + c];
#pragma unroll 1
      for (int i = Block::lane(); i < k; i += kWarp)
        x[i * C + c] -= K[at(k, i)] * K[at(i, i)] * from;
      __syncwarp();
    }
  }
  Block::sync();
}

SPARSEDIS_END
