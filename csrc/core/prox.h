// The proximal operator of the nested penalty: one (task, feature) group, then one feature.
//
// With u = ST(d v, l1) and D = d + ridge, a group solves D x + group x/||x|| (+ shared x/theta) =
// u. theta, the norm of the feature over all tasks, is 1 where `shared` is absent: the same code
// then runs with shared = 0.
#pragma once

#include "secular.h"

SPARSEDIS_BEGIN

// One group's numbers. `metric` is null where the quadratic is 1/2 ||x - v||^2.
template <typename Real>
struct Group {
  const Real* v;
  const Real* metric;
  Real l1, group, ridge;
  int64_t C;
  bool nonneg;
};

template <typename Real>
inline double curvature(const Group<Real>& g, int64_t c) {
  return (g.metric ? static_cast<double>(g.metric[c]) : 1.0) + g.ridge;
}

// u = ST(d v, l1) into `u`; returns ||u||.
template <typename Real>
inline double threshold_group(const Group<Real>& g, Real* u) {
  if (g.metric) {
    for (int64_t c = 0; c < g.C; ++c) u[c] = soft_threshold(g.metric[c] * g.v[c], g.l1, g.nonneg);
  } else {
    for (int64_t c = 0; c < g.C; ++c) u[c] = soft_threshold(g.v[c], g.l1, g.nonneg);
  }
  return std::sqrt(sum_of_squares(u, g.C));
}

// y with (D theta + shared) y + group y/||y|| = u; `y` holds u on entry. Returns ||y||^2.
template <typename Real>
inline double solve_group(const Group<Real>& g, double norm, double theta, double shared, Real* y) {
  double r = 0;
  const bool uniform = g.metric == nullptr || g.C == 1;
  if (uniform) {
    const double e = curvature(g, 0) * theta + shared;
    const double factor = norm > g.group ? (1.0 - g.group / norm) / e : (norm != norm ? norm : 0.0);
    for (int64_t c = 0; c < g.C; ++c) y[c] = static_cast<Real>(y[c] * factor);
    r = norm > g.group ? (norm - g.group) / e : factor;
  } else if (g.group == Real(0)) {
    for (int64_t c = 0; c < g.C; ++c)
      y[c] = static_cast<Real>(y[c] / (curvature(g, c) * theta + shared));
    r = std::sqrt(sum_of_squares(y, g.C));
  } else {
    const auto e = [&](int64_t c) { return curvature(g, c) * theta + shared; };
    r = secular_root(y, e, g.C, g.group);
    for (int64_t c = 0; c < g.C; ++c)
      y[c] = static_cast<Real>(r == 0 ? 0.0 : y[c] * (r / (e(c) * r + g.group)));
  }
  return r * r;
}

// y' A^-1 (D y) for A = diag(e + k) - k yh yh', e = D theta + shared, k = group/||y||: the slope of
// ||y||^2 in theta, up to the factor -2. The Sherman-Morrison denominator 1 - k yh' (e+k)^-1 yh is
// written as yh' e/(e+k) yh, which cancels nothing.
template <typename Real>
inline double feature_slope(const Group<Real>& g, const Real* y, double norm2, double theta,
                            double shared) {
  if (norm2 == 0) return 0;
  const double k = g.group / std::sqrt(norm2);
  double s1 = 0, s2 = 0, s3 = 0;
  for (int64_t c = 0; c < g.C; ++c) {
    const double D = curvature(g, c), e = D * theta + shared;
    const double q = static_cast<double>(y[c]) * y[c] / (e + k);
    s1 += q;
    s2 += q * D;
    s3 += q * e;
  }
  return s2 + k * s1 * s2 / s3;
}

SPARSEDIS_END
