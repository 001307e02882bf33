// What a task's data say of a penalty and of weights: the largest useful strength, and the relative
// duality gap. As cpu/heads.h, in double sums.
#pragma once

#include "curved.cuh"

SPARSEDIS_BEGIN

// The loss at the dual point s R, above the least that it can be: at 0 the objective's loss.
template <typename Task>
__device__ double loss_of(const Task& task, double s) {
  if (task.in.loss != kSquared) return divergence(task, task.memory.bias, s);
  const double* R = task.memory.R;
  const double residual2 =
      task.block.sum(task.in.n * task.in.C, [&](int64_t k) { return R[k] * R[k]; });
  return 0.5 * (1 - s) * (1 - s) * residual2;
}

// R at the weights, or at zero.
template <typename Task>
__device__ void evaluate(const Task& task, bool weighed) {
  const int64_t C = task.in.C;
  const auto& memory = task.memory;
  const bool squared = task.in.loss == kSquared;
  double* scores = squared ? memory.R : memory.S;
  if (weighed)
    score_all(task, memory.W, scores);
  else
    task.block.each(task.in.n * C, [&](int64_t k) { scores[k] = 0; });
  task.block.each(task.in.n * C, [&](int64_t k) {
    const int64_t i = k / C;
    if (squared)
      scores[k] = task.b(i, k % C) - scores[k];
    else
      scores[k] = memory.p[i] > 0 ? scores[k] / memory.root[i] : 0.0;
  });
  if (squared) return;
  fit_bias(task);
  respond(task);
}

// The objective at zero weights; R at the weights, if there are any and there is something to fit.
template <typename Task>
__device__ double evaluate_both(const Task& task, bool weighed) {
  if (task.in.loss != kSquared) load_bias(task);
  double zero = 0;
#pragma unroll 1
  for (int at_weights = 0; at_weights <= weighed; ++at_weights) {  // so that it is inlined once
    evaluate(task, at_weights == 1);
    if (at_weights == 0) zero = loss_of(task, 0.0);
    if (zero == 0) break;
  }
  return zero;
}

// Strengths of one feature.
struct RowPenalty {
  double l1, group, ridge;
  bool nonneg;
};

// Omega of a row of weights, infinite where a bound at 0 is broken.
template <typename Weight>
__device__ double penalty_of(const RowPenalty& p, const Weight* w, int64_t C) {
  double magnitude = 0, norm2 = 0;
  for (int64_t c = 0; c < C; ++c) {
    const double x = w[c];
    if (p.nonneg && x < 0) return std::numeric_limits<double>::infinity();
    magnitude += fabs(x), norm2 += x * x;
  }
  return p.l1 * magnitude + p.group * sqrt(norm2) + 0.5 * p.ridge * norm2;
}

// By how much g must shrink for the row to be feasible; one with ridge always is.
__device__ inline double stretch_of(const RowPenalty& p, const double* g, int64_t C) {
  if (p.ridge > 0 || !(thresholded(g, C, 1, 1.0, p.l1, p.nonneg).norm > p.group)) return 1;
  return dual_norm(g, C, 1, p.l1, p.group, p.nonneg);
}

// The conjugate of a row with ridge at s g.
__device__ inline double conjugate_of(const RowPenalty& p, const double* g, int64_t C, double s) {
  if (!(p.ridge > 0)) return 0;
  const double excess = s * thresholded(g, C, 1, 1 / s, p.l1, p.nonneg).norm - p.group;
  return excess > 0 ? excess * excess / (2 * p.ridge) : 0.0;
}

// P - D as core/dual.h has it, from R and g = A'R at the weights.
template <typename Task>
__device__ double gap_at(const Task& task, bool nonneg) {
  const int64_t M = task.in.M, C = task.in.C;
  const auto& memory = task.memory;
  const double* g = memory.g;
  const auto* W = memory.W;
  const auto row = [&](int64_t j) {
    return RowPenalty{memory.l1[j], memory.group[j], memory.ridge[j], nonneg};
  };
  const double stretch =
      task.block.largest(M, [&](int64_t j) { return stretch_of(row(j), g + j * C, C); });
  const double s = 1 / fmax(1.0, stretch);
  double parts[2];  // penalty and conjugate; <g, W>
  task.block.sums(M, parts, [&](int64_t j, double (&pair)[2]) {
    const RowPenalty p = row(j);
    pair[0] += penalty_of(p, W + j * C, C) + conjugate_of(p, g + j * C, C, s);
    for (int64_t c = 0; c < C; ++c) pair[1] += g[j * C + c] * W[j * C + c];
  });
  return at_least_zero(loss_of(task, s) + parts[0] - s * parts[1]);
}

SPARSEDIS_END
