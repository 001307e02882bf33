// The penalty's value and its gradients. Sums over a group are in `Real`, except where squares may
// leave its range, and in double over groups.
#pragma once

#include <limits>

#include "uniform_prox.h"

SPARSEDIS_BEGIN

// Blocks of tasks, or of groups, which are as many tasks of one feature.
template <typename Real>
TaskBlocks blocks_of(const PenaltyValueArgs<Real>& a, bool by_task) {
  return by_task ? TaskBlocks(a.T, a.M * a.C) : TaskBlocks(a.T * a.M, a.C);
}

// Calls body(block, all, index, groups, m) for consecutive groups of such blocks, `by_task` of one
// task at a time, of which m is the first feature.
template <typename Real, typename F>
void for_each_groups(const PenaltyValueArgs<Real>& a, bool by_task, ParallelFor run, F body) {
  const ProxArgs<Real> args{a.T, a.M, a.C, a.w, nullptr, a.penalty, nullptr};
  blocks_of(a, by_task).for_each(run, [&](int64_t b, int64_t begin, int64_t end) {
    Groups<Real> all(args);
    const int64_t unit = by_task ? a.M : 1, row = by_task ? a.M : end - begin;
    for (int64_t first = begin * unit; first < end * unit; first += row)
      all.for_each(first, first + row,
                   [&](int64_t i, int64_t groups) { body(b, all, i, groups, i - first); });
  });
}

// The penalty of consecutive groups without the shared level; their squares are added to
// `squares`, unless that is null.
template <typename Real>
double groups_value(const Groups<Real>& all, int64_t index, int64_t groups, double* squares) {
  const int64_t C = all.a.C;
  const Real* w = all.a.v + index * C;
  const Levels<Real>& at = all.levels;
  SafeSquares<Real> sums;
  double magnitude[kGroups], square[kGroups], total = 0;
  fetch(w, groups * C);
  sums.take(w, groups, all.layout, true);
#pragma omp simd
  for (int64_t k = 0; k < groups; ++k) magnitude[k] = sums.magnitude[k], square[k] = sums.square[k];
  sums.for_each_irregular(groups, [&](int64_t k) {
    square[k] = sum_of_squares(w + k * C, C), magnitude[k] = 0;
    for (int64_t c = 0; c < C; ++c) magnitude[k] += std::fabs(w[k * C + c]);
  });
#pragma omp simd reduction(+ : total)
  for (int64_t k = 0; k < groups; ++k)
    total += at.l1[k] * magnitude[k] + at.group[k] * std::sqrt(square[k]) +
             0.5 * at.ridge[k] * square[k];
  for (int64_t k = 0; k < groups && squares; ++k) squares[k] += square[k];
  const bool feasible =
      !all.a.penalty.nonneg || std::none_of(w, w + groups * C, [](Real x) { return x < 0; });
  return feasible ? total : std::numeric_limits<double>::infinity();
}

// ||w_m||^2 of every feature over all tasks into `squares`, unless that is null; returns the
// penalty without the shared level. Blocks are added in order, whatever the number of threads.
template <typename Real>
double tasks_value(const PenaltyValueArgs<Real>& a, ParallelFor run, double* squares) {
  const TaskBlocks blocks = blocks_of(a, squares != nullptr);
  Buffer<double> value(blocks.count), of_features(squares ? blocks.count * a.M : 0);
  std::fill_n(value.get(), blocks.count, 0.0);
  if (squares) std::fill_n(of_features.get(), blocks.count * a.M, 0.0);
  for_each_groups(a, squares != nullptr, run,
                  [&](int64_t b, const auto& all, int64_t i, int64_t groups, int64_t m) {
                    double* sums = squares ? of_features.get() + b * a.M + m : nullptr;
                    value.get()[b] += groups_value(all, i, groups, sums);
                  });
  double total = 0;
  if (squares) std::fill_n(squares, a.M, 0.0);
  for (int64_t b = 0; b < blocks.count; ++b) {
    total += value.get()[b];
    for (int64_t m = 0; m < a.M && squares; ++m) squares[m] += of_features.get()[b * a.M + m];
  }
  return total;
}

