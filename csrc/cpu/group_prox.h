// The standalone proxes of a group: radial (MCP, SCAD, L0) and L-infinity.
#pragma once

#include <algorithm>

#include "../core/linf.h"
#include "../core/radial.h"
#include "parallel.h"
#include "prox.h"

SPARSEDIS_BEGIN

// Calls body(index of the group, task, feature, offset of its first entry) for every group.
template <typename Args, typename F>
void for_each_group(const Args& a, ParallelFor run, F body) {
  parallel_for(run, a.T * a.M, kParallelElements / std::max<int64_t>(a.C, 1),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) body(i, i / a.M, i % a.M, i * a.C);
               });
}

template <typename Real>
Radial radial_at(const RadialArgs<Real>& a, int64_t t, int64_t m, int64_t offset) {
  const double r = std::sqrt(sum_of_squares(a.v + offset, a.C));
  return radial(a.kind, r, at(a.strength, t, m), at(a.step, t, m), at(a.shape, t, m));
}

template <typename Real>
void radial_prox(const RadialArgs<Real>& a, ParallelFor run) {
  for_each_group(a, run, [&](int64_t, int64_t t, int64_t m, int64_t offset) {
    const double scale = radial_at(a, t, m, offset).scale;
    for (int64_t c = 0; c < a.C; ++c)
      a.x[offset + c] = static_cast<Real>(scale == 0 ? 0.0 : scale * a.v[offset + c]);
  });
}

template <typename Real>
void radial_prox_backward(const RadialArgs<Real>& a, ParallelFor run) {
  for_each_group(a, run, [&](int64_t i, int64_t t, int64_t m, int64_t offset) {
    const Real *v = a.v + offset, *grad = a.grad + offset;
    const Radial s = radial_at(a, t, m, offset);
    double along = 0;
    for (int64_t c = 0; c < a.C; ++c) along += static_cast<double>(v[c]) * grad[c];
    const double r = std::sqrt(sum_of_squares(v, a.C));
    const double bend = s.radius == 0 ? 0.0 : s.radius * along / r;
    for (int64_t c = 0; c < a.C; ++c)
      a.grad_v[offset + c] = static_cast<Real>(s.scale * grad[c] + bend * v[c]);
    a.grad_strength[i] = static_cast<Real>(s.strength * along);
    a.grad_step[i] = static_cast<Real>(s.step * along);
    a.grad_shape[i] = static_cast<Real>(s.shape * along);
  });
}

template <typename Real>
void linf_prox(const LinfArgs<Real>& a, ParallelFor run) {
  for_each_group(a, run, [&](int64_t, int64_t t, int64_t m, int64_t offset) {
    const Real *v = a.v + offset, *metric = a.metric ? a.metric + offset : nullptr;
    const Real tau = static_cast<Real>(clip_level(v, metric, a.C, at(a.strength, t, m)));
    for (int64_t c = 0; c < a.C; ++c) {
      const Real clipped = v[c] > tau ? tau : (v[c] < -tau ? -tau : v[c]);
      a.x[offset + c] = tau != tau ? tau : clipped;
    }
  });
}

// With s = sum_K sign(v) grad / sum_K d over the clipped set K: grad_v = d sign(v) s on K,
// grad_metric = (|v| - tau) s, grad_strength = -s. A group that is 0 passes nothing.
template <typename Real>
void linf_prox_backward(const LinfArgs<Real>& a, ParallelFor run) {
  for_each_group(a, run, [&](int64_t i, int64_t t, int64_t m, int64_t offset) {
    const Real *v = a.v + offset, *grad = a.grad + offset, *x = a.solution + offset;
    const auto d = [&](int64_t c) {
      return a.metric ? static_cast<double>(a.metric[offset + c]) : 1.0;
    };
    const auto sign = [&](int64_t c) { return v[c] > 0 ? 1.0 : (v[c] < 0 ? -1.0 : 0.0); };
    double tau = 0, pull = 0, weight = 0;
    for (int64_t c = 0; c < a.C; ++c) tau = std::max(tau, static_cast<double>(std::fabs(x[c])));
    for (int64_t c = 0; c < a.C; ++c) {
      if (std::fabs(x[c]) != tau) continue;
      pull += sign(c) * grad[c];
      weight += d(c);
    }
    const bool active = at(a.strength, t, m) > 0;
    const double s = (active && tau == 0) || weight == 0 ? 0.0 : pull / weight;
    for (int64_t c = 0; c < a.C; ++c) {
      const bool clipped = std::fabs(x[c]) == tau;
      const double along = active && clipped ? d(c) * sign(c) * s : static_cast<double>(grad[c]);
      const double excess = clipped ? std::fabs(v[c] - x[c]) : 0.0;
      if (a.grad_v) a.grad_v[offset + c] = static_cast<Real>(along);
      if (a.grad_metric) a.grad_metric[offset + c] = static_cast<Real>(excess * s);
    }
    if (a.grad_strength) a.grad_strength[i] = static_cast<Real>(-s);
  });
}

SPARSEDIS_END
