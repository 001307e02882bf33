// The prox of the weighted L-infinity norm: entries above tau are clipped to it.
#pragma once

#include "threshold.h"

SPARSEDIS_BEGIN

// tau >= 0 with sum d (|v| - tau)_+ = lam, d(c) the weight of entry c, or 0 when sum d |v| <= lam;
// NaN where an entry is. Newton's method on this convex, piecewise linear function climbs from 0 to
// the root in finitely many steps, with no sort.
template <typename Real, typename Weight>
inline double clip_level(const Real* v, Weight d, int64_t C, double lam) {
  double tau = 0;
  for (int64_t step = 0; step <= C; ++step) {
    double weighted = 0, weight = 0;
#pragma omp simd reduction(+ : weighted, weight)
    for (int64_t c = 0; c < C; ++c) {
      const double size = std::fabs(v[c]);
      weighted += size <= tau ? 0.0 : d(c) * size;
      weight += size <= tau ? 0.0 : d(c);
    }
    if (weight == 0) break;
    const double next = (weighted - lam) / weight;
    if (next != next) return next;
    if (!(next > tau)) break;
    tau = next;
  }
  return tau;
}

template <typename Real>
inline double clip_level(const Real* v, const Real* metric, int64_t C, double lam) {
  const auto one = [](int64_t) { return 1.0; };
  const auto of_metric = [metric](int64_t c) { return static_cast<double>(metric[c]); };
  return metric ? clip_level(v, of_metric, C, lam) : clip_level(v, one, C, lam);
}

SPARSEDIS_END
