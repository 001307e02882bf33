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

SPARSEDIS_END
