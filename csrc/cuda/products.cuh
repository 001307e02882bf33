// Thin matrix products of a block: many rows, few outputs.
#pragma once

#include "block.cuh"

SPARSEDIS_BEGIN

// write(r, c, sum_k x(r, k) y(k, c)) for r in [0, rows), c in [0, C): a thread takes a row, and
// where there are few rows a share of the sum. `partial` has room for kOutputs numbers a
// thread.
template <typename Sum, typename X, typename Y, typename F>
__device__ void multiply(const Block& block, int64_t rows, int64_t inner, int64_t C, Sum* partial,
                         X x, Y y, F write) {
  const int threads = block.threads;
  const int parts = rows > 0 && 2 * rows <= threads ? threads / static_cast<int>(rows) : 1;
  const int part = parts > 1 ? Block::rank() / static_cast<int>(rows) : 0;
  const int64_t first = Block::rank() - part * rows;  // of this thread's rows
  for (int64_t c0 = 0; c0 < C; c0 += kOutputs) {
#pragma unroll 1
    for (int64_t r = first; r < rows && part < parts; r += threads) {
      Sum sums[kOutputs] = {};
#pragma unroll 2
      for (int64_t k = part; k < inner; k += parts) {
        const Sum left = x(r, k);
#pragma unroll
        for (int c = 0; c < kOutputs; ++c)
          if (c0 + c < C) sums[c] += left * y(k, c0 + c);
      }
#pragma unroll
      for (int c = 0; c < kOutputs; ++c) {
        if (parts > 1)
          partial[c * threads + Block::rank()] = sums[c];
        else if (c0 + c < C)
          write(r, c0 + c, sums[c]);
      }
    }
    Block::sync();
    if (parts == 1) continue;
    const int64_t width = C - c0 < kOutputs ? C - c0 : kOutputs;
    block.each(rows * width, [&](int64_t at) {
      const int64_t r = at / width, c = at % width;
      Sum sum = 0;
      for (int64_t p = 0; p < parts; ++p) sum += partial[c * threads + p * rows + r];
      write(r, c0 + c, sum);
    });
  }
}

// write(a, b, sum_k scale(k) x(a, k) x(b, k)) once for every b <= a < rows: a thread takes kSide
// rows times kSide, from all over, so that threads side by side read rows side by side.
template <int kSide, typename X, typename Scale, typename F>
__device__ void multiply_lower(const Block& block, int rows, int inner, X x, Scale scale, F write) {
  const int step = (rows + kSide - 1) / kSide;
  for (int tile = Block::rank(); tile < step * (step + 1) / 2; tile += block.threads) {
    int p = static_cast<int>((sqrt(8.0 * tile + 1) - 1) / 2);
    p += (p + 1) * (p + 2) / 2 <= tile;  // where the root was rounded down
    const int q = tile - p * (p + 1) / 2;
    const auto row = [&](int first, int side) { return min(first + side * step, rows - 1); };
    double sums[kSide][kSide] = {};
#pragma unroll 1
    for (int k = 0; k < inner; ++k) {
      double right[kSide];
#pragma unroll
      for (int j = 0; j < kSide; ++j) right[j] = scale(k) * x(row(q, j), k);
#pragma unroll
      for (int i = 0; i < kSide; ++i) {
        const double left = x(row(p, i), k);
#pragma unroll
        for (int j = 0; j < kSide; ++j) sums[i][j] += left * right[j];
      }
    }
#pragma unroll
    for (int i = 0; i < kSide; ++i)
#pragma unroll
      for (int j = 0; j < kSide; ++j) {
        const int a = p + i * step, b = q + j * step;
        if (a < rows && b < rows && (p != q || i >= j)) write(max(a, b), min(a, b), sums[i][j]);
      }
  }
}

SPARSEDIS_END
