// Plain arguments of the kernels: pointers, sizes, strides. They hold no code, so callers compiled
// for any instruction set share them.
#pragma once

#include <cstdint>

namespace sparsedis {

// A strength per (task, feature): scale * data[t * task_stride + m * feature_stride], or scale.
template <typename Real>
struct Strength {
  const Real* data;
  int64_t task_stride;
  int64_t feature_stride;
  double scale;
};

template <typename Real>
struct PenaltyArgs {
  Strength<Real> l1, group, shared, ridge;
  bool nonneg;
};

// Arrays are contiguous (T, M, C); an absent one is null.
template <typename Real>
struct ProxArgs {
  int64_t T, M, C;
  const Real* v;
  const Real* metric;
  PenaltyArgs<Real> penalty;
  Real* x;  // may be v
};

// A step on the weights prox.x, which prox.v is, too; the penalty is scaled for it.
template <typename Real>
struct ProxSgdArgs {
  ProxArgs<Real> prox;
  const Real* grad;
  Real* buffer;  // null without momentum
  double lr, momentum, weight_decay;
  bool nesterov;
};

template <typename Real>
struct ProxAdamwArgs {
  ProxArgs<Real> prox;
  const Real* grad;
  Real *first, *second;
  double step;  // its number, from 1
  double lr, beta1, beta2, eps, weight_decay;
};

template <typename Real>
struct ProxBackwardArgs {
  int64_t T, M, C;
  const Real *grad, *x, *v, *metric;
  PenaltyArgs<Real> penalty;
  // Outputs, null where not asked for, and that of the metric where there is none. Strengths are
  // (T, M), shared is (M).
  Real *grad_v, *grad_l1, *grad_group, *grad_shared, *grad_ridge, *grad_metric;
};

// x = s(||v_g||) v_g with per-group strength, step and shape, each (T, M) with strides.
template <typename Real>
struct RadialArgs {
  int64_t T, M, C;
  const Real *v, *grad;  // grad is null in the forward
  Strength<Real> strength, step, shape;
  int64_t kind;
  Real* x;
  Real *grad_v, *grad_strength, *grad_step, *grad_shape;
};

template <typename Real>
struct LinfArgs {
  int64_t T, M, C;
  const Real *v, *metric;
  Strength<Real> strength;
  Real* x;
  const Real *grad, *solution;  // the backward's; solution is the forward's x
  Real *grad_v, *grad_strength, *grad_metric;
};

template <typename Real>
struct PenaltyValueArgs {
  int64_t T, M, C;
  const Real* w;
  PenaltyArgs<Real> penalty;
  double grad;
  Real* value;
  Real *grad_w, *grad_l1, *grad_group, *grad_shared, *grad_ridge;
};

template <typename Real>
struct FeatureUsageArgs {
  int64_t T, M, C;
  const Real *w, *grad_magnitude;
  Real* magnitude;
  int64_t *tasks_per_feature, *features_per_task;
  Real* grad_w;
};

// Samples of T tasks. Dense: z (T, n, M), y (T, n, C). Ragged: z (N, M), y (N, C), offsets (T + 1).
// One design for all tasks: z (n, M), y (T, n, C).
template <typename Real>
struct SamplesArgs {
  int64_t T, n, M, C;
  const Real *z, *y;
  const int64_t* offsets;     // null unless ragged
  const Real* sample_weight;  // null, or aligned with y's rows, or (n) for one design
  bool one_design;
  bool weight_per_task;  // one design only: sample_weight is (T, n)
  bool fit_intercept;
  int64_t loss;  // as in core/loss.h
};

template <typename Real>
struct HeadsArgs {
  SamplesArgs<Real> samples;
  PenaltyArgs<Real> penalty;
  const Real* init;  // (T, M, C) or null
  double tol;
  int64_t max_iter;
  Real *weight, *bias, *gap;  // (T, M, C), (T, C), (T)
  int32_t *n_iter, *status;   // (T)
};

template <typename Real>
struct HeadsBackwardArgs {
  SamplesArgs<Real> samples;
  PenaltyArgs<Real> penalty;
  const Real *weight, *grad_weight, *grad_bias;
  // Null where not asked for; in the layout of the inputs.
  Real *grad_z, *grad_y, *grad_sample_weight;
  Real *grad_l1, *grad_group, *grad_shared, *grad_ridge;
};

// The largest useful strength of each task, or the gap of given weights.
template <typename Real>
struct HeadsReportArgs {
  SamplesArgs<Real> samples;
  PenaltyArgs<Real> penalty;
  const Real* weight;  // null for lambda_max
  Real* value;         // (T); lambda_max with the shared level: (1)
};

// Runs body(begin, end, context) over pieces of [0, count), each of at least `grain`, in parallel.
using Body = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = void (*)(int64_t count, int64_t grain, Body body, void* context);

}  // namespace sparsedis
