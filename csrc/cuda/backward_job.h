// The gradient of head solves as launches: what its kernels are given.
#pragma once

#include "../core/head_gradient.h"
#include "ridge_memory.h"
#include "task_job.h"

SPARSEDIS_BEGIN

// Where tasks share their samples, so many blocks take tasks in a fixed order and keep a sum each:
// enough to fill a GPU, as far as these sums take no more than kMostSums bytes.
constexpr int64_t kFewestSums = 16, kPartialSums = 256, kMostSums = int64_t{1} << 26;

// Numbers per sample beside those of every task: products with the support's features, and what the
// sample's weight gets.
SPARSEDIS_HD inline int64_t backward_row_numbers(int64_t C, int64_t loss) {
  return row_numbers(C, loss) + C + 1;
}

// The features of the support, in order, and their number; places of all features in it, or -1.
struct SupportMemory {
  int32_t *row, *position;

  SPARSEDIS_HD SupportMemory(Arena& arena, int64_t M) {
    row = arena.take<int32_t>(M + 1), position = arena.take<int32_t>(M);
  }
};

// The system on the support, compact: row a of (S, C) is feature row[a]. S is as large as the
// support may be, or as it is.
struct AdjointMemory {
  double *rhs, *x, *direction, *image, *scaled;  // of conjugate gradients, (S, C) each
  double *unit, *live, *inverse;                 // W_j / ||W_j||, 1 or 0, 1 / diagonal: (S, C)
                                                 // all but x are null where a factor solves
  double *d, *level, *floor;   // group / ||W_j||, it and what else bends a row, (S);
                               // what moves a row's own ridge
  double *grad_bias, *answer;  // (C) each
  double *product, *grad_p;    // (n, C), (n)

  SPARSEDIS_HD AdjointMemory(Arena& arena, int64_t n, int64_t S, int64_t C, double* rows,
                             bool direct) {
    double* on_chip = arena.take_shared<double>(n * (C + 1));
    product = on_chip ? on_chip : rows;
    grad_p = product + n * C;
    grad_bias = arena.take<double>(C), answer = arena.take<double>(C);
    // Arrays of one size after another, the largest last: a smaller S then takes no more memory.
    for (double** row_number : {&d, &level, &floor}) *row_number = arena.take<double>(S);
    x = arena.take<double>(S * C);
    for (double** wide : {&direction, &image, &scaled, &rhs, &unit, &live, &inverse})
      *wide = direct ? nullptr : arena.take<double>(S * C);
  }
};

// Numbers of one of the sums that tasks share.
template <typename Real>
SPARSEDIS_HD int64_t shared_numbers(const HeadsBackwardArgs<Real>& a) {
  return shared_samples(a) + shared_weights(a);
}

inline int64_t sums_bytes(int64_t sums, int64_t numbers) {
  return sums * numbers * static_cast<int64_t>(sizeof(double));
}
inline int64_t most_sums(int64_t numbers) {
  return std::clamp(kMostSums / sums_bytes(1, numbers), kFewestSums, kPartialSums);
}
inline int64_t sums_grid(int64_t numbers) {
  return std::min<int64_t>((numbers + kThreads - 1) / kThreads, 65535);
}

template <typename Real>
struct BackwardJob {
  HeadsBackwardArgs<Real> args;
  TaskBlocks blocks;
  int64_t unknowns;        // of ridge's systems, at most; 0 where conjugate gradients solve
  int threads;             // of a block
  int64_t writers = 0;     // blocks that sum up what tasks share
  double* sums = nullptr;  // theirs, each (n, M) and (n) as far as they are asked for

  SPARSEDIS_HD TaskNeeds needs() const { return {true, true, false}; }
  void place(const TaskBlocks& there, char* rest) {
    blocks = there, sums = writers > 0 ? reinterpret_cast<double*>(rest) : nullptr;
  }
};

// Gradients of tasks that no shared level couples; `rows` are the samples of all of them.
template <typename Real>
Plan<BackwardJob<Real>> plan_backward(const HeadsBackwardArgs<Real>& args, int64_t rows,
                                      Machine machine) {
  const SamplesArgs<Real>& s = args.samples;
  const int64_t numbers = shared_numbers(args);
  if (numbers > 0) machine.blocks = most_sums(numbers);
  const bool direct = s.loss == kSquared && only_ridge(args.penalty);
  const int64_t unknowns = direct ? ridge_unknowns(s) : 0;
  const auto lay_out = [&](Arena& arena, int64_t n) {
    const TaskMemory<double, Real> task(arena, n, s.M, s.C, s.loss, nullptr, {true, true, false});
    SupportMemory(arena, s.M);
    RidgeMemory<double>(arena, unknowns, direct ? s.M : 0);
    const AdjointMemory memory(arena, n, s.M, s.C, nullptr, direct);
    return task.on_chip() && memory.product != nullptr;
  };
  const int threads = direct ? ridge_threads(unknowns, s.M) : task_threads(s, lay_out);
  const TaskPlan tasks =
      plan_tasks(s, rows, backward_row_numbers(s.C, s.loss), machine, lay_out, threads);
  const int64_t writers = numbers > 0 ? tasks.grid : 0;
  std::vector<Launch> launches{tasks.launch("fit_heads_backward", threads)};
  if (numbers > 0) launches.push_back({"add_sums", sums_grid(numbers), 0});
  return {{args, {}, unknowns, threads, writers}, tasks, sums_bytes(writers, numbers), launches};
}

SPARSEDIS_END
