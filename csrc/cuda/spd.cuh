// A symmetric positive definite system of a block: K = L D L', by columns.
#pragma once

#include "block.cuh"

SPARSEDIS_BEGIN

// Where entry (i, j) of the lower half of a matrix lies, and how many columns are eliminated
// together: of systems with few columns one, of others three (with four, what every thread does for
// itself outweighs what is saved).
struct Square {
  static constexpr int kPivots = 1;
  int N;
  __device__ int operator()(int i, int j) const { return i * N + j; }
};
struct Packed {
  static constexpr int kPivots = 3;
  __device__ int operator()(int i, int j) const { return (i * (i + 1) >> 1) + j; }
};

// `count` columns from column k on of what is left of K -> those of L D, whose part of the columns
// after them is taken away; false where K is not positive definite.
template <int count, typename Number, typename At>
__device__ bool eliminate(const Block& block, Number* K, int N, int k, At at) {
  // L D, L and 1 / D where these columns cross their rows, by every thread.
  Number own[count][count], unit[count][count], inverse[count];
#pragma unroll
  for (int r = 0; r < count; ++r) {
#pragma unroll
    for (int q = 0; q <= r; ++q) {
      own[r][q] = K[at(k + r, k + q)];
#pragma unroll
      for (int p = 0; p < q; ++p) own[r][q] -= own[r][p] * unit[q][p];
      if (q < r) unit[r][q] = own[r][q] * inverse[q];
    }
    if (!(own[r][r] > 0)) return false;
    inverse[r] = 1 / own[r][r];
  }
  const int after = k + count;
  if constexpr (count > 1) {
#pragma unroll 1
    for (int i = after + Block::rank(); i < N; i += block.threads) {
      Number* row = K + at(i, k);
#pragma unroll
      for (int q = 1; q < count; ++q)
#pragma unroll
        for (int p = 0; p < q; ++p) row[q] -= row[p] * unit[q][p];
    }
    Block::sync();
    if (Block::rank() == 0)
#pragma unroll
      for (int r = 1; r < count; ++r)
#pragma unroll
        for (int q = 1; q <= r; ++q) K[at(k + r, k + q)] = own[r][q];
  }
#pragma unroll 1
  for (int first = after; first < N; first += kWarp) {
    const int j = first + Block::lane();
    Number scaled[count];
#pragma unroll
    for (int q = 0; q < count; ++q) scaled[q] = j < N ? K[at(j, k + q)] * inverse[q] : Number(0);
#pragma unroll 1
    for (int i = first + Block::warp(); i < N; i += block.warps()) {
      if (j > i) continue;
      const Number* row = K + at(i, k);
      Number left = K[at(i, j)];
#pragma unroll
      for (int q = 0; q < count; ++q) left -= row[q] * scaled[q];
      K[at(i, j)] = left;
    }
  }
  Block::sync();
  return true;
}

// The lower half of K (N, N) -> 1 / D on its diagonal and the columns of L D below it; false where
// it is not positive definite.
template <typename Number, typename At>
__device__ bool factor_spd(const Block& block, Number* K, int N, At at) {
  Block::sync();
  int k = 0;
  if constexpr (At::kPivots > 1)
#pragma unroll 1
    for (; k + At::kPivots <= N; k += At::kPivots)
      if (!eliminate<At::kPivots>(block, K, N, k, at)) return false;
#pragma unroll 1
  for (; k < N; ++k)
    if (!eliminate<1>(block, K, N, k, at)) return false;
  block.each(N, [&](int i) { K[at(i, i)] = 1 / K[at(i, i)]; });
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
