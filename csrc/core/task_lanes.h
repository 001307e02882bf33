// Small tasks, side by side in the lanes of vectors.
#pragma once

#include <array>

#include "lanes.h"
#include "task.h"

SPARSEDIS_BEGIN

// Larger tasks gain less (1.1 to 1.25 times), and one alone costs as much as a vector of them.
constexpr int64_t kLaneUnknowns = 64, kLaneBytes = 32 << 10;  // of a task

template <typename Real>
constexpr bool fits_lanes(int64_t n, int64_t M) {
  return n > 0 && std::min(n, M) <= kLaneUnknowns &&
         n * M * static_cast<int64_t>(sizeof(Real)) <= kLaneBytes;
}

// Tasks of as many features each.
template <typename Real>
struct TaskLanes {
  static constexpr int64_t kLanes = Simd<Real>::kLanes;
  template <typename T>
  using Each = std::array<T, kLanes>;

  int64_t count;
  Each<Task<Real>*> task;  // past `count` the first again
  int64_t n, M;            // n: the most samples
  Buffer<Real> zeros;      // (padded(M))

  // Takes the tasks of some works.
  template <typename Work>
  void take_tasks(Work* const* works, int64_t number) {
    count = number, n = 0;
    for (int64_t t = 0; t < kLanes; ++t) {
      task[t] = &works[t < count ? t : 0]->task;
      n = std::max(n, task[t]->n);
    }
    M = task[0]->M;
    std::fill_n(zeros.reserve(padded<Real>(M)), padded<Real>(M), Real(0));
  }

  // Every task's sample i, or zeros.
  Each<const Real*> sample(int64_t i) const {
    Each<const Real*> of;
    for (int64_t t = 0; t < kLanes; ++t)
      of[t] = i < task[t]->n ? task[t]->A.get() + i * task[t]->stride : zeros.get();
    return of;
  }

  // `row` (ld) = every task's sample i, zeros after it.
  void load_sample(int64_t i, int64_t ld, Lanes<Real>* row) const {
    const auto from = sample(i);
    interleave<Real>([&](int64_t t, int64_t j) { return load_vector<Real>(from[t] + j); }, M, row,
                     1);
    std::fill(row + M, row + ld, Lanes<Real>{});
  }

  // to[i * stride] = entry i < n of what row(t) points to, which is as long as task t's lds.
  template <typename F>
  void load_of_samples(F row, Lanes<Real>* to, int64_t stride) const {
    interleave<Real>(
        [&](int64_t t, int64_t i) {
          return i < task[t]->lds ? load_vector<Real>(row(t) + i) : Lanes<Real>{};
        },
        n, to, stride);
  }

  // `row` (M) = what `level(penalty)` points to.
  template <typename F>
  void load_strengths(F level, Lanes<Real>* row) const {
    interleave<Real>(
        [&](int64_t t, int64_t j) { return load_vector<Real>(level(task[t]->penalty) + j); }, M,
        row, 1);
  }
};

SPARSEDIS_END
