// One task, centred and weighted: for the squared loss min_W 1/2 ||A W - B||_F^2 + Omega(W).
//
// With p_i = s_i / sum s, A = sqrt(p) (z - zbar) and B = sqrt(p) (y - ybar): the mean loss and the
// intercept b = ybar - W' zbar are inside A and B. Other losses have ybar = 0.
#pragma once

#include "dual.h"
#include "loss.h"
#include "samples.h"

SPARSEDIS_BEGIN

// The arrays a task is solved on; `Compute` is double where a gradient is taken.
template <typename Compute>
struct Task {
  int64_t n, M, C, ld, lds;  // ld = padded(M), lds: n in whole tiles of any type
  int64_t stride;            // of A
  Loss loss;
  bool centred;                            // by an intercept
  Buffer<Compute> A, B, l1, group, ridge;  // A (n, stride), B (C, lds)
  Buffer<double> zbar, ybar, p, floor;  // floor: what a feature's ridge takes of its squared norm
  double total_weight, target2;         // sum of s, ||B||^2
  TaskPenalty<Compute> penalty;
  bool sparse;  // some strength other than ridge is positive, or nonneg

  bool empty() const { return n == 0 || total_weight == 0; }
};

// x * 0 is 0 for every finite x and NaN for the rest.
template <typename Real>
inline bool all_finite(const Real* x, int64_t n) {
  Real poison = 0;
#pragma omp simd reduction(+ : poison)
  for (int64_t i = 0; i < n; ++i) poison += x[i] * Real(0);
  return poison == Real(0);
}

// p and the total weight; false where a weight is negative or not finite.
template <typename Real, typename Compute>
inline bool normalise_weights(const TaskInput<Real>& in, Task<Compute>& task) {
  double* p = task.p.reserve(in.n);
  double total = 0;
  for (int64_t i = 0; i < in.n; ++i) {
    p[i] = in.sample_weight ? static_cast<double>(in.sample_weight[i]) : 1.0;
    if (!(p[i] >= 0 && p[i] <= std::numeric_limits<double>::max())) return false;
    total += p[i];
  }
  for (int64_t i = 0; i < in.n; ++i) p[i] = total > 0 ? p[i] / total : 0.0;
  task.total_weight = total;
  return true;
}

// Weighted column means of x (n, width) in double, taken around the heaviest row: a constant column
// has exactly its own value as mean, and rounding leaves nothing there for a free weight to fit.
template <typename Real>
inline void weighted_mean(const Real* x, const double* p, int64_t n, int64_t width, bool wanted,
                          double* mean) {
  std::fill_n(mean, width, 0.0);
  const int64_t heaviest = std::max_element(p, p + n) - p;
  if (!wanted || n == 0 || p[heaviest] == 0) return;
  const Real* anchor = x + heaviest * width;
  const auto add_rows = [=](int64_t i, auto count) {
    const Real* rows = x + i * width;
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) {
      double sum = mean[j];
      for (int k = 0; k < count; ++k)
        sum += p[i + k] * (static_cast<double>(rows[k * width + j]) - anchor[j]);
      mean[j] = sum;
    }
  };
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) add_rows(i, std::integral_constant<int, 4>());
  for (; i < n; ++i) add_rows(i, std::integral_constant<int, 1>());
  for (int64_t j = 0; j < width; ++j) mean[j] += anchor[j];
}

template <typename Real, typename Compute>
inline void centre(const Real* x, const double* p, const double* mean, int64_t n, int64_t width,
                   int64_t ld, Compute* out) {
  for (int64_t i = 0; i < n; ++i) {
    const double root = std::sqrt(p[i]);
    const Real* row = x + i * width;
    Compute* to = out + i * ld;
#pragma omp simd
    for (int64_t j = 0; j < width; ++j)
      to[j] = static_cast<Compute>(root * (static_cast<double>(row[j]) - mean[j]));
    std::fill(to + width, to + ld, Compute(0));
  }
}

// The same of y (n, C), as rows of outputs.
template <typename Real, typename Compute>
inline void centre_targets(const TaskInput<Real>& in, Task<Compute>& task) {
  Compute* B = task.B.reserve(in.C * task.lds);
  std::fill_n(B, in.C * task.lds, Compute(0));
  for (int64_t i = 0; i < in.n; ++i) {
    const double root = std::sqrt(task.p.get()[i]);
    for (int64_t c = 0; c < in.C; ++c)
      B[c * task.lds + i] = static_cast<Compute>(
          root * (static_cast<double>(in.y[i * in.C + c]) - task.ybar.get()[c]));
  }
}

