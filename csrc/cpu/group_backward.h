// The backward of the prox for one group, in double, and what all of its ways write.
#pragma once

#include "../core/prox_backward.h"
#include "prox.h"

SPARSEDIS_BEGIN

// Sums over a group's entries that gradients of strengths need: of sign(x) y and of x y.
struct Along {
  double sign, x;
};

template <typename Real>
void write_strengths(const ProxBackwardArgs<Real>& a, int64_t index, double inverse_norm,
                     const Along& along) {
  const PenaltyArgs<Real>& p = a.penalty;
  if (a.grad_l1) a.grad_l1[index] = static_cast<Real>(-p.l1.scale * along.sign);
  if (a.grad_group)
    a.grad_group[index] = static_cast<Real>(-p.group.scale * along.x * inverse_norm);
  if (a.grad_ridge) a.grad_ridge[index] = static_cast<Real>(-p.ridge.scale * along.x);
}

// Gradients of v and the metric of `count` entries from `y(i)`, those of y.
template <typename Real, typename Y>
void write_entries(const ProxBackwardArgs<Real>& a, int64_t offset, int64_t count, Y y) {
  const Real *x = a.x + offset, *d = a.metric ? a.metric + offset : nullptr;
  if (a.grad_v)
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) a.grad_v[offset + i] = (d ? d[i] : Real(1)) * y(i);
  if (a.grad_metric)
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) a.grad_metric[offset + i] = (a.v[offset + i] - x[i]) * y(i);
}

// Whether some gradient takes what lies along x.
template <typename Real>
bool wants_along(const ProxBackwardArgs<Real>& a) {
  return a.grad_l1 || a.grad_group || a.grad_shared || a.grad_ridge;
}

// All of a group at `offset`; returns <x, y>, if it is wanted.
template <typename Real, typename Y>
double write_group(const ProxBackwardArgs<Real>& a, int64_t offset, double inverse_norm, Y y) {
  write_entries(a, offset, a.C, y);
  if (!wants_along(a)) return 0;
  Along along{0, 0};
  for (int64_t c = 0; c < a.C; ++c) {
    const double u = y(c), x = a.x[offset + c];
    along.sign += signed_like(x, u);
    along.x += x * u;
  }
  write_strengths(a, offset / a.C, inverse_norm, along);
  return along.x;
}

// How the shared level enters a group: kappa, and the part of x that its feature adds to grad.
struct Coupling {
  double kappa = 0, lift = 0;
  bool feature_live = true;
};

template <typename Real>
SolvedGroup<Real> solved_at(const ProxBackwardArgs<Real>& a, int64_t offset, const Levels<Real>& at,
                            int64_t k, const Coupling& coupling) {
  const Real* metric = a.metric ? a.metric + offset : nullptr;
  const Group<Real> g = group_of(at, k, static_cast<const Real*>(nullptr), metric, a.C);
  return solved_group(g, a.x + offset, coupling.kappa, coupling.feature_live);
}

// The group at `offset`, the k-th of `at`, in double; returns <x, y>.
template <typename Real>
double write_irregular(const ProxBackwardArgs<Real>& a, int64_t offset, const Levels<Real>& at,
                       int64_t k, const Coupling& coupling) {
  const SolvedGroup<Real> s = solved_at(a, offset, at, k, coupling);
  Buffer<Real> buffer(a.C);
  Real* y = buffer.get();
  solve_group_backward(s, a.grad + offset, coupling.lift, y);
  return write_group(a, offset, s.inverse_norm, [y](int64_t c) { return y[c]; });
}

SPARSEDIS_END
