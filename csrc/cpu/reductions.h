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
  const auto magnitude = [](const auto&, auto& x) { absolute(x); };
  if (C < kLongGroup) return group_sums(w, groups, layout, magnitude, out);
  for (int64_t k = 0; k < groups; ++k) {
    double sum[1];
    const Real* row = w + k * C;
    sum_blocks<Real>(C, sum, [row](int64_t c, Real(&q)[1]) { q[0] = std::fabs(row[c]); });
    out[k] = static_cast<Real>(sum[0]);
  }
}

constexpr int64_t kUsageTasks = 8;  // whose magnitudes are summed in `Real`

// How a block of tasks uses each feature.
template <typename Real>
class BlockUsage {
 public:
  BlockUsage(const FeatureUsageArgs<Real>& args, double* magnitude, int64_t* tasks)
      : a(args), magnitude(magnitude), tasks(tasks) {}

  void count(int64_t begin, int64_t end) {
    std::fill_n(sums, whole, Real(0));
    std::fill_n(magnitude, a.M, 0.0);
    std::fill_n(tasks, a.M, int64_t{0});
    for (int64_t t0 = begin; t0 < end; t0 += kUsageTasks) {
      std::fill_n(part, whole, Real(0));
      std::fill_n(users, whole, Index(0));
      for (int64_t t = t0; t < std::min(end, t0 + kUsageTasks); ++t) count_task(t);
#pragma omp simd
      for (int64_t m = 0; m < a.M; ++m) magnitude[m] += part[m], tasks[m] += users[m];
    }
  }

 private:
  using Index = typename Eight<Real>::Index;
  const FeatureUsageArgs<Real>& a;
  double* magnitude;
  int64_t* tasks;
  const Layout<Real> layout{a.C};
  const int64_t whole = (a.M + kMostLanes - 1) / kMostLanes * kMostLanes;  // vectors
  const Buffer<Real> sum_buffer{whole}, part_buffer{whole};
  const Buffer<Index> user_buffer{whole};
  Real *sums = sum_buffer.get(), *part = part_buffer.get();
  Index* users = user_buffer.get();

  void count_task(int64_t t) {
    for (int64_t m = 0, step = groups_of(a.C); m < a.M; m += step) {
      const int64_t groups = std::min(step, a.M - m);
      const Real* w = a.w + (t * a.M + m) * a.C;
      fetch(w, groups * a.C);
      magnitudes(w, groups, layout, sums + m);
    }
    Index features = 0;
#pragma omp simd reduction(+ : features)
    for (int64_t m = 0; m < whole; ++m) {
      part[m] += sums[m], users[m] += sums[m] != 0;
      features += sums[m] != 0;
    }
    a.features_per_task[t] = features;
  }
};

template <typename Real>
void feature_usage(const FeatureUsageArgs<Real>& a, ParallelFor run) {
  const TaskBlocks blocks(a.T, a.M * a.C);
  Buffer<double> magnitudes(blocks.count * a.M), total(a.M);
  Buffer<int64_t> tasks(blocks.count * a.M);
  blocks.for_each(run, [&](int64_t b, int64_t begin, int64_t end) {
    BlockUsage<Real>(a, magnitudes.get() + b * a.M, tasks.get() + b * a.M).count(begin, end);
  });
  std::fill_n(total.get(), a.M, 0.0);
  std::fill_n(a.tasks_per_feature, a.M, int64_t{0});
  for (int64_t b = 0; b < blocks.count; ++b)
    for (int64_t m = 0; m < a.M; ++m) {
      total.get()[m] += magnitudes.get()[b * a.M + m];
      a.tasks_per_feature[m] += tasks.get()[b * a.M + m];
    }
  std::copy_n(total.get(), a.M, a.magnitude);
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
