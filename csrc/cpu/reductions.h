// Ops that reduce the weights: the penalty's value, and how features are used.
#pragma once

#include <limits>

#include "group_prox.h"

SPARSEDIS_BEGIN

// The penalty of one group without the shared level.
template <typename Real>
double group_value(const PenaltyValueArgs<Real>& a, int64_t t, int64_t m, double norm2) {
  const Real* w = a.w + (t * a.M + m) * a.C;
  double magnitude = 0;
  for (int64_t c = 0; c < a.C; ++c) {
    magnitude += std::fabs(w[c]);
    if (a.penalty.nonneg && w[c] < 0) return std::numeric_limits<double>::infinity();
  }
  return at(a.penalty.l1, t, m) * magnitude + at(a.penalty.group, t, m) * std::sqrt(norm2) +
         0.5 * at(a.penalty.ridge, t, m) * norm2;
}

// One partial sum per slab, added in order: the value does not depend on the number of threads.
template <typename Real>
void penalty_value(const PenaltyValueArgs<Real>& a, ParallelFor run) {
  const int64_t slabs = (a.M + kSlab - 1) / kSlab;
  Buffer<double> partial(slabs + 1);
  for_each_slab(run, a.M, a.T * a.M * a.C, [&](int64_t m0, int64_t width) {
    double sum = 0, shared[kSlab] = {};
    for (int64_t t = 0; t < a.T; ++t)
      for (int64_t k = 0; k < width; ++k) {
        const double norm2 = sum_of_squares(a.w + (t * a.M + m0 + k) * a.C, a.C);
        shared[k] += norm2;
        sum += group_value(a, t, m0 + k, norm2);
      }
    for (int64_t k = 0; k < width; ++k)
      sum += at(a.penalty.shared, 0, m0 + k) * std::sqrt(shared[k]);
    partial.get()[m0 / kSlab] = sum;
  });
  double total = 0;
  for (int64_t slab = 0; slab < slabs; ++slab) total += partial.get()[slab];
  *a.value = static_cast<Real>(total);
}

template <typename Real>
void penalty_value_backward_group(const PenaltyValueArgs<Real>& a, int64_t t, int64_t m,
                                  double feature_norm) {
  const int64_t index = t * a.M + m;
  const Real* w = a.w + index * a.C;
  const double norm2 = sum_of_squares(w, a.C), norm = std::sqrt(norm2);
  const double l1 = at(a.penalty.l1, t, m);
  const double radial = (norm > 0 ? at(a.penalty.group, t, m) / norm : 0.0) +
                        (feature_norm > 0 ? at(a.penalty.shared, 0, m) / feature_norm : 0.0) +
                        at(a.penalty.ridge, t, m);
  double magnitude = 0;
  for (int64_t c = 0; c < a.C; ++c) {
    const double sign = w[c] > 0 ? 1.0 : (w[c] < 0 ? -1.0 : 0.0);
    magnitude += std::fabs(w[c]);
    if (a.grad_w)
      a.grad_w[index * a.C + c] = static_cast<Real>(a.grad * (l1 * sign + radial * w[c]));
  }
  if (a.grad_l1) a.grad_l1[index] = static_cast<Real>(a.grad * a.penalty.l1.scale * magnitude);
  if (a.grad_group) a.grad_group[index] = static_cast<Real>(a.grad * a.penalty.group.scale * norm);
  if (a.grad_ridge)
    a.grad_ridge[index] = static_cast<Real>(a.grad * a.penalty.ridge.scale * 0.5 * norm2);
}

template <typename Real>
void penalty_value_backward(const PenaltyValueArgs<Real>& a, ParallelFor run) {
  for_each_slab(run, a.M, a.T * a.M * a.C, [&](int64_t m0, int64_t width) {
    double norms[kSlab] = {};
    for (int64_t t = 0; t < a.T; ++t)
      for (int64_t k = 0; k < width; ++k)
        norms[k] += sum_of_squares(a.w + (t * a.M + m0 + k) * a.C, a.C);
    for (int64_t k = 0; k < width; ++k) {
      norms[k] = std::sqrt(norms[k]);
      if (a.grad_shared)
        a.grad_shared[m0 + k] = static_cast<Real>(a.grad * a.penalty.shared.scale * norms[k]);
    }
    for (int64_t t = 0; t < a.T; ++t)
      for (int64_t k = 0; k < width; ++k) penalty_value_backward_group(a, t, m0 + k, norms[k]);
  });
}

