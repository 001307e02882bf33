// One task, loaded by a block: weights and means of its samples, their centred features, strengths.
//
// As core/task.h: with p_i = s_i / sum s, A = sqrt(p) (z - zbar), B = sqrt(p) (y - ybar), both in
// `Compute`. Rows of outputs are (n, C), as the samples lie.
#pragma once

#include <cuda_pipeline_primitives.h>

#include "../core/dual_norm.h"
#include "products.cuh"
#include "task_memory.h"

SPARSEDIS_BEGIN

// How samples lie on the chip: as A, or as they were given, which is half of it where floats are
// computed with in double.
enum Kept { kCentred, kRaw };

template <typename C, typename R, Kept kept = kCentred>
struct BlockTask {
  using Compute = C;
  using Real = R;
  using Stored = std::conditional_t<kept == kCentred, Compute, Real>;
  using Memory = TaskMemory<Compute, Stored>;
  static constexpr bool centres = kept == kCentred;

  const Block& block;
  const TaskInput<Real>& in;
  const Memory& memory;
  double total_weight = 0;  // sum of s

  __device__ bool empty() const { return in.n == 0 || total_weight == 0; }

  __device__ Compute centred(int64_t i, int64_t j, double z) const {
    return static_cast<Compute>(memory.root[i] * (z - memory.zbar[j]));
  }
  // Whether the samples are on the chip; there they are found by offsets of 32 bits.
  __device__ bool near() const { return memory.A != nullptr; }
  __device__ Stored stored(int i, int j) const {
    return memory.A[i * static_cast<int>(row_stride(in.M)) + j];
  }
  // A sample as it was given.
  __device__ Real z(Near, int i, int j) const {
    static_assert(!centres);
    return stored(i, j);
  }
  __device__ Real z(Far, int64_t i, int64_t j) const { return in.z[i * in.M + j]; }
  __device__ Compute a(Near where, int i, int j) const {
    if constexpr (centres)
      return stored(i, j);
    else
      return centred(i, j, z(where, i, j));
  }
  __device__ Compute a(Far where, int64_t i, int64_t j) const {
    return centred(i, j, z(where, i, j));
  }
  __device__ Compute a(int64_t i, int64_t j) const {
    return near() ? a(Near(), i, j) : a(Far(), i, j);
  }
  __device__ Compute b(int64_t i, int64_t c) const {
    return static_cast<Compute>(memory.root[i] * (memory.y[i * in.C + c] - memory.ybar[c]));
  }
};

// In which order blocks take tasks: by turns, or, where tasks differ in what they take, the first
// that is left.
enum Order { kByTurns, kFirstLeft };

// Calls body(t, task, arena, rows) for the tasks of this block of so many threads, whose samples
// are not loaded yet: the arena has what is left of the block's memory, and `rows` what is left of
// the numbers of the task's samples off the chip.
template <typename Compute, Kept kept = kCentred, Order order = kByTurns, typename Real, typename F>
__device__ void for_each_task(const SamplesArgs<Real>& samples, const TaskBlocks& blocks,
                              TaskNeeds needs, F body, int threads = kThreads) {
  using Task = BlockTask<Compute, Real, kept>;
  extern __shared__ __align__(kAligned) char shared[];
  __shared__ double scratch[kThreads];
  // Two by turns: some threads may still read a task's number when the next is written.
  __shared__ int64_t left[order == kFirstLeft ? 2 : 1];
  Arena room(shared, blocks.shared_bytes, blocks.slices + blockIdx.x * blocks.slice_bytes);
  const Block block{scratch, room.take<double>(partials(threads)), threads};
  int turn = 0;
  for (int64_t t = blockIdx.x; t < samples.T;) {
    // Asked for early: the answer is there when the task is done.
    if (order == kFirstLeft && Block::rank() == 0)
      left[turn] = gridDim.x + static_cast<int64_t>(atomicAdd(blocks.taken, 1ull));
    const TaskInput<Real> in = task_input(samples, t);
    double* rows = blocks.rows + row_of(samples, t) * blocks.row_numbers;
    Arena arena = room;
    const typename Task::Memory memory(arena, in.n, in.M, in.C, in.loss, rows, needs);
    Task task{block, in, memory};
    body(t, task, arena, rows + in.n * row_numbers(in.C, in.loss));
    Block::sync();
    t = order == kFirstLeft ? left[turn] : t + gridDim.x;
    turn ^= 1;
  }
}

template <typename Real>
__device__ inline bool finite(Real x) {
  return x * Real(0) == Real(0);
}

