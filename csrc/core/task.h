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
  Buffer<double> zbar, ybar, p, root;      // root = sqrt(p)
  Buffer<double> floor;                    // what a feature's ridge takes of its squared norm
  int64_t heaviest;                        // the first sample whose p is the largest
  double total_weight, target2;            // sum of s, ||B||^2
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

// p, its root (both 0 past n, lds long) and the total weight; false where a weight is negative or
// not finite.
template <typename Real, typename Compute>
inline bool normalise_weights(const TaskInput<Real>& in, Task<Compute>& task) {
  double *p = task.p.reserve(task.lds), *root = task.root.reserve(task.lds), total = 0;
  for (int64_t i = 0; i < in.n; ++i) {
    p[i] = in.sample_weight ? static_cast<double>(in.sample_weight[i]) : 1.0;
    if (!(p[i] >= 0 && p[i] <= std::numeric_limits<double>::max())) return false;
    total += p[i];
  }
  task.heaviest = in.sample_weight ? std::max_element(p, p + in.n) - p : 0;
  task.total_weight = total;
  const double by = total > 0 ? total : std::numeric_limits<double>::infinity();
  std::fill(p + in.n, p + task.lds, 0.0);
#pragma omp simd
  for (int64_t i = 0; i < task.lds; ++i) p[i] /= by, root[i] = std::sqrt(p[i]);
  return true;
}

// sums[:columns] += what the rows of z have, weighted, above their `anchor`; a few vectors of
// columns at a time, in registers.
template <int vectors, typename Real>
inline void add_deviations(const Real* z, int64_t ld, const double* p, int64_t rows,
                           const Real* anchor, int64_t columns, double* sums) {
  using Vector = typename Simd<double>::Vector;
  constexpr int64_t lanes = Simd<double>::kLanes;
  int64_t j = 0;
  for (; j + vectors * lanes <= columns; j += vectors * lanes) {
    Vector sum[vectors]{}, middle[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) middle[v] = load_vector<double>(anchor + j + v * lanes);
    for (int64_t i = 0; i < rows; ++i)
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v)
        sum[v] += p[i] * (load_vector<double>(z + i * ld + j + v * lanes) - middle[v]);
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) *reinterpret_cast<Vector*>(sums + j + v * lanes) += sum[v];
  }
  if constexpr (vectors > 1) {
    add_deviations<vectors / 2>(z + j, ld, p, rows, anchor + j, columns - j, sums + j);
  } else {
    for (; j < columns; ++j)
      for (int64_t i = 0; i < rows; ++i)
        sums[j] += p[i] * (static_cast<double>(z[i * ld + j]) - anchor[j]);
  }
}

// zbar, the weighted means of the columns of z in double. They are taken around the heaviest row: a
// constant column has exactly its own value as mean, and rounding leaves nothing there for a free
// weight to fit.
template <typename Real, typename Compute>
inline void load_means(const TaskInput<Real>& in, Task<Compute>& task) {
  constexpr int64_t block = 16;  // rows, which are read as they lie in memory
  const int64_t n = in.n, M = in.M;
  const Real* anchor = in.z + task.heaviest * M;
  double* mean = task.zbar.reserve(M);
  std::fill_n(mean, M, 0.0);
  if (!in.fit_intercept || task.empty()) return;
  for (int64_t i = 0; i < n; i += block)
    add_deviations<kVectorBytes / 8>(in.z + i * M, M, task.p.get() + i, std::min(block, n - i),
                                     anchor, M, mean);
  for (int64_t j = 0; j < M; ++j) mean[j] += anchor[j];
}

// A = sqrt(p) (z - zbar)
template <typename Real, typename Compute>
inline void centre_samples(const TaskInput<Real>& in, Task<Compute>& task) {
  const double* mean = task.zbar.get();
  Compute* A = task.A.reserve(in.n * task.stride);
  for (int64_t i = 0; i < in.n; ++i) {
    const double root = task.root.get()[i];
    const Real* row = in.z + i * in.M;
    Compute* to = A + i * task.stride;
#pragma omp simd
    for (int64_t j = 0; j < in.M; ++j)
      to[j] = static_cast<Compute>(root * (static_cast<double>(row[j]) - mean[j]));
    std::fill(to + in.M, to + task.stride, Compute(0));
  }
}

