// The prox of the weighted L-infinity norm: entries above tau are clipped to it.
#pragma once

#include "threshold.h"

SPARSEDIS_BEGIN

// tau >= 0 with sum d (|v| - tau)_+ = lam, or 0 when sum d |v| <= lam. Newton's method on this
// convex, piecewise linear function climbs from 0 to the root in finitely many steps, with no sort.
template <typename Real>
SPARSEDIS_HD inline double clip_level(const Real* v, const Real* metric, int64_t C, double lam) {
  double tau = 0;
  for (int64_t step = 0; step <= C; ++step) {
    double weighted = 0, weight = 0;
    for (int64_t c = 0; c < C; ++c) {
      const double d = metric ? static_cast<double>(metric[c]) : 1.0, size = std::fabs(v[c]);
      if (size != size) return size;
      if (size <= tau) continue;
      weighted += d * size;
      weight += d;
    }
    if (weight == 0) break;
    const double next = (weighted - lam) / weight;
    if (!(next > tau)) break;
    tau = next;
  }
  return tau;
}

SPARSEDIS_END
