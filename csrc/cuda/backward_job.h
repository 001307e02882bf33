// The gradient of head solves as launches: what its kernels are given.
#pragma once

#include "task_job.h"

SPARSEDIS_BEGIN

// Where tasks share their samples, so many blocks take tasks in a fixed order and keep a sum each.
constexpr int64_t kPartialSums = 16;

// Numbers per sample beside those of every task: products with the support's features, and what the
// sample's weight gets.
SPARSEDIS_HD inline int64_t backward_row_numbers(int64_t C, int64_t loss) {
  return row_numbers(C, loss) + C + 1;
}

// The system on the support, compact: row a of (S, C) is feature row[a].
struct AdjointMemory {
  double *rhs, *x, *direction, *image, *scaled;  // of conjugate gradients, (S, C) each
  double *unit, *live, *inverse;                 // W_j / ||W_j||, 1 or 0, 1 / diagonal: (S, C)
  double *d, *level, *floor;             // group / ||W_j||, it and what else bends a row, (S);
                                         // what moves a row's own ridge
  double *grad_bias, *answer, *partial;  // (C), (C), scratch
  double *product, *grad_p;              // (n, C), (n)
  int32_t *row, *position;               // features of the support; places in it, or -1

  SPARSEDIS_HD AdjointMemory(Arena& arena, double* scratch, int64_t n, int64_t M, int64_t C,
                             double* rows)
      : partial(scratch) {
    for (double** wide : {&rhs, &x, &direction, &image, &scaled, &unit, &live, &inverse})
      *wide = arena.take<double>(M * C);
    for (double** row_number : {&d, &level, &floor}) *row_number = arena.take<double>(M);
    grad_bias = arena.take<double>(C), answer = arena.take<double>(C);
    row = arena.take<int32_t>(M + 1), position = arena.take<int32_t>(M);
    double* on_chip = arena.take_shared<double>(n * (C + 1));
    product = on_chip ? on_chip : rows;
    grad_p = product + n * C;
  }
};

// Numbers of one of the sums that tasks share.
template <typename Real>
SPARSEDIS_HD int64_t shared_numbers(const HeadsBackwardArgs<Real>& a) {
  const SamplesArgs<Real>& s = a.samples;
  const bool weights = a.grad_sample_weight && !s.weight_per_task;
  return s.one_design ? s.n * ((a.grad_z ? s.M : 0) + (weights ? 1 : 0)) : 0;
}

inline int64_t sums_bytes(int64_t numbers) {
  return kPartialSums * numbers * static_cast<int64_t>(sizeof(double));
}
inline int64_t sums_grid(int64_t numbers) {
  return std::min<int64_t>((numbers + kThreads - 1) / kThreads, 65535);
}

template <typename Real>
struct BackwardJob {
  HeadsBackwardArgs<Real> args;
  TaskBlocks blocks;
  double* sums;  // of what tasks share: kPartialSums times (n, M) and (n), or null

  SPARSEDIS_HD TaskNeeds needs() const { return {true, true}; }
  void place(const TaskBlocks& there, char* rest) {
    blocks = there, sums = shared_numbers(args) > 0 ? reinterpret_cast<double*>(rest) : nullptr;
  }
};

// Gradients of tasks that no shared level couples; `rows` are the samples of all of them.
template <typename Real>
Plan<BackwardJob<Real>> plan_backward(const HeadsBackwardArgs<Real>& args, int64_t rows,
                                      Machine machine) {
  const SamplesArgs<Real>& s = args.samples;
  if (s.one_design) machine.blocks = kPartialSums;
  const auto lay_out = [&](Arena& arena, int64_t n) {
    const TaskMemory<double> task(arena, n, s.M, s.C, s.loss, nullptr, {true, true});
    double* partial = arena.take<double>(kPartials);
    const AdjointMemory memory(arena, partial, n, s.M, s.C, nullptr);
    return task.on_chip() && memory.product != nullptr;
  };
  const TaskPlan tasks = plan_tasks(s, rows, backward_row_numbers(s.C, s.loss), machine, lay_out);
  const int64_t numbers = shared_numbers(args);
  std::vector<Launch> launches{tasks.launch("fit_heads_backward")};
  if (numbers > 0) launches.push_back({"add_sums", sums_grid(numbers), 0});
  return {{args, {}, nullptr}, tasks, sums_bytes(numbers), launches};
}

SPARSEDIS_END
