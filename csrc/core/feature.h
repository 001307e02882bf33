// One feature over all tasks under the shared level: its dual norm, its conjugate, its scalar
// equation. With b_t = (||ST(g_t, nu l1)|| - nu group)_+ the feature is zero iff ||b|| <= nu
// shared.
#pragma once

#include "dual_norm.h"

SPARSEDIS_BEGIN

// Feature m of an array over all tasks: entry c of task t is g[t * task_stride + c *
// output_stride].
template <typename Real>
struct FeatureColumn {
  const double* g;
  int64_t task_stride, output_stride, T, M, C, m;
  const double* ridges;  // (T, M), with the floor
  const PenaltyArgs<Real>& penalty;

  SPARSEDIS_HD double l1(int64_t t) const { return at(penalty.l1, t, m); }
  SPARSEDIS_HD double group(int64_t t) const { return at(penalty.group, t, m); }
  SPARSEDIS_HD double shared() const { return at(penalty.shared, 0, m); }
  SPARSEDIS_HD double ridge(int64_t t) const { return ridges[t * M + m]; }
};

// Goes over tasks one after another. On a GPU the threads of a block do so together.
struct InOrder {
  template <typename F>
  void each(int64_t count, F body) const {
    for (int64_t t = 0; t < count; ++t) body(t);
  }
  // Two sums, of the pairs that body(t, pair) adds to.
  template <typename F>
  void sums(int64_t count, double (&pair)[2], F body) const {
    pair[0] = pair[1] = 0;
    for (int64_t t = 0; t < count; ++t) body(t, pair);
  }
  // The largest of 0 and the numbers that body(t) gives.
  template <typename F>
  double largest(int64_t count, F body) const {
    double most = 0;
    for (int64_t t = 0; t < count; ++t) most = std::max(most, body(t));
    return most;
  }
};

// b_t and its derivative in nu.
template <typename Real>
SPARSEDIS_HD inline Thresholded excess(const FeatureColumn<Real>& f, int64_t t, double nu) {
  const double group = f.group(t);
  const Thresholded u =
      thresholded(f.g + t * f.task_stride, f.C, f.output_stride, nu, f.l1(t), f.penalty.nonneg);
  const double b = u.norm - nu * group;
  return b > 0 ? Thresholded{b, u.slope - group} : Thresholded{0, 0};
}

// ||b|| over tasks (those without ridge only, where asked), and its derivative in nu.
template <typename Real, typename Over = InOrder>
SPARSEDIS_HD inline Thresholded pull(const FeatureColumn<Real>& f, double nu, bool without_ridge,
                                     Over over = {}) {
  double sums[2];  // of squares, and of what they change by
  over.sums(f.T, sums, [&](int64_t t, double (&pair)[2]) {
    if (without_ridge && f.ridge(t) > 0) return;
    const Thresholded b = excess(f, t, nu);
    pair[0] = fused(b.norm, b.norm, pair[0]);
    pair[1] = fused(b.norm, b.slope, pair[1]);
  });
  const double norm = std::sqrt(sums[0]);
  return {norm, norm > 0 ? sums[1] / norm : 0.0};
}

// The smallest nu >= `from` with ||b|| <= nu shared, by Newton on a convex falling difference.
template <typename Real, typename Over = InOrder>
SPARSEDIS_HD inline double feature_dual_norm(const FeatureColumn<Real>& f, double from,
                                             bool without_ridge, Over over = {}) {
  double nu = from;
  for (int step = 0; step < 100; ++step) {
    const Thresholded b = pull(f, nu, without_ridge, over);
    // Squares beyond the range have no slope.
    if (b.norm > std::numeric_limits<double>::max()) return std::numeric_limits<double>::infinity();
    if (!(b.norm > nu * f.shared())) break;
    const double slope = b.slope - f.shared();
    if (slope == 0) return std::numeric_limits<double>::infinity();
    const double next = nu - (b.norm - nu * f.shared()) / slope;
    if (!(next > nu * (1 + 1e-15))) break;
    nu = next;
  }
  return nu;
}