// B = sqrt(p) (y - ybar) as rows of outputs, and ybar, around the heaviest target. Beyond n samples
// have no weight.
template <typename Real, typename Compute>
inline void centre_targets(const TaskInput<Real>& in, bool wanted, Task<Compute>& task) {
  using Vector = typename Simd<double>::Vector;
  constexpr int64_t lanes = Simd<double>::kLanes;
  const double *p = task.p.get(), *root = task.root.get();
  Compute* B = task.B.reserve(in.C * task.lds);
  for (int64_t c = 0; c < in.C; ++c) {
    Compute* row = B + c * task.lds;
    for (int64_t i = 0; i < in.n; ++i) row[i] = in.y[i * in.C + c];
    std::fill(row + in.n, row + task.lds, Compute(0));
    const double anchor = wanted ? static_cast<double>(row[task.heaviest]) : 0.0;
    Vector sums{};
    for (int64_t i = 0; i < in.n; i += lanes)
      sums += load_vector<double>(p + i) * (load_vector<double>(row + i) - anchor);
    double mean = anchor;
    for (int64_t i = 0; i < lanes; ++i) mean += sums[i];
    task.ybar.get()[c] = mean = wanted ? mean : 0.0;
    for (int64_t i = 0; i < task.lds; ++i) row[i] = static_cast<Compute>(root[i] * (row[i] - mean));
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
  if (!normalise_weights(in, task)) return false;
  load_means(in, task);
  // What is not finite in z is not in its means either, where there are some.
  const bool meant = in.fit_intercept && !task.empty();
  if (meant ? !all_finite(task.zbar.get(), in.M) : !all_finite(in.z, in.n * in.M)) return false;
  centre_samples(in, task);
  return true;
}

// Fills B and ybar of a task whose design is loaded; false where y is not finite or the loss does
// not take a target.
template <typename Real, typename Compute>
inline bool load_targets(const TaskInput<Real>& in, Task<Compute>& task) {
  task.C = in.C;
  task.ybar.reserve(in.C);
  if (!all_finite(in.y, in.n * in.C) || !takes_all(in)) return false;
  centre_targets(in, in.fit_intercept && in.loss == kSquared && !task.empty(), task);
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

// The strengths of one level, (M), in a row of zeros.
template <typename Real, typename Compute>
inline Compute* load_level(const Strength<Real>& level, int64_t t, const Task<Compute>& task,
                           Buffer<Compute>& row) {
  Compute* to = row.reserve(task.ld);
  if (!level.data)
    std::fill_n(to, task.M, static_cast<Compute>(at(level, t, 0)));
  else
    for (int64_t j = 0; j < task.M; ++j) to[j] = at(level, t, j);
  std::fill(to + task.M, to + task.ld, Compute(0));
  return to;
}

// Fills the strengths of task t, with the ridge floor; false where one is not finite.
template <typename Real, typename Compute>
inline bool load_penalty(const PenaltyArgs<Real>& args, int64_t t, Task<Compute>& task) {
  const int64_t M = task.M;
  Compute *l1 = load_level(args.l1, t, task, task.l1),
          *group = load_level(args.group, t, task, task.group),
          *ridge = load_level(args.ridge, t, task, task.ridge);
  double* floor = task.floor.reserve(M);
  std::fill_n(floor, M, 0.0);
  task.penalty = {l1, group, ridge, args.nonneg};
  // Where every feature has the same strengths, one stands for all.
  const bool alike = !args.l1.data && !args.group.data && !args.ridge.data;
  const int64_t some = alike ? std::min<int64_t>(M, 1) : M;
  bool sparse = args.nonneg, all = true;
  for (int64_t j = 0; j < some; ++j) {
    sparse |= l1[j] > 0 || group[j] > 0;
    all &= l1[j] != 0 || group[j] != 0 || ridge[j] != 0;
  }
  for (int64_t j = 0; j < M && present(args.shared); ++j) sparse |= at(args.shared, t, j) > 0;
  for (int64_t j = 0; j < M && !all; ++j) {
    if (l1[j] != 0 || group[j] != 0 || ridge[j] != 0 || at(args.shared, t, j) != 0) continue;
    const double norm2 = column_norm2(task, j);
    floor[j] = norm2 > 0 ? ridge_floor<Real>() : 0.0;
    ridge[j] = static_cast<Compute>(norm2 > 0 ? floor[j] * norm2 : 1.0);
  }
  task.sparse = sparse;
  return all_finite(l1, some) && all_finite(group, some) && all_finite(ridge, all ? some : M);
}

SPARSEDIS_END
