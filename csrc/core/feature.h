// One feature over all tasks under the shared level: its dual norm, its conjugate, its scalar
// equation. With b_t = (||ST(g_t, nu l1)|| - nu group)_+ the feature is zero iff ||b|| <= nu
// shared.
#pragma once

#include "dual.h"

SPARSEDIS_BEGIN

// Feature m of an array over all tasks: entry c of task t is g[t * task_stride + c *
// output_stride].
template <typename Real>
struct FeatureColumn {
  const double* g;
  int64_t task_stride, output_stride, T, M, C, m;
  const double* ridges;  // (T, M), with the floor
  const PenaltyArgs<Real>& penalty;

  double l1(int64_t t) const { return at(penalty.l1, t, m); }
  double group(int64_t t) const { return at(penalty.group, t, m); }
  double shared() const { return at(penalty.shared, 0, m); }
  double ridge(int64_t t) const { return ridges[t * M + m]; }
};

// b_t and its derivative in nu.
template <typename Real>
inline Thresholded excess(const FeatureColumn<Real>& f, int64_t t, double nu) {
  const double group = f.group(t);
  const Thresholded u =
      thresholded(f.g + t * f.task_stride, f.C, f.output_stride, nu, f.l1(t), f.penalty.nonneg);
  const double b = u.norm - nu * group;
  return b > 0 ? Thresholded{b, u.slope - group} : Thresholded{0, 0};
}

// ||b|| over tasks (those without ridge only, where asked), and its derivative in nu.
template <typename Real>
inline Thresholded pull(const FeatureColumn<Real>& f, double nu, bool without_ridge) {
  double norm2 = 0, drift = 0;
  for (int64_t t = 0; t < f.T; ++t) {
    if (without_ridge && f.ridge(t) > 0) continue;
    const Thresholded b = excess(f, t, nu);
    norm2 += b.norm * b.norm;
    drift += b.norm * b.slope;
  }
  const double norm = std::sqrt(norm2);
  return {norm, norm > 0 ? drift / norm : 0.0};
}

// The smallest nu >= `from` with ||b|| <= nu shared, by Newton on a convex falling difference.
template <typename Real>
inline double feature_dual_norm(const FeatureColumn<Real>& f, double from, bool without_ridge) {
  double nu = from;
  for (int step = 0; step < 100; ++step) {
    const Thresholded b = pull(f, nu, without_ridge);
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
template <typename Excess, typename Curvature>
inline double feature_norm(int64_t T, double shared, Excess b, Curvature D) {
  double norm2 = 0, largest = 0;
  for (int64_t t = 0; t < T; ++t) {
    norm2 += b(t) * b(t);
    largest = std::max(largest, D(t));
  }
  const double norm = std::sqrt(norm2);
  if (!(norm > shared) || largest == 0) return 0;
  double theta = (norm - shared) / largest;
  for (int step = 0; step < 100; ++step) {
    double value = 0, slope = 0;
    for (int64_t t = 0; t < T; ++t) {
      const double e = 1 / (D(t) * theta + shared), q = (b(t) * e) * (b(t) * e);
      value += q;
      slope += q * D(t) * e;
    }
    const double next = theta + value * (std::sqrt(value) - 1) / slope;
    if (!(next > theta * (1 + 1e-15))) break;
    theta = next;
  }
  return theta;
}

// The penalty of a feature's weights, which stand in f.g; infinite as `penalty_of`.
template <typename Real>
inline double feature_penalty(const FeatureColumn<Real>& f) {
  double value = 0, total2 = 0, least = 0;
  for (int64_t t = 0; t < f.T; ++t) {
    double magnitude = 0, norm2 = 0;
    for (int64_t c = 0; c < f.C; ++c) {
      const double w = f.g[t * f.task_stride + c * f.output_stride];
      magnitude += std::fabs(w);
      norm2 += w * w;
      least = std::min(least, w);
    }
    value += f.l1(t) * magnitude + f.group(t) * std::sqrt(norm2) + 0.5 * f.ridge(t) * norm2;
    total2 += norm2;
  }
  if (f.penalty.nonneg && least < 0) return std::numeric_limits<double>::infinity();
  return value + f.shared() * std::sqrt(total2);
}

// sup_w <s g, w> - Omega(w) of one feature, 1/2 sum ridge_t ||w_t||^2 at its maximiser; the tasks
// without ridge must be feasible. These take up the part a of the shared strength: the maximum over
// their norm rho of a rho - shared sqrt(rho^2 + sigma^2) is -sqrt(shared^2 - a^2) sigma.
template <typename Real>
inline double feature_conjugate(const FeatureColumn<Real>& f, double s, double* b) {
  const double taken = std::min(f.shared(), s * pull(f, 1 / s, true).norm);
  const double shared = std::sqrt((f.shared() - taken) * (f.shared() + taken));
  for (int64_t t = 0; t < f.T; ++t) b[t] = f.ridge(t) > 0 ? s * excess(f, t, 1 / s).norm : 0.0;
  const double theta = feature_norm(
      f.T, shared, [&](int64_t t) { return b[t]; }, [&](int64_t t) { return f.ridge(t); });
  double conjugate = 0;
  for (int64_t t = 0; t < f.T && theta > 0; ++t) {
    if (!(f.ridge(t) > 0)) continue;
    const double w = b[t] / (f.ridge(t) + shared / theta);
    conjugate += 0.5 * f.ridge(t) * w * w;
  }
  return conjugate;
}

SPARSEDIS_END
