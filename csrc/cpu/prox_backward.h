// The backward of the prox over (T, M, C) arrays.
#pragma once

#include "metric_backward.h"
#include "uniform_backward.h"

SPARSEDIS_BEGIN

// Groups of one entry, of which `index` is the first, where l1 and group are one threshold.
template <typename Real>
void write_singles(const ProxBackwardArgs<Real>& a, int64_t index, int64_t count,
                   const Levels<Real>& at) {
  Real y[kGroups];
  const Real *x = a.x + index, *b = a.grad + index;
  const Real* metric = a.metric ? a.metric + index : nullptr;
#pragma omp simd
  for (int64_t k = 0; k < count; ++k) {
    const Real solved = b[k] / ((metric ? metric[k] : Real(1)) + at.ridge[k]);
    y[k] = (x[k] != 0) | (at.low[k] == 0) ? solved : Real(0);
  }
  const auto write = [&](Real* out, auto value) {
    if (!out) return;
#pragma omp simd
    for (int64_t k = 0; k < count; ++k) out[index + k] = static_cast<Real>(value(k) * y[k]);
  };
  const auto sign = [&](int64_t k) { return signed_like(x[k], Real(1)); };
  const PenaltyArgs<Real>& p = a.penalty;
  write(a.grad_v, [&](int64_t k) { return metric ? metric[k] : Real(1); });
  write(a.grad_metric, [&](int64_t k) { return a.v[index + k] - x[k]; });
  write(a.grad_l1, [&](int64_t k) { return -p.l1.scale * sign(k); });
  write(a.grad_group, [&](int64_t k) { return -p.group.scale * sign(k); });
  write(a.grad_ridge, [&](int64_t k) { return -p.ridge.scale * x[k]; });
}

template <typename Real>
void single_backward_groups(const ProxBackwardArgs<Real>& a, int64_t begin, int64_t end) {
  Levels<Real> levels;
  for (int64_t i = begin; i < end; i += kGroups) {
    const int64_t count = std::min(kGroups, end - i);
    levels.load(a.penalty, a.M, 1, i, count);
    write_singles(a, i, count, levels);
  }
}

template <typename Real>
void prox_backward(const ProxBackwardArgs<Real>& a, ParallelFor run) {
  if (present(a.penalty.shared)) {
    if (!a.metric) return UniformFeatures<Real>(a, run).backward();
    return for_each_slab(run, a.M, kSlab, a.T * a.M * a.C, [&] {
      return [&](int64_t m0, int64_t width) { FeatureAdjoint<Real>(a, m0, width).run(); };
    });
  }
  if (a.grad_shared) std::fill_n(a.grad_shared, a.M, Real(0));
  for_each_range(a.T * a.M, a.C, run, [&](int64_t begin, int64_t end) {
    if (a.C == 1) return single_backward_groups(a, begin, end);
    a.metric ? metric_backward_groups(a, begin, end) : uniform_backward_groups(a, begin, end);
  });
}

SPARSEDIS_END
