// How tasks use features.
#pragma once

#include "uniform_prox.h"

SPARSEDIS_BEGIN

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
