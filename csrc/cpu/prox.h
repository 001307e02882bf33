// The prox and its backward over (T, M, C) arrays: tasks in parallel, or slabs of features where
// the shared level couples the tasks.
#pragma once

#include <algorithm>

#include "../core/buffer.h"
#include "../core/prox_backward.h"
#include "feature_prox.h"

SPARSEDIS_BEGIN

template <typename Args, typename Real>
Group<Real> group_at(const Args& a, const Real* v, int64_t t, int64_t m) {
  const int64_t offset = (t * a.M + m) * a.C;
  return {v ? v + offset : nullptr,  a.metric ? a.metric + offset : nullptr,
          at(a.penalty.l1, t, m),    at(a.penalty.group, t, m),
          at(a.penalty.ridge, t, m), a.C,
          a.penalty.nonneg};
}

// Slabs of features, `most` or fewer; `size` is the number of elements of the whole array.
template <typename F>
void for_each_slab(ParallelFor run, int64_t M, int64_t size, F body, int64_t most = kSlab) {
  const int64_t slabs = (M + most - 1) / most;
  parallel_for(run, slabs, size < kParallelElements ? slabs : 1, [&](int64_t begin, int64_t end) {
    for (int64_t slab = begin; slab < end; ++slab)
      body(slab * most, std::min(most, M - slab * most));
  });
}

// As many features as stay in cache, in eights.
template <typename Real>
int64_t cached_features(const ProxArgs<Real>& a) {
  const int64_t bytes = std::max<int64_t>(1, a.T * a.C * static_cast<int64_t>(sizeof(Real)));
  return std::clamp<int64_t>(kSlabBytes / bytes / 8 * 8, 8, kSlab);
}

// Groups that no level couples. `update(offset, count)` is called for entries that are about to be
// read, and returns their metric, or null where there is none.
template <typename Real, typename Update>
void prox_groups(const ProxArgs<Real>& a, int64_t begin, int64_t end, Update update) {
  Groups<Real> all(a);
  Columns<Real> columns{a.C};
  all.for_each(begin, end, [&](int64_t i, int64_t groups) {
    const int64_t offset = i * a.C;
    const Real* metric = update(offset, groups * a.C);
    metric ? solve_groups(a.v + offset, metric, groups, all.levels, columns, a.x + offset)
           : all.prox(i, groups);
  });
}

// Whole blocks of groups for each thread, so that no group's sum depends on where one begins;
// `make_update` gives each its own `update`.
template <typename Real, typename MakeUpdate>
void prox_blocks(const ProxArgs<Real>& a, ParallelFor run, MakeUpdate make_update) {
  const int64_t groups = a.T * a.M, block = groups_of(a.C);
  parallel_for(run, (groups + block - 1) / block,
               kParallelElements / (block * std::max<int64_t>(a.C, 1)),
               [&](int64_t begin, int64_t end) {
                 prox_groups(a, begin * block, std::min(groups, end * block), make_update());
               });
}

template <typename Real, typename Update>
void scale_slabs(const ProxArgs<Real>& a, ParallelFor run, Update update) {
  const auto body = [&](int64_t m0, int64_t width) {
    double left[kSlab];
    scale_features(a, m0, width, left, update);
  };
  for_each_slab(run, a.M, a.T * a.M * a.C, body, cached_features(a));
}

template <typename Real>
void prox(const ProxArgs<Real>& a, ParallelFor run) {
  if (!present(a.penalty.shared)) {
    prox_blocks(a, run, [&] {
      return [&](int64_t offset, int64_t) { return a.metric ? a.metric + offset : nullptr; };
    });
  } else if (is_uniform(a)) {
    scale_slabs(a, run, [](int64_t, int64_t) {});
  } else {
    for_each_slab(run, a.M, a.T * a.M * a.C,
                  [&](int64_t m0, int64_t width) { FeatureProx<Real>(a, m0, width).run(); });
  }
}

template <typename Real>
SolvedGroup<Real> solved_at(const ProxBackwardArgs<Real>& a, int64_t t, int64_t m, double kappa,
                            bool feature_live) {
  return solved_group(group_at(a, static_cast<const Real*>(nullptr), t, m),
                      a.x + (t * a.M + m) * a.C, kappa, feature_live);
}