// Reads an array once, 16 bytes at a time where they are aligned, and calls put(i, x) for each of
// its numbers. Whether all are finite.
template <typename Real, typename F>
__device__ bool stage(const Block& block, const Real* from, int64_t count, F put) {
  struct alignas(kAligned) Wide {
    Real x[kAligned / sizeof(Real)];
  };
  constexpr int64_t width = kAligned / sizeof(Real);
  const int64_t wide = reinterpret_cast<uintptr_t>(from) % kAligned == 0 ? count / width : 0;
  bool bad = false;
  const auto take = [&](int64_t i, Real x) {
    bad |= !finite(x);
    put(i, x);
  };
  block.each(wide, [&](int64_t k) {
    const Wide part = reinterpret_cast<const Wide*>(from)[k];
#pragma unroll
    for (int64_t i = 0; i < width; ++i) take(k * width + i, part.x[i]);
  });
  block.each(count - wide * width,
             [&](int64_t k) { take(wide * width + k, from[wide * width + k]); });
  return !Block::any(bad);
}

// p, its root and the total weight; false where a weight is negative or not finite.
template <typename Task>
__device__ bool load_weights(Task& task) {
  const auto& in = task.in;
  double *p = task.memory.p, *root = task.memory.root;
  bool bad = false;
  task.block.each(in.n, [&](int64_t i) {
    p[i] = in.sample_weight ? static_cast<double>(in.sample_weight[i]) : 1.0;
    bad |= !(p[i] >= 0 && finite(p[i]));
  });
  if (Block::any(bad)) return false;
  const double total = task.block.sum(in.n, [&](int64_t i) { return p[i]; });
  task.block.each(in.n, [&](int64_t i) {
    p[i] = total > 0 ? p[i] / total : 0.0;
    root[i] = sqrt(p[i]);
  });
  task.total_weight = total;
  return true;
}

// Whether the loss takes every target that has a weight.
template <typename Task>
__device__ bool takes_all(const Task& task) {
  const auto& in = task.in;
  bool bad = false;
  task.block.each(in.n, [&](int64_t i) {
    bad |= task.memory.p[i] > 0 && !takes(in.loss, task.memory.y + i * in.C, in.C);
  });
  return !Block::any(bad);
}

// Weighted column means of x(i, k), around the heaviest row as core/task.h has it, or zeros.
template <typename Task, typename F>
__device__ void load_mean(const Task& task, int64_t width, bool wanted, double* mean, F x) {
  const int64_t n = task.in.n;
  const double* p = task.memory.p;
  if (!wanted || task.empty()) return task.block.each(width, [&](int64_t k) { mean[k] = 0; });
  const double most = task.block.largest(n, [&](int64_t i) { return p[i]; });
  const double before_end =  // the first of the heaviest rows is the farthest from the end
      task.block.largest(n, [&](int64_t i) { return p[i] == most ? double(n - i) : 0.0; });
  const int64_t anchor = n - static_cast<int64_t>(before_end);
  task.block.sum_rows(n, width, mean, [&](int64_t i, int64_t k) {
    return p[i] * (static_cast<double>(x(i, k)) - x(anchor, k));
  });
  task.block.each(width, [&](int64_t k) { mean[k] += x(anchor, k); });
}

// Calls body(i, j) for samples and features that are on the chip, a warp a sample.
template <typename Task, typename F>
__device__ void each_kept(const Task& task, F body) {
  // What is on the chip is small.
  const uint32_t n = static_cast<uint32_t>(task.in.n), M = static_cast<uint32_t>(task.in.M);
#pragma unroll 1
  for (uint32_t i = Block::warp(); i < n; i += task.block.warps())
#pragma unroll 1
    for (uint32_t j = Block::lane(); j < M; j += kWarp) body(i, j);
}

