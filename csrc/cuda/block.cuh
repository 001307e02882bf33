// The threads of a block, which own a task or a feature together. What they sum up does not depend
// on how they run.
#pragma once

#include "task_job.h"

SPARSEDIS_BEGIN

struct Block {
  double* scratch;  // a number per thread, in shared memory
  double* partial;  // partials(threads), for thin products; null where there are none
  int threads;      // kThreads or kWarp

  __device__ int warps() const { return threads / kWarp; }
  __device__ static int rank() { return static_cast<int>(threadIdx.x); }
  __device__ static int lane() { return rank() % kWarp; }
  __device__ static int warp() { return rank() / kWarp; }
  __device__ static void sync() { __syncthreads(); }
  __device__ static bool any(bool x) { return __syncthreads_or(x); }

  // Calls body(i) for [0, count), each by one thread; what it writes, all may read afterwards.
  template <typename F>
  __device__ void each(int64_t count, F body) const {
#pragma unroll 1
    for (int64_t i = rank(); i < count; i += threads) body(i);
    sync();
  }
  // Two sums, of the pairs that body(i, pair) adds to.
  template <typename Number, typename F>
  __device__ void sums(int64_t count, Number (&pair)[2], F body) const {
    pair[0] = pair[1] = 0;
#pragma unroll 1
    for (int64_t i = rank(); i < count; i += threads) body(i, pair);
    for (Number& total : pair) total = combined(total, Sum());
  }
  // In the type of what is summed up.
  template <typename F>
  __device__ auto sum(int64_t count, F body) const {
    decltype(body(count)) total = 0;
#pragma unroll 1
    for (int64_t i = rank(); i < count; i += threads) total += body(i);
    return combined(total, Sum());
  }
  // The largest of 0 and the numbers that body(i) gives. Not a number counts as 0.
  template <typename F>
  __device__ double largest(int64_t count, F body) const {
    double most = 0;
#pragma unroll 1
    for (int64_t i = rank(); i < count; i += threads) most = fmax(most, body(i));
    return combined(most, Most());
  }
  // out[k] = sum_i term(i, k) for every k of [0, width). Columns lie side by side on threads; rows
  // are dealt out where there are fewer columns than threads.
  template <typename Out, typename F>
  __device__ void sum_rows(int64_t rows, int64_t width, Out* out, F term) const {
    using Number = decltype(term(rows, width));
    Number* scratch = reinterpret_cast<Number*>(this->scratch);
    if (2 * width > threads) {
      each(width, [&](int64_t k) {
        Number total = 0;
#pragma unroll 1
        for (int64_t i = 0; i < rows; ++i) total += term(i, k);
        out[k] = static_cast<Out>(total);
      });
      return;
    }
    const int64_t parts = width > 0 ? threads / width : 1, part = width > 0 ? rank() / width : 0;
    Number total = 0;
    if (part < parts && width > 0)
#pragma unroll 1
      for (int64_t i = part; i < rows; i += parts) total += term(i, rank() % width);
    scratch[rank()] = total;
    sync();
    each(width, [&](int64_t k) {
      Number sum = 0;
#pragma unroll 1
      for (int64_t p = 0; p < parts; ++p) sum += scratch[p * width + k];
      out[k] = static_cast<Out>(sum);
    });
  }

 private:
  struct Sum {
    template <typename Number>
    __device__ Number operator()(Number a, Number b) const {
      return a + b;
    }
  };
  struct Most {
    __device__ double operator()(double a, double b) const { return fmax(a, b); }
  };

  // All threads' numbers as one, the same in all of them.
  template <typename Number, typename Op>
  __device__ Number combined(Number x, Op op) const {
    Number* scratch = reinterpret_cast<Number*>(this->scratch);
    for (int step = kWarp / 2; step > 0; step /= 2)
      x = op(x, __shfl_xor_sync(0xffffffffu, x, step));
    if (threads > kWarp && lane() == 0) scratch[warp()] = x;
    sync();
    if (threads == kWarp) return x;
    x = scratch[0];
#pragma unroll
    for (int w = 1; w < kThreads / kWarp; ++w) x = op(x, scratch[w]);
    sync();
    return x;
  }
};

// Lists the members of [0, count) in order, and after them at list[count] how many there are: by
// one warp. place(i, at) is told where a member stands, or -1.
template <typename Member, typename Place>
__device__ void list_members(int64_t count, int32_t* list, Member member, Place place) {
  if (Block::warp() == 0) {
    int32_t listed = 0;
    for (int64_t first = 0; first < count; first += kWarp) {
      const int64_t i = first + Block::lane();
      const bool in = i < count && member(i);
      const unsigned mask = __ballot_sync(0xffffffffu, in);
      const int32_t at = listed + __popc(mask & ((1u << Block::lane()) - 1));
      if (in) list[at] = static_cast<int32_t>(i);
      if (i < count) place(i, in ? at : -1);
      listed += __popc(mask);
    }
    if (Block::lane() == 0) list[count] = listed;
  }
  Block::sync();
}

SPARSEDIS_END
