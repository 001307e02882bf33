// Which losses there are, the targets they take, how far they bend, and how the best bias of one
// that is not squared is found.
#pragma once

#include <limits>

#include "args.h"
#include "isa.h"

SPARSEDIS_BEGIN

enum Loss : int64_t { kSquared = 0, kMultinomial = 1, kLogistic = 2 };

constexpr double kDistributionRounding = 1e-2;  // of the sum of a distribution, in bfloat16

// A bound of the Hessian of A (Boehning 1992 for the multinomial).
SPARSEDIS_HD inline double loss_curvature(Loss loss) {
  return loss == kSquared ? 1.0 : (loss == kMultinomial ? 0.5 : 0.25);
}

// Whether y (C) is a target that the loss takes.
template <typename Real>
SPARSEDIS_HD inline bool takes(Loss loss, const Real* y, int64_t C) {
  if (loss == kSquared) return true;
  double sum = 0;
  for (int64_t c = 0; c < C; ++c) {
    if (!(y[c] >= 0) || (loss == kLogistic && !(y[c] <= 1))) return false;
    sum += y[c];
  }
  return loss == kLogistic || std::fabs(sum - 1) < kDistributionRounding;
}

constexpr int kBiasSteps = 100, kBiasHalvings = 60;
constexpr double kStill = 1e-14;  // curvature below which nothing moves an output's bias

// Twice what a Newton step of the bias still gains: below this it is rounding.
template <typename Real>
SPARSEDIS_HD constexpr double small_decrement() {
  return sizeof(Real) == 4 ? 1e-13 : 1e-26;
}
// Along a step whose largest entry is r, the Hessian changes by no more than e^(2r): a full step
// that is shorter than this descends, and leaves less than 3 r^2 of the decrement.
constexpr double kCertainStep = 0.3;

// The limit of an output's bias: -inf or inf where its targets are 0 or 1 throughout, else 0. A
// class without weight in a task is not one of its classes, with or without an intercept.
SPARSEDIS_HD inline double limit_of(Loss loss, double some, double all, bool any,
                                    bool fit_intercept) {
  if (!any || (loss == kLogistic && !fit_intercept)) return 0;
  if (some == 0) return -std::numeric_limits<double>::infinity();
  const bool full = loss == kLogistic && all == 0;
  return full ? std::numeric_limits<double>::infinity() : 0;
}

SPARSEDIS_END
