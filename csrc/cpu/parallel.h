// Runs lambdas over ranges and tasks in parallel, where there is enough work to pay for it.
#pragma once

#include <atomic>

#include "../core/args.h"
#include "../core/isa.h"

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
    Work work;
    for (int64_t t = next++; t < T; t = next++) body(t, work);
  };
  parallel_for(run, T, T * size < kParallelElements ? T : 1, worker);
}

SPARSEDIS_END
