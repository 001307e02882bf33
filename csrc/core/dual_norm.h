// The dual norm of one row of C entries, under l1 and group strengths, and what a gap is not below.
#pragma once

#include <algorithm>
#include <limits>

#include "threshold.h"

SPARSEDIS_BEGIN

// A gap without what rounding puts below zero. One that is not a number stays so: it certifies
// nothing, and std::max would take it for zero.
SPARSEDIS_HD inline double at_least_zero(double gap) { return gap < 0 ? 0.0 : gap; }

// ||ST(g, l1)||, and its derivative in nu when l1 stands for nu * l1.
struct Thresholded {
  double norm, slope;
};

// `g` holds C entries, `stride` apart.
template <typename Value>
SPARSEDIS_HD inline Thresholded thresholded(const Value* g, int64_t C, int64_t stride, double nu,
                                            double l1, bool nonneg) {
  double norm2 = 0, drift = 0;
  for (int64_t c = 0; c < C; ++c) {
    const double u = soft_threshold<double>(g[c * stride], nu * l1, nonneg);
    norm2 += u * u;
    drift += std::fabs(u);
  }
  const double norm = std::sqrt(norm2);
  return {norm, norm > 0 ? -l1 * drift / norm : 0.0};
}

// The smallest nu >= 0 with ||ST(g, nu l1)|| <= nu group: the dual norm of a row. The difference is
// convex and falls in nu, so Newton from 0 climbs to the root; with one strength the root is known.
template <typename Value>
SPARSEDIS_HD inline double dual_norm(const Value* g, int64_t C, int64_t stride, double l1,
                                     double group, bool nonneg) {
  double nu = 0;
  if (l1 > 0 && group == 0) {
    for (int64_t c = 0; c < C; ++c)
      nu = std::max(nu, nonneg ? double(g[c * stride]) : std::fabs(double(g[c * stride])));
    return nu / l1;
  }
  if (l1 == 0 && group > 0) return thresholded(g, C, stride, 0, 0, nonneg).norm / group;
  for (int step = 0; step < 100; ++step) {
    const Thresholded u = thresholded(g, C, stride, nu, l1, nonneg);
    if (u.norm == 0) break;
    const double slope = u.slope - group;
    if (slope == 0) return std::numeric_limits<double>::infinity();
    const double next = nu - (u.norm - nu * group) / slope;
    if (!(next > nu * (1 + 1e-15))) break;
    nu = next;
  }
  return nu;
}

SPARSEDIS_END
