// What a fit writes of a task: weights, intercept, gap, steps and status.
#pragma once

#include "report.cuh"

SPARSEDIS_BEGIN

template <typename Real>
struct HeadResult {
  Real *weight, *bias, *gap;  // (M, C), (C), (1)
  int32_t *n_iter, *status;
};

template <typename Real>
__device__ HeadResult<Real> result_of(const HeadsArgs<Real>& a, int64_t t) {
  const SamplesArgs<Real>& s = a.samples;
  return {a.weight + t * s.M * s.C, a.bias + t * s.C, a.gap + t, a.n_iter + t, a.status + t};
}

// The same number everywhere, for a task that has no heads.
template <typename Task, typename Real>
__device__ void write_all(const Task& task, const HeadResult<Real>& out, Real value,
                          Status status) {
  task.block.each(task.in.M * task.in.C, [&](int64_t k) { out.weight[k] = value; });
  task.block.each(task.in.C, [&](int64_t c) { out.bias[c] = value; });
  if (Block::rank() == 0) *out.gap = value, *out.n_iter = 0, *out.status = status;
}

// The bias of a loss that is not squared: as core/heads.h, a class that is none has -inf, and the
// others have sum 0.
template <typename Task, typename Real>
__device__ void write_curved_bias(const Task& task, const double* shift, Real* bias) {
  const auto& memory = task.memory;
  const int64_t C = task.in.C;
  double sums[2];  // of finite biases, and their number
  task.block.sums(C, sums, [&](int64_t c, double (&pair)[2]) {
    if (memory.limit[c] == 0) pair[0] += memory.bias[c] - shift[c], pair[1] += 1;
  });
  const double centre = task.in.loss == kMultinomial && sums[1] > 0 ? sums[0] / sums[1] : 0.0;
  task.block.each(C, [&](int64_t c) {
    const double limit = memory.limit[c];
    bias[c] = static_cast<Real>(limit == 0 ? memory.bias[c] - shift[c] - centre : limit);
  });
}

// memory.W as weights, and the intercept ybar - W' zbar.
template <typename Task, typename Real>
__device__ void write_head(const Task& task, const HeadResult<Real>& out, double gap, double tol,
                           int64_t steps) {
  const auto& memory = task.memory;
  const int64_t M = task.in.M, C = task.in.C;
  const bool squared = task.in.loss == kSquared;
  task.block.each(M * C, [&](int64_t k) { out.weight[k] = static_cast<Real>(memory.W[k]); });
  double* shift = squared ? memory.R : memory.trial;  // of C numbers, which nobody needs any more
  task.block.sum_rows(M, C, shift, [&](int64_t j, int64_t c) {
    return memory.zbar[j] * static_cast<double>(memory.W[j * C + c]);
  });
  if (squared)
    task.block.each(C,
                    [&](int64_t c) { out.bias[c] = static_cast<Real>(memory.ybar[c] - shift[c]); });
  else
    write_curved_bias(task, shift, out.bias);
  if (Block::rank() > 0) return;
  *out.gap = static_cast<Real>(gap), *out.n_iter = static_cast<int32_t>(steps);
  *out.status = gap <= tol ? kConverged : kIterationLimit;
}

SPARSEDIS_END
