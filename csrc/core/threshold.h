// Thresholds of a group of C entries, and the norms they need.
#pragma once

#include "args.h"
#include "isa.h"

SPARSEDIS_BEGIN

template <typename Real>
SPARSEDIS_HD inline Real at(const Strength<Real>& s, int64_t t, int64_t m) {
  const Real scale = static_cast<Real>(s.scale);
  return s.data ? scale * s.data[t * s.task_stride + m * s.feature_stride] : scale;
}

template <typename Real>
SPARSEDIS_HD inline bool present(const Strength<Real>& s) {
  return s.data != nullptr || s.scale != 0.0;
}

// Whether nothing ties the weights of a head together, or to zero: then they are linear in targets.
template <typename Real>
SPARSEDIS_HD inline bool only_ridge(const PenaltyArgs<Real>& p) {
  return !present(p.l1) && !present(p.group) && !present(p.shared) && !p.nonneg;
}

// Whether all tasks have the ridge of the first.
template <typename Real>
inline bool same_ridge(const PenaltyArgs<Real>& p) {
  return !p.ridge.data || p.ridge.task_stride == 0;
}

// ST(v, t) = sign(v) (|v| - t)_+, or its part >= 0, without a branch. NaN stays NaN.
template <typename Real>
SPARSEDIS_HD inline Real soft_threshold(Real v, Real t, bool nonneg) {
  const Real above = v < -t ? -t : v;
  const Real inside = nonneg ? (v > t ? t : v) : (above > t ? t : above);
  return v - inside;
}

// a * b + c, rounded once wherever the processor can. Left to the compiler, a sum of products in
// order is rounded once or twice, by where in a vectorised loop a term stands.
SPARSEDIS_HD inline double fused(double a, double b, double c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__CUDA_ARCH__)
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

// Sums of squares run in double: float32 squares overflow near 3e19 and vanish near 1e-23.
template <typename Real>
SPARSEDIS_HD inline double sum_of_squares(const Real* u, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(u[i]) * u[i];
  return sum;
}

SPARSEDIS_END
