// Runs lambdas over ranges and tasks in parallel, where there is enough work to pay for it.
#pragma once

#include <algorithm>
#include <atomic>

#include "../core/args.h"
#include "../core/isa.h"
#include "subnormals.h"

SPARSEDIS_BEGIN

constexpr int64_t kParallelElements = 16384;  // below this a second thread costs more than it saves

// Pieces of [0, count), each of `grain` or more; one piece in this thread where count <= grain.
template <typename F>
void parallel_for(ParallelFor run, int64_t count, int64_t grain, F body) {
  if (count <= 0) return;
  grain = grain < 1 ? 1 : grain;
  if (count <= grain) {
    body(int64_t{0}, count);
    return;
  }
  run(
      count, grain,
      [](int64_t begin, int64_t end, void* context) { (*static_cast<F*>(context))(begin, end); },
      &body);
}

// Runs body(t, work) for every task. Tasks differ in cost, so workers take them one by one; `size`
// is the number of elements that a task touches.
template <typename Work, typename F>
void for_each_task(ParallelFor run, int64_t T, int64_t size, F body) {
  std::atomic<int64_t> next{0};
  const auto worker = [&](int64_t, int64_t) {
    const FlushSubnormals flush;
    Work work;
    for (int64_t t = next++; t < T; t = next++) body(t, work);
  };
  parallel_for(run, T, T * size < kParallelElements ? T : 1, worker);
}

// Blocks of consecutive tasks, each with sums of its own: what is summed over tasks does not depend
// on the number of threads, and every thread reads tasks one after another, as they lie in memory.
struct TaskBlocks {
  int64_t T, size, count;

  // `entries` is the number that a task has.
  TaskBlocks(int64_t T, int64_t entries)
      : T(T),
        size(std::max({kLeastTasks, (T + kMostBlocks - 1) / kMostBlocks,
                       kParallelElements / std::max<int64_t>(entries, 1)})),
        count((T + size - 1) / size) {}

  // Calls body(block, begin, end) for all; backwards, what was read last is in cache.
  template <typename F>
  void for_each(ParallelFor run, F body, bool backwards = false) const {
    parallel_for(run, count, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t b = backwards ? count - 1 - i : i;
        body(b, b * size, std::min(T, (b + 1) * size));
      }
    });
  }

 private:
  static constexpr int64_t kLeastTasks = 4, kMostBlocks = 32;
};

SPARSEDIS_END
