// Thin matrix products of a block: many rows, few outputs.
#pragma once

#include "block.cuh"

SPARSEDIS_BEGIN

// Whether samples are on the chip, where loops over them are worth unrolling.
using Near = std::true_type;
using Far = std::false_type;

// The rows of y (rows, C) as `multiply` reads them: of row k the outputs from c0 on.
template <typename T>
__device__ auto rows_of(const T* y, int C) {
  return [=](int k, int c0) {
    return [row = y + c0 + static_cast<int64_t>(k) * C](int c) { return row[c]; };
  };
}

// sums(i, c) += x(where, row[i], k) y(k, c0)(c) for k = first, first + step, ... and `width`
// outputs.
template <int width, typename Where, typename Sum, typename X, typename Y>
__device__ void accumulate(Where where, const int (&row)[kRows], int first, int step, int inner,
                           int c0, X x, Y y, Sum (&sums)[kRows][kOutputs]) {
#pragma unroll(Where::value ? kAligned / sizeof(Sum) : 1)
  for (int k = first; k < inner; k += step) {
    const auto outputs = y(k, c0);
    Sum right[width];
#pragma unroll
    for (int c = 0; c < width; ++c) right[c] = outputs(c);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const Sum left = x(where, row[i], k);
#pragma unroll
      for (int c = 0; c < width; ++c) sums[i][c] += left * right[c];
    }
  }
}

// a / b, rounded down, of numbers up to a few thousand: (a + 1/2) / b is far enough from whole
// numbers for an estimate, which takes a fourth of a division's twenty instructions.
__device__ inline int small_quotient(int a, int b) {
  return static_cast<int>(__fdividef(a + 0.5f, static_cast<float>(b)));
}

// write(r, c, sum_k x(where, r, k) y(k, 0)(c)) for r in [0, rows), c in [0, C), where `where` is
// Near or Far: a thread takes kRows rows, which share what it reads of y, and where there are few
// rows a share of the sum. Outputs go by five, two and one, each a loop of its own: asking for
// every output whether there is one took more instructions than the product.
template <typename Sum, typename X, typename Y, typename F>
__device__ void multiply(const Block& block, bool near, int rows, int inner, int C, X x, Y y,
                         F write) {
  Sum* partial = reinterpret_cast<Sum*>(block.partial);
  const int threads = block.threads, rank = Block::rank();
#pragma unroll 1
  for (int r0 = 0; r0 < rows; r0 += kRows * threads) {
    const int count = min(rows - r0, kRows * threads);
    const int step = (count + kRows - 1) / kRows;  // from one row of a thread to its next
    // The loop over a share is unrolled only where the compiler knows that there is one.
    const int parts = max(small_quotient(threads, step), 1), part = small_quotient(rank, step);
#pragma unroll 1
    for (int c0 = 0, width; c0 < C; c0 += width) {
      width = C - c0 >= kOutputs ? kOutputs : min(C - c0, 2);
      if (part < parts) {
        int row[kRows];
#pragma unroll
        for (int i = 0; i < kRows; ++i) row[i] = r0 + min(rank - part * step + i * step, count - 1);
        Sum sums[kRows][kOutputs] = {};
        const auto add = [&](auto where) {
          if (width == kOutputs)
            accumulate<kOutputs>(where, row, part, parts, inner, c0, x, y, sums);
          else if (width == 2)
            accumulate<2>(where, row, part, parts, inner, c0, x, y, sums);
          else
            accumulate<1>(where, row, part, parts, inner, c0, x, y, sums);
        };
        near ? add(Near()) : add(Far());
#pragma unroll
        for (int i = 0; i < kRows; ++i)
#pragma unroll
          for (int c = 0; c < kOutputs; ++c)
            partial[(i * kOutputs + c) * threads + rank] = sums[i][c];
      }
      Block::sync();
#pragma unroll 1
      for (int c = 0; c < width; ++c)
#pragma unroll 1
        for (int r = rank; r < count; r += threads) {
          static_assert(kRows == 2);
          const int i = r >= step;
          const Sum* from = partial + (i * kOutputs + c) * threads + r - i * step;
          Sum sum = *from;
#pragma unroll 1
          for (int p = 1; p < parts; ++p) sum += *(from += step);
          write(r0 + r, c0 + c, sum);
        }
      Block::sync();
    }
  }
}

SPARSEDIS_END