// sum |w| of consecutive groups: 0 exactly where every entry is 0.
template <typename Real>
void magnitudes(const Real* w, int64_t groups, const Layout<Real>& layout, Real* out) {
  const int64_t C = layout.C;
  const auto magnitude = [](const auto&, auto& x) { x = x < 0 ? -x : x; };
  if (C < kLongGroup) return group_sums(w, groups, layout, magnitude, out);
  for (int64_t k = 0; k < groups; ++k) {
    double sum[1];
    const Real* row = w + k * C;
    sum_blocks<Real>(C, sum, [row](int64_t c, Real(&q)[1]) { q[0] = std::fabs(row[c]); });
    out[k] = static_cast<Real>(sum[0]);
  }
}

// Features [m0, m0 + width) over all tasks; `counts` gets how many of them each task uses.
template <typename Real>
void usage_of_features(const FeatureUsageArgs<Real>& a, int64_t m0, int64_t width,
                       uint8_t* counts) {
  const Layout<Real> layout(a.C);
  Real sums[kSlab];
  double magnitude[kSlab] = {};
  int64_t tasks[kSlab] = {};
  for (int64_t t = 0; t < a.T; ++t) {
    const Real* w = a.w + (t * a.M + m0) * a.C;
    fetch(w + kAhead * a.M * a.C, width * a.C);
    magnitudes(w, width, layout, sums);
    int count = 0;
#pragma omp simd reduction(+ : count)
    for (int64_t k = 0; k < width; ++k) {
      magnitude[k] += sums[k], tasks[k] += sums[k] != 0;
      count += sums[k] != 0;
    }
    counts[t] = static_cast<uint8_t>(count);
  }
  for (int64_t k = 0; k < width; ++k)
    a.magnitude[m0 + k] = static_cast<Real>(magnitude[k]), a.tasks_per_feature[m0 + k] = tasks[k];
}

template <typename Real>
void feature_usage(const FeatureUsageArgs<Real>& a, ParallelFor run) {
  const int64_t slabs = (a.M + kSlab - 1) / kSlab;
  Buffer<uint8_t> counts(slabs * a.T);
  for_each_slab(run, a.M, a.T * a.M * a.C, [&](int64_t m0, int64_t width) {
    usage_of_features(a, m0, width, counts.get() + m0 / kSlab * a.T);
  });
  for (int64_t t = 0; t < a.T; ++t) {
    a.features_per_task[t] = 0;
    for (int64_t slab = 0; slab < slabs; ++slab)
      a.features_per_task[t] += counts.get()[slab * a.T + t];
  }
}

// The gradient of an unused feature's magnitude may be infinite (its logarithm is): 0 times that
// must stay 0, so it is selected, not multiplied.
template <typename Real>
void feature_usage_backward(const FeatureUsageArgs<Real>& a, ParallelFor run) {
  const int64_t width = a.M * a.C;
  Buffer<Real> slopes(width);  // of every entry of a task
  for (int64_t m = 0; m < a.M; ++m) std::fill_n(slopes.get() + m * a.C, a.C, a.grad_magnitude[m]);
  parallel_for(run, a.T, kParallelElements / std::max<int64_t>(width, 1),
               [&](int64_t begin, int64_t end) {
                 for (int64_t t = begin; t < end; ++t) {
                   const Real *w = a.w + t * width, *slope = slopes.get();
                   Real* grad = a.grad_w + t * width;
#pragma omp simd
                   for (int64_t i = 0; i < width; ++i) {
                     const Real up = slope[i], down = -slope[i];
                     grad[i] = w[i] > 0 ? up : (w[i] < 0 ? down : w[i]);
                   }
                 }
               });
}

SPARSEDIS_END