// The samples as they are, or only targets where features are `kept`; whether all are finite.
// Features of the type that they are stored in take no registers on their way to the chip, so that
// all of them are on it together, and meanwhile targets are read.
template <typename Task>
__device__ bool stage_samples(const Task& task, bool kept) {
  const auto& in = task.in;
  using Stored = typename Task::Stored;
  constexpr bool as_given = std::is_same_v<Stored, typename Task::Real>;
  Stored* A = task.memory.A;
  double* y = task.memory.y;
  const uint32_t M = static_cast<uint32_t>(in.M), stride = static_cast<uint32_t>(row_stride(in.M));
  if constexpr (as_given) {
    if (A && !kept)
      each_kept(task, [&](uint32_t i, uint32_t j) {
        __pipeline_memcpy_async(A + i * stride + j, in.z + i * M + j, sizeof(Stored));
      });
    __pipeline_commit();
  }
  bool good = stage(task.block, in.y, in.n * in.C, [=](int64_t k, auto target) { y[k] = target; });
  if (kept) return good;
  if (as_given && A) {
    bool bad = false;
    __pipeline_wait_prior(0);
    each_kept(task, [&](uint32_t i, uint32_t j) { bad |= !finite(A[i * stride + j]); });
    return !Block::any(bad) && good;
  }
  return stage(task.block, in.z, in.n * in.M,
               [=](int64_t k, auto z) {
                 const uint32_t at = static_cast<uint32_t>(k);  // what is on the chip is small
                 if (!as_given && A) A[at / M * stride + at % M] = static_cast<Stored>(z);
               }) &&
         good;
}

// Fills the arrays of a task, but for features and their means where these are `kept` from another;
// false where a sample is not finite, a weight is negative, or the loss does not take a target.
template <typename Task>
__device__ bool load_task(Task& task, bool kept = false) {
  const auto& in = task.in;
  const double* y = task.memory.y;
  auto* A = task.memory.A;
  const uint32_t stride = static_cast<uint32_t>(row_stride(in.M));
  if (!stage_samples(task, kept) || !load_weights(task) || !takes_all(task)) return false;
  load_mean(task, in.C, in.fit_intercept && in.loss == kSquared, task.memory.ybar,
            [=](int64_t i, int64_t c) { return y[i * in.C + c]; });
  if (kept) return true;
  load_mean(task, in.M, in.fit_intercept, task.memory.zbar, [=](int64_t i, int64_t j) {
    return A ? A[i * stride + j] : static_cast<typename Task::Stored>(in.z[i * in.M + j]);
  });
  if (!A || !Task::centres) return true;
  each_kept(task, [&](uint32_t i, uint32_t j) {
    A[i * stride + j] = task.centred(i, j, A[i * stride + j]);
  });
  Block::sync();
  return true;
}

// The strengths of task t, with the floor that core/task.h gives to a feature that nothing
// penalises; false where one is not finite.
template <typename Task, typename Real>
__device__ bool load_penalty(const Task& task, const PenaltyArgs<Real>& args, int64_t t,
                             TaskNeeds needs) {
  const auto& memory = task.memory;
  bool bad = false;
  task.block.each(task.in.M, [&](int64_t j) {
    using Compute = typename Task::Compute;
    const Compute l1 = at(args.l1, t, j), group = at(args.group, t, j);
    Compute& ridge = memory.ridge[j];
    ridge = at(args.ridge, t, j);
    bad |= !finite(l1) || !finite(group) || !finite(ridge);
    if (needs.strengths) memory.l1[j] = l1, memory.group[j] = group;
    if (l1 != 0 || group != 0 || ridge != 0 || at(args.shared, t, j) != 0) return;
    double norm2 = 0;
#pragma unroll 1
    for (int64_t i = 0; i < task.in.n; ++i)
      norm2 += static_cast<double>(task.a(i, j)) * task.a(i, j);
    ridge = static_cast<Compute>(norm2 > 0 ? ridge_floor<Real>() * norm2 : 1.0);
  });
  return !Block::any(bad);
}

// write(j, c, (A'y)) for y (n, C), over all features.
template <typename Sum, typename Task, typename Y, typename F>
__device__ void pull(const Task& task, int64_t C, const Y* y, F write) {
  multiply<Sum>(
      task.block, task.near(), task.in.M, task.in.n, C,
      [&](auto where, int j, int i) { return task.a(where, i, j); }, rows_of(y, C), write);
}

// g = A'R, (M, C).
template <typename Task>
__device__ void pull_all(const Task& task, double* g) {
  const int64_t C = task.in.C;
  pull<double>(task, C, task.memory.R, [=](int64_t j, int c, double sum) { g[j * C + c] = sum; });
}

// scores = A W for W (M, C).
template <typename Task>
__device__ void score_all(const Task& task, const typename Task::Compute* W, double* scores) {
  const int64_t C = task.in.C;
  multiply<double>(
      task.block, task.near(), task.in.n, task.in.M, C,
      [&](auto where, int i, int j) { return task.a(where, i, j); }, rows_of(W, C),
      [=](int64_t i, int c, double sum) { scores[i * C + c] = sum; });
}

SPARSEDIS_END
