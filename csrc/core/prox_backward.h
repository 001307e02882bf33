// The vector-Jacobian product of the nested prox, by implicit differentiation on its support.
//
// A y = grad with A = diag(D + k + kappa) - k xh xh' - kappa Xh Xh', k = group/||x_g||, kappa =
// shared/theta, xh = x_g/||x_g||, Xh = x_m/theta: Sherman-Morrison inside each group, then once
// over the feature.
#pragma once

#include "prox.h"

SPARSEDIS_BEGIN

// A group of the solution; `g.v` is not read, so it may be null.
template <typename Real>
struct SolvedGroup {
  Group<Real> g;
  const Real* x;
  double norm, inverse_norm;  // ||x_g||, and 1/||x_g|| or 0
  double kappa;               // shared / theta, 0 without the shared level
  bool live;                  // whether the group may move: not zero, or held at zero by no norm
};

template <typename Real>
inline SolvedGroup<Real> solved_group(const Group<Real>& g, const Real* x, double kappa,
                                      bool feature_live) {
  const double norm = std::sqrt(sum_of_squares(x, g.C));
  const bool live = norm > 0 || norm != norm || (g.group == Real(0) && feature_live);
  return {g, x, norm, norm > 0 ? 1 / norm : norm, kappa, live};
}

// Inside a live group an entry that is 0 moves unless the l1 level or the bound holds it there.
template <typename Real>
inline bool is_live(const SolvedGroup<Real>& s, int64_t c) {
  return s.x[c] != Real(0) || (s.live && s.g.l1 == Real(0) && !s.g.nonneg);
}

// The three sums a group's inverse needs: xh.(b/a), xh.(D xh / a) and the denominator, with
// a = D + k + kappa.
struct GroupSums {
  double projection, slope, denominator;
};

template <typename Real>
inline GroupSums group_sums(const SolvedGroup<Real>& s, const Real* b) {
  GroupSums sums{0, 0, 0};
  const double k = s.g.group * s.inverse_norm;
  for (int64_t c = 0; c < s.g.C; ++c) {
    if (!is_live(s, c)) continue;
    const double D = curvature(s.g, c), a = D + k + s.kappa, xh = s.x[c] * s.inverse_norm;
    sums.projection += xh * b[c] / a;
    sums.slope += xh * xh * D / a;
    sums.denominator += xh * xh * (D + s.kappa) / a;
  }
  return sums;
}

// What a group adds to the feature's scalars: Xh' B^-1 grad, and Xh' B^-1 D Xh = 1 - kappa Xh' B^-1
// Xh, where B is A without its last term.
struct FeatureSums {
  double projection, denominator;
};

template <typename Real>
inline FeatureSums feature_sums(const SolvedGroup<Real>& s, const Real* grad, double theta) {
  if (s.norm == 0) return {0, 0};
  const GroupSums sums = group_sums(s, grad);
  const double k = s.g.group * s.inverse_norm, share = s.norm / theta;
  double s1 = 0;
  for (int64_t c = 0; c < s.g.C; ++c) {
    if (!is_live(s, c)) continue;
    const double xh = s.x[c] * s.inverse_norm;
    s1 += xh * xh / (curvature(s.g, c) + k + s.kappa);
  }
  const double boost = 1.0 + k * s1 / sums.denominator;
  return {share * boost * sums.projection, share * share * boost * sums.slope};
}

// y = B^-1 (grad + lift Xh) on the support, 0 off it; `lift` carries the feature's rank-one term.
template <typename Real>
inline void solve_group_backward(const SolvedGroup<Real>& s, const Real* grad,
                                 double lift_over_theta, Real* y) {
  if (!s.live) {
    for (int64_t c = 0; c < s.g.C; ++c) y[c] = 0;
    return;
  }
  const double k = s.g.group * s.inverse_norm;
  for (int64_t c = 0; c < s.g.C; ++c) y[c] = static_cast<Real>(grad[c] + lift_over_theta * s.x[c]);
  const GroupSums sums = group_sums(s, y);
  const double along = k == 0 ? 0.0 : k * sums.projection / sums.denominator;
  for (int64_t c = 0; c < s.g.C; ++c) {
    const double a = curvature(s.g, c) + k + s.kappa;
    y[c] =
        is_live(s, c) ? static_cast<Real>((y[c] + along * (s.x[c] * s.inverse_norm)) / a) : Real(0);
  }
}

SPARSEDIS_END