// theta >= 0, the norm of the feature: sum_t (b_t / (D_t theta + shared))^2 = 1, or 0 where the
// feature is zero. Reciprocal Newton from below, as in secular.h.
template <typename Excess, typename Curvature, typename Over = InOrder>
SPARSEDIS_HD inline double feature_norm(int64_t T, double shared, Excess b, Curvature D,
                                        Over over = {}) {
  double sums[2];  // the value, and its slope
  over.sums(T, sums, [&](int64_t t, double (&pair)[2]) { pair[0] = fused(b(t), b(t), pair[0]); });
  const double norm = std::sqrt(sums[0]), largest = over.largest(T, D);
  if (!(norm > shared) || largest == 0) return 0;
  double theta = (norm - shared) / largest;
  for (int step = 0; step < 100; ++step) {
    over.sums(T, sums, [&](int64_t t, double (&pair)[2]) {
      const double e = 1 / (D(t) * theta + shared), root = b(t) * e;
      pair[0] = fused(root, root, pair[0]);
      pair[1] = fused(root * root * D(t), e, pair[1]);
    });
    const double next = theta + sums[0] * (std::sqrt(sums[0]) - 1) / sums[1];
    if (!(next > theta * (1 + 1e-15))) break;
    theta = next;
  }
  return theta;
}

// The penalty of a feature's weights, which stand in f.g; infinite as `penalty_of`.
template <typename Real, typename Over = InOrder>
SPARSEDIS_HD inline double feature_penalty(const FeatureColumn<Real>& f, Over over = {}) {
  double sums[2];  // of the tasks' own penalties, and of squares
  over.sums(f.T, sums, [&](int64_t t, double (&pair)[2]) {
    double magnitude = 0, norm2 = 0;
    for (int64_t c = 0; c < f.C; ++c) {
      const double w = f.g[t * f.task_stride + c * f.output_stride];
      magnitude += std::fabs(w);
      norm2 += w * w;
    }
    pair[0] += f.l1(t) * magnitude + f.group(t) * std::sqrt(norm2) + 0.5 * f.ridge(t) * norm2;
    pair[1] += norm2;
  });
  const double below = over.largest(f.T, [&](int64_t t) {
    double most = 0;
    for (int64_t c = 0; c < f.C; ++c)
      most = std::max(most, -f.g[t * f.task_stride + c * f.output_stride]);
    return most;
  });
  if (f.penalty.nonneg && below > 0) return std::numeric_limits<double>::infinity();
  return sums[0] + f.shared() * std::sqrt(sums[1]);
}

// sup_w <s g, w> - Omega(w) of one feature, 1/2 sum ridge_t ||w_t||^2 at its maximiser; the tasks
// without ridge must be feasible. These take up the part a of the shared strength: the maximum over
// their norm rho of a rho - shared sqrt(rho^2 + sigma^2) is -sqrt(shared^2 - a^2) sigma. `b` has
// room for the tasks.
template <typename Real, typename Over = InOrder>
SPARSEDIS_HD inline double feature_conjugate(const FeatureColumn<Real>& f, double s, double* b,
                                             Over over = {}) {
  const double taken = std::min(f.shared(), s * pull(f, 1 / s, true, over).norm);
  const double shared = std::sqrt((f.shared() - taken) * (f.shared() + taken));
  over.each(f.T, [&](int64_t t) { b[t] = f.ridge(t) > 0 ? s * excess(f, t, 1 / s).norm : 0.0; });
  const auto at_task = [=](int64_t t) { return b[t]; };
  const double theta =
      feature_norm(f.T, shared, at_task, [&](int64_t t) { return f.ridge(t); }, over);
  if (!(theta > 0)) return 0;
  double sums[2];
  over.sums(f.T, sums, [&](int64_t t, double (&pair)[2]) {
    if (!(f.ridge(t) > 0)) return;
    const double w = b[t] / (f.ridge(t) + shared / theta);
    pair[0] = fused(0.5 * f.ridge(t) * w, w, pair[0]);
  });
  return sums[0];
}

SPARSEDIS_END