// Whether the loss takes every target that has a weight.
template <typename Real>
inline bool takes_all(const TaskInput<Real>& in) {
  if (in.loss == kSquared) return true;
  for (int64_t i = 0; i < in.n; ++i)
    if ((!in.sample_weight || in.sample_weight[i] != 0) && !takes(in.loss, in.y + i * in.C, in.C))
      return false;
  return true;
}

// Fills A, p and zbar; false where z is not finite or a weight is negative.
template <typename Real, typename Compute>
inline bool load_design(const TaskInput<Real>& in, Task<Compute>& task) {
  task.n = in.n, task.M = in.M, task.C = in.C, task.ld = padded<Compute>(in.M);
  task.lds = padded<float>(in.n);  // whole tiles of float are whole tiles of double
  task.stride = sample_stride<Compute>(in.M);
  task.loss = in.loss, task.centred = in.fit_intercept;
  double* zbar = task.zbar.reserve(in.M);
  Compute* A = task.A.reserve(in.n * task.stride);
  if (!normalise_weights(in, task)) return false;
  const double* p = task.p.get();
  weighted_mean(in.z, p, in.n, in.M, in.fit_intercept, zbar);
  // What is not finite in z is not in its means either, where there are some.
  const bool meant = in.fit_intercept && task.total_weight > 0;
  if (meant ? !all_finite(zbar, in.M) : !all_finite(in.z, in.n * in.M)) return false;
  centre(in.z, p, zbar, in.n, in.M, task.stride, A);
  return true;
}

// Fills B and ybar of a task whose design is loaded; false where y is not finite or the loss does
// not take a target.
template <typename Real, typename Compute>
inline bool load_targets(const TaskInput<Real>& in, Task<Compute>& task) {
  task.C = in.C;
  double* ybar = task.ybar.reserve(in.C);
  if (!all_finite(in.y, in.n * in.C) || !takes_all(in)) return false;
  weighted_mean(in.y, task.p.get(), in.n, in.C, in.fit_intercept && in.loss == kSquared, ybar);
  centre_targets(in, task);
  task.target2 = sum_of_squares(task.B.get(), in.C * task.lds);
  return true;
}

template <typename Real, typename Compute>
inline bool load_task(const TaskInput<Real>& in, Task<Compute>& task) {
  return load_design(in, task) && load_targets(in, task);
}

// Sum of squares of column j of A.
template <typename Compute>
inline double column_norm2(const Task<Compute>& task, int64_t j) {
  double norm2 = 0;
  for (int64_t i = 0; i < task.n; ++i) {
    const double a = task.A.get()[i * task.stride + j];
    norm2 += a * a;
  }
  return norm2;
}

// Fills the strengths of task t, with the ridge floor; false where one is not finite.
template <typename Real, typename Compute>
inline bool load_penalty(const PenaltyArgs<Real>& args, int64_t t, Task<Compute>& task) {
  Compute *l1 = task.l1.reserve(task.ld), *group = task.group.reserve(task.ld),
          *ridge = task.ridge.reserve(task.ld);
  for (Compute* row : {l1, group, ridge}) std::fill_n(row, task.ld, Compute(0));
  double* floor = task.floor.reserve(task.M);
  task.sparse = args.nonneg;
  for (int64_t j = 0; j < task.M; ++j) {
    l1[j] = at(args.l1, t, j);
    group[j] = at(args.group, t, j);
    ridge[j] = at(args.ridge, t, j);
    floor[j] = 0;
    const Real shared = at(args.shared, t, j);
    task.sparse |= l1[j] > 0 || group[j] > 0 || shared > 0;
    if (l1[j] == 0 && group[j] == 0 && ridge[j] == 0 && shared == 0) {
      const double norm2 = column_norm2(task, j);
      floor[j] = norm2 > 0 ? ridge_floor<Real>() : 0.0;
      ridge[j] = static_cast<Compute>(norm2 > 0 ? floor[j] * norm2 : 1.0);
    }
  }
  task.penalty = {l1, group, ridge, args.nonneg};
  return all_finite(l1, task.M) && all_finite(group, task.M) && all_finite(ridge, task.M);
}

SPARSEDIS_END
