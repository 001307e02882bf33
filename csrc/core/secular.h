// The norm r of a group under a quadratic that is not uniform inside it.
#pragma once

#include "threshold.h"

SPARSEDIS_BEGIN

// Largest number of reciprocal Newton steps; float64 needs at most nine over four decades of D.
constexpr int kSecularSteps = 30;

// r >= 0 with sum_i (u_i / (D_i r + c))^2 = 1, or 0 when ||u|| <= c. `diagonal(i)` gives D_i > 0.
//
// The reciprocal (Hebden; More and Sorensen 1983) Newton iteration climbs to the root from
// r0 = (||u|| - c) / max D, which lies below it.
template <typename Real, typename Diagonal>
inline double secular_root(const Real* u, Diagonal diagonal, int64_t n, double c) {
  const double norm = std::sqrt(sum_of_squares(u, n));
  if (!(norm > c)) return norm != norm ? norm : 0.0;
  double largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::fmax(largest, diagonal(i));
  double r = (norm - c) / largest;
  for (int step = 0; step < kSecularSteps; ++step) {
    double t = 0, s = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double e = 1.0 / (diagonal(i) * r + c);
      const double q = (u[i] * e) * (u[i] * e);
      t += q;
      s += q * diagonal(i) * e;
    }
    const double next = r + t * (std::sqrt(t) - 1.0) / s;
    if (!(next > r * (1.0 + 1e-15))) break;
    r = next;
  }
  return r;
}

SPARSEDIS_END
