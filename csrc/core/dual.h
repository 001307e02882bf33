// The penalty of a task as arrays, its dual norm, and the certified duality gap.
#pragma once

#include <limits>

#include "dense.h"

SPARSEDIS_BEGIN

// Strengths of one task, one number per feature.
template <typename Real>
struct TaskPenalty {
  const Real *l1, *group, *ridge;
  bool nonneg;
};

// ||ST(g, l1)||, and its derivative in nu when l1 stands for nu * l1.
struct Thresholded {
  double norm, slope;
};

// `g` holds C entries, `stride` apart.
template <typename Value>
inline Thresholded thresholded(const Value* g, int64_t C, int64_t stride, double nu, double l1,
                               bool nonneg) {
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
// convex and falls in nu, so Newton from 0 climbs to the root.
template <typename Value>
inline double dual_norm(const Value* g, int64_t C, int64_t stride, double l1, double group,
                        bool nonneg) {
  double nu = 0;
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

// What the gap needs of W and g = A'R: <g, W> and the penalty's value.
struct GapParts {
  double correlation, penalty;
};

// Omega of one task, W of shape (C, ld).
template <typename Real>
inline double penalty_of(const TaskPenalty<Real>& p, const Real* W, int64_t M, int64_t C,
                         int64_t ld, double scale) {
  double value = 0;
  for (int64_t j = 0; j < M; ++j) {
    double magnitude = 0, norm2 = 0;
    for (int64_t c = 0; c < C; ++c) {
      const double w = W[c * ld + j];
      magnitude += std::fabs(w);
      norm2 += w * w;
    }
    if (norm2 > 0)
      value +=
          scale * (p.l1[j] * magnitude + p.group[j] * std::sqrt(norm2)) + 0.5 * p.ridge[j] * norm2;
  }
  return value;
}

// P - D = loss(s) + Omega(W) + Omega*(s g) - s <g, W> at the dual point s R, where s makes the rows
// without ridge feasible; a row with ridge has the conjugate ||BST(ST(s g, l1), group)||^2 /
// (2 ridge). `loss_of(s)` is the divergence of the point from the scores, 1/2 (1 - s)^2 ||R||^2 for
// squares. In this form two objectives do not cancel. `scale` multiplies l1 and group.
template <typename Real, typename Value, typename LossOf>
inline double duality_gap(const TaskPenalty<Real>& p, const GapParts& parts, LossOf loss_of,
                          const Value* g, int64_t M, int64_t C, int64_t ld, double scale) {
  double largest = 1;
  for (int64_t j = 0; j < M; ++j) {
    if (p.ridge[j] > 0) continue;
    const double l1 = scale * p.l1[j], group = scale * p.group[j];
    if (thresholded(g + j, C, ld, largest, l1, p.nonneg).norm > largest * group)
      largest = std::max(largest, dual_norm(g + j, C, ld, l1, group, p.nonneg));
  }
  const double s = 1 / largest;
  double conjugate = 0;
  for (int64_t j = 0; j < M; ++j) {
    if (!(p.ridge[j] > 0)) continue;
    const double free = s * thresholded(g + j, C, ld, largest, scale * p.l1[j], p.nonneg).norm;
    const double excess = std::max(0.0, free - scale * p.group[j]);
    conjugate += excess * excess / (2 * p.ridge[j]);
  }
  return std::max(0.0, loss_of(s) + parts.penalty + conjugate - s * parts.correlation);
}

// The squared loss's divergence, from ||R||^2.
inline auto squared_divergence(double residual2) {
  return [=](double s) { return 0.5 * (1 - s) * (1 - s) * residual2; };
}

SPARSEDIS_END
