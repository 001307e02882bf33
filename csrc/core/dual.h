// The penalty of a task as arrays, its dual norm, and the certified duality gap.
#pragma once

#include "dense.h"
#include "dual_norm.h"

SPARSEDIS_BEGIN

// Strengths of one task, one number per feature and zeros up to a whole tile.
template <typename Real>
struct TaskPenalty {
  const Real *l1, *group, *ridge;
  bool nonneg;
};

// Calls body(j, ||ST(g_j, nu l1_j)||) for every feature, g (C, ld); a nu of 0 takes the plain norm.
// Rows and strengths are whole tiles, which loops of constant length take at once.
template <typename Real, typename Value, typename F>
inline void for_each_norm(const TaskPenalty<Real>& p, const Value* g, int64_t M, int64_t C,
                          int64_t ld, double nu, F body) {
  constexpr int64_t block = Simd<Real>::kTile;
  for (int64_t j0 = 0; j0 < M; j0 += block) {
    double norm[block] = {};
    for (int64_t c = 0; c < C; ++c) {
      const Value* row = g + c * ld + j0;
#pragma omp simd
      for (int64_t i = 0; i < block; ++i) {
        const double u = soft_threshold<double>(row[i], nu * p.l1[j0 + i], p.nonneg);
        norm[i] += u * u;
      }
    }
#pragma omp simd
    for (int64_t i = 0; i < block; ++i) norm[i] = std::sqrt(norm[i]);
    for (int64_t i = 0; i < std::min(block, M - j0); ++i) body(j0 + i, norm[i]);
  }
}

// What the gap needs of W and g = A'R: <g, W> and the penalty's value.
struct GapParts {
  double correlation, penalty;
};

// Omega of one task, W of shape (C, ld): infinite where a bound at 0 is broken.
template <typename Real>
inline double penalty_of(const TaskPenalty<Real>& p, const Real* W, int64_t M, int64_t C,
                         int64_t ld, double scale) {
  constexpr int64_t block = Simd<Real>::kTile;
  double held[block] = {}, ridge[block] = {}, least[block] = {};
  for (int64_t j0 = 0; j0 < M; j0 += block) {
    double norm2[block] = {};
    for (int64_t c = 0; c < C; ++c) {
      const Real* row = W + c * ld + j0;
#pragma omp simd
      for (int64_t i = 0; i < block; ++i) {
        const double w = row[i];
        norm2[i] += w * w;
        held[i] += p.l1[j0 + i] * std::fabs(w);
        least[i] = std::min(least[i], w);
      }
    }
#pragma omp simd
    for (int64_t i = 0; i < block; ++i) {
      held[i] += p.group[j0 + i] * std::sqrt(norm2[i]);
      ridge[i] += p.ridge[j0 + i] * norm2[i];
    }
  }
  if (p.nonneg && *std::min_element(least, least + block) < 0)
    return std::numeric_limits<double>::infinity();
  double value = 0;
  for (int64_t i = 0; i < block; ++i) value += scale * held[i] + 0.5 * ridge[i];
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
  bool any_ridge = false;
  for_each_norm(p, g, M, C, ld, scale, [&](int64_t j, double norm) {
    any_ridge |= p.ridge[j] > 0;
    const double l1 = scale * p.l1[j], group = scale * p.group[j];
    if (p.ridge[j] > 0 || !(norm > group)) return;
    if (l1 == 0) {
      largest = std::max(largest, norm / group);
      return;
    }
    if (thresholded(g + j, C, ld, largest, l1, p.nonneg).norm > largest * group)
      largest = std::max(largest, dual_norm(g + j, C, ld, l1, group, p.nonneg));
  });
  const double s = 1 / largest;
  double conjugate = 0;
  if (any_ridge)
    for_each_norm(p, g, M, C, ld, largest * scale, [&](int64_t j, double norm) {
      if (!(p.ridge[j] > 0)) return;
      const double excess = std::max(0.0, s * norm - scale * p.group[j]);
      conjugate += excess * excess / (2 * p.ridge[j]);
    });
  return at_least_zero(loss_of(s) + parts.penalty + conjugate - s * parts.correlation);
}

// The squared loss's divergence, from ||R||^2.
inline auto squared_divergence(double residual2) {
  return [=](double s) { return 0.5 * (1 - s) * (1 - s) * residual2; };
}

SPARSEDIS_END