template <typename Real>
void penalty_value(const PenaltyValueArgs<Real>& a, ParallelFor run) {
  const bool shared = present(a.penalty.shared);
  Buffer<double> squares(shared ? a.M : 0);
  double total = tasks_value(a, run, shared ? squares.get() : nullptr);
  for (int64_t m = 0; m < a.M && shared; ++m)
    total += at(a.penalty.shared, 0, m) * std::sqrt(squares.get()[m]);
  *a.value = static_cast<Real>(total);
}

// One group, in double.
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

// Consecutive groups; norms are of the features over all tasks, and `coupled` is shared / norm, of
// the groups' own ones, or null without the shared level.
template <typename Real>
void penalty_value_backward_groups(const PenaltyValueArgs<Real>& a, const Groups<Real>& all,
                                   int64_t index, int64_t groups, const double* norms,
                                   const double* coupled) {
  const Real* w = a.w + index * a.C;
  const Levels<Real>& at = all.levels;
  SafeSquares<Real> sums;
  Real l1[kGroups], radial[kGroups];
  fetch(w, groups * a.C);
  sums.take(w, groups, all.layout, a.grad_l1 != nullptr);
#pragma omp simd
  for (int64_t k = 0; k < groups; ++k) {
    const Real norm = std::sqrt(sums.square[k]);
    const Real slope = at.group[k] / norm + at.ridge[k];
    l1[k] = Real(a.grad) * at.l1[k];
    const Real radial_slope = slope + (coupled ? Real(coupled[k]) : Real(0));
    radial[k] = norm > 0 ? Real(a.grad) * radial_slope : Real(0);
  }
  const auto slope = [&](const auto& of_entries, const auto&, auto& x) {
    std::decay_t<decltype(x)> along{}, scale{};
    const std::decay_t<decltype(x)> zero{};
    of_entries(l1, along), of_entries(radial, scale);
    x = (x > zero ? along : (x < zero ? -along : zero)) + scale * x;
  };
  if (a.grad_w) map_entries(w, groups, all.layout, slope, a.grad_w + index * a.C);
  const auto write = [&](Real* out, double scale, auto value) {
    const Real by = static_cast<Real>(a.grad * scale);
#pragma omp simd
    for (int64_t k = 0; k < (out ? groups : 0); ++k) out[index + k] = by * value(k);
  };
  write(a.grad_l1, a.penalty.l1.scale, [&](int64_t k) { return sums.magnitude[k]; });
  write(a.grad_group, a.penalty.group.scale, [&](int64_t k) { return std::sqrt(sums.square[k]); });
  write(a.grad_ridge, a.penalty.ridge.scale, [&](int64_t k) { return sums.square[k] / 2; });
  sums.for_each_irregular(groups, [&](int64_t k) {
    const int64_t t = (index + k) / a.M, m = (index + k) % a.M;
    penalty_value_backward_group(a, t, m, norms[m]);
  });
}

template <typename Real>
void penalty_value_backward(const PenaltyValueArgs<Real>& a, ParallelFor run) {
  const bool shared = present(a.penalty.shared);
  Buffer<double> norms(a.M), coupled(shared ? a.M : 0);
  std::fill_n(norms.get(), a.M, 0.0);
  if (shared || a.grad_shared) tasks_value(a, run, norms.get());
  for (int64_t m = 0; m < a.M; ++m) {
    const double norm = norms.get()[m] = std::sqrt(norms.get()[m]);
    if (shared) coupled.get()[m] = norm > 0 ? at(a.penalty.shared, 0, m) / norm : 0.0;
    if (a.grad_shared) a.grad_shared[m] = static_cast<Real>(a.grad * a.penalty.shared.scale * norm);
  }
  for_each_groups(a, shared, run,
                  [&](int64_t, const auto& all, int64_t i, int64_t groups, int64_t m) {
                    const double* of_groups = shared ? coupled.get() + m : nullptr;
                    penalty_value_backward_groups(a, all, i, groups, norms.get(), of_groups);
                  });
}

SPARSEDIS_END