// Every gradient of one group from y = A^-1 grad; returns <x, y>.
template <typename Real>
double write_group_gradients(const ProxBackwardArgs<Real>& a, int64_t t, int64_t m,
                             const SolvedGroup<Real>& s, const Real* y) {
  double sign_y = 0, x_y = 0;
  const int64_t index = t * a.M + m, offset = index * a.C;
  for (int64_t c = 0; c < a.C; ++c) {
    const Real d = a.metric ? a.metric[offset + c] : Real(1);
    if (a.grad_v) a.grad_v[offset + c] = d * y[c];
    if (a.grad_metric) a.grad_metric[offset + c] = (a.v[offset + c] - s.x[c]) * y[c];
    sign_y += s.x[c] > 0 ? y[c] : (s.x[c] < 0 ? -y[c] : Real(0));
    x_y += static_cast<double>(s.x[c]) * y[c];
  }
  if (a.grad_l1) a.grad_l1[index] = static_cast<Real>(-a.penalty.l1.scale * sign_y);
  if (a.grad_group)
    a.grad_group[index] = static_cast<Real>(-a.penalty.group.scale * x_y * s.inverse_norm);
  if (a.grad_ridge) a.grad_ridge[index] = static_cast<Real>(-a.penalty.ridge.scale * x_y);
  return x_y;
}

template <typename Real>
void prox_backward_group(const ProxBackwardArgs<Real>& a, int64_t t, int64_t m, Real* y) {
  const SolvedGroup<Real> s = solved_at(a, t, m, 0.0, true);
  solve_group_backward(s, a.grad + (t * a.M + m) * a.C, 0.0, y);
  write_group_gradients(a, t, m, s, y);
}

template <typename Real>
void prox_backward_slab(const ProxBackwardArgs<Real>& a, int64_t m0, int64_t width, Real* y) {
  double theta[kSlab] = {}, kappa[kSlab], projection[kSlab] = {}, denominator[kSlab] = {},
         x_y[kSlab] = {};
  const auto over_groups = [&](auto body) {
    for (int64_t t = 0; t < a.T; ++t)
      for (int64_t k = 0; k < width; ++k) body(t, k, (t * a.M + m0 + k) * a.C);
  };
  over_groups(
      [&](int64_t, int64_t k, int64_t offset) { theta[k] += sum_of_squares(a.x + offset, a.C); });
  for (int64_t k = 0; k < width; ++k) {
    theta[k] = std::sqrt(theta[k]);
    kappa[k] = theta[k] > 0 ? at(a.penalty.shared, 0, m0 + k) / theta[k] : 0.0;
  }
  over_groups([&](int64_t t, int64_t k, int64_t offset) {
    if (kappa[k] == 0) return;
    const FeatureSums sums =
        feature_sums(solved_at(a, t, m0 + k, kappa[k], true), a.grad + offset, theta[k]);
    projection[k] += sums.projection;
    denominator[k] += sums.denominator;
  });
  over_groups([&](int64_t t, int64_t k, int64_t offset) {
    const bool feature_live = theta[k] > 0 || at(a.penalty.shared, 0, m0 + k) == Real(0);
    const SolvedGroup<Real> s = solved_at(a, t, m0 + k, kappa[k], feature_live);
    const double lift =
        denominator[k] > 0 ? kappa[k] * projection[k] / (denominator[k] * theta[k]) : 0.0;
    solve_group_backward(s, a.grad + offset, lift, y);
    x_y[k] += write_group_gradients(a, t, m0 + k, s, y);
  });
  if (a.grad_shared)
    for (int64_t k = 0; k < width; ++k)
      a.grad_shared[m0 + k] =
          static_cast<Real>(theta[k] > 0 ? -a.penalty.shared.scale * x_y[k] / theta[k] : 0.0);
}

template <typename Real>
void prox_backward(const ProxBackwardArgs<Real>& a, ParallelFor run) {
  if (present(a.penalty.shared)) {
    for_each_slab(run, a.M, a.T * a.M * a.C, [&](int64_t m0, int64_t width) {
      Buffer<Real> y(a.C);
      prox_backward_slab(a, m0, width, y.get());
    });
    return;
  }
  if (a.grad_shared) std::fill_n(a.grad_shared, a.M, Real(0));
  parallel_for(run, a.T * a.M, kParallelElements / std::max<int64_t>(a.C, 1),
               [&](int64_t begin, int64_t end) {
                 Buffer<Real> y(a.C);
                 for (int64_t i = begin; i < end; ++i)
                   prox_backward_group(a, i / a.M, i % a.M, y.get());
               });
}

SPARSEDIS_END
