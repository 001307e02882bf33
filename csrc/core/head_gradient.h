// Where the gradient of a task's heads is taken from and goes.
#pragma once

#include "samples.h"

SPARSEDIS_BEGIN

template <typename Real>
struct HeadGradient {
  const Real *weight, *grad_weight, *grad_bias;  // (M, C), (M, C), (C)
  // Where a row goes: stored, or added where tasks share it. Null where not asked for.
  Real *z, *y, *sample_weight;  // (n, M), (n, C), (n)
  double *z_sum, *weight_sum;   // the same, summed over tasks
  Real *l1, *group, *ridge;     // (M)
};

// That of task t, without what is summed over tasks.
template <typename Real>
SPARSEDIS_HD inline HeadGradient<Real> head_gradient(const HeadsBackwardArgs<Real>& a, int64_t t) {
  const SamplesArgs<Real>& s = a.samples;
  const int64_t row = row_of(s, t), MC = s.M * s.C;
  const auto rows = [=](Real* grad, int64_t width) { return grad ? grad + row * width : nullptr; };
  const auto features = [&](Real* grad) { return grad ? grad + t * s.M : nullptr; };
  const bool shares_weight = s.one_design && !s.weight_per_task;
  return {a.weight + t * MC,
          a.grad_weight + t * MC,
          a.grad_bias + t * s.C,
          s.one_design ? nullptr : rows(a.grad_z, s.M),
          rows(a.grad_y, s.C),
          shares_weight ? nullptr : rows(a.grad_sample_weight, 1),
          nullptr,
          nullptr,
          features(a.grad_l1),
          features(a.grad_group),
          features(a.grad_ridge)};
}

// Numbers of z, and of sample weights, whose gradients are summed over tasks.
template <typename Real>
SPARSEDIS_HD inline int64_t shared_samples(const HeadsBackwardArgs<Real>& a) {
  return a.samples.one_design && a.grad_z ? a.samples.n * a.samples.M : 0;
}
template <typename Real>
SPARSEDIS_HD inline int64_t shared_weights(const HeadsBackwardArgs<Real>& a) {
  const SamplesArgs<Real>& s = a.samples;
  return s.one_design && !s.weight_per_task && a.grad_sample_weight ? s.n : 0;
}

SPARSEDIS_END
