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

// Consecutive groups of a radial prox: what it takes, and what it makes of them.
template <RadialKind kind, typename Real>
class RadialGroups {
 public:
  explicit RadialGroups(const RadialArgs<Real>& args) : a(args) {}

  // x of the groups [index, index + groups).
  void prox(int64_t index, int64_t groups) {
    load(index, groups);
    Real* factor = strength;  // needed no more
#pragma omp simd
    for (int64_t k = 0; k < groups; ++k)
      factor[k] = static_cast<Real>(radial<kind>(r[k], strength[k], step[k], shape[k]).scale);
    scaled(a.v + index * a.C, groups, factor, a.x + index * a.C);
  }

  // Gradients of the groups: of s(||v||) v it is s grad + s' <v, grad> / ||v|| v.
  void backward(int64_t index, int64_t groups) {
    load(index, groups);
    const Real *v = a.v + index * a.C, *grad = a.grad + index * a.C;
    Real along[kGroups];
    inner_products(v, grad, groups, layout, buffer.reserve(groups * a.C), along);
    Real factor[kGroups], bend[kGroups];
#pragma omp simd
    for (int64_t k = 0; k < groups; ++k) {
      const Radial s = radial<kind>(r[k], strength[k], step[k], shape[k]);
      factor[k] = static_cast<Real>(s.scale);
      bend[k] = static_cast<Real>(s.radius == 0 ? 0.0 : s.radius * along[k] / r[k]);
      a.grad_strength[index + k] = static_cast<Real>(s.strength * along[k]);
      a.grad_step[index + k] = static_cast<Real>(s.step * along[k]);
      a.grad_shape[index + k] = static_cast<Real>(s.shape * along[k]);
    }
    const auto slope = [&](const auto& of_entries, const auto& beside, auto& x) {
      auto scale = x, turn = x, u = x;
      of_entries(factor, scale), of_entries(bend, turn), beside(v, u);
      x = scale * x + turn * u;
    };
    map_entries(grad, groups, layout, slope, a.grad_v + index * a.C);
  }

 private:
  const RadialArgs<Real>& a;
  const Layout<Real> layout{a.C};
  const Levels<Real> none{};
  Buffer<Real> buffer{};
  Real strength[kGroups], step[kGroups], shape[kGroups], norm[kGroups];
  double r[kGroups];

  // Norms are of sums in double where squares may leave the range of `Real`, or where rounding may
  // decide on a formula.
  void load(int64_t index, int64_t groups) {
    fill(a.strength, a.M, index, groups, strength);
    fill(a.step, a.M, index, groups, step);
    fill(a.shape, a.M, index, groups, shape);
    const Real* v = a.v + index * a.C;
    norms<false>(v, groups, none, layout, norm);
    int64_t unsure = 0;
#pragma omp simd reduction(+ : unsure)
    for (int64_t k = 0; k < groups; ++k) r[k] = norm[k], unsure += is_unsure(k);
    for (int64_t k = 0; k < groups && unsure > 0; ++k)
      if (is_unsure(k)) r[k] = std::sqrt(sum_of_squares(v + k * a.C, a.C));
  }
  bool is_unsure(int64_t k) const {
    return !(norm[k] > kLeastStrength<Real> && norm[k] < 1 / kLeastStrength<Real>) |
           radial_near<kind>(norm[k], strength[k], step[k], shape[k], kNear<Real>);
  }
  void scaled(const Real* from, int64_t groups, const Real* factor, Real* to) const {
    scale<false>(from, groups, none, layout, factor, to);
  }
};

// Calls body(groups' worker, index, groups) for all groups, a few at a time.
template <RadialKind kind, typename Real, typename F>
void for_each_radial(const RadialArgs<Real>& a, ParallelFor run, F body) {
  const int64_t step = groups_of(a.C);
  for_each_range(a.T * a.M, a.C, run, [&](int64_t begin, int64_t end) {
    RadialGroups<kind, Real> worker(a);
    for (int64_t i = begin; i < end; i += step) body(worker, i, std::min(step, end - i));
  });
}

template <typename Real>
void radial_prox(const RadialArgs<Real>& a, ParallelFor run) {
  with_kind(a.kind, [&](auto kind) {
    for_each_radial<kind>(
        a, run, [](auto& worker, int64_t index, int64_t groups) { worker.prox(index, groups); });
  });
}

template <typename Real>
void radial_prox_backward(const RadialArgs<Real>& a, ParallelFor run) {
  with_kind(a.kind, [&](auto kind) {
    for_each_radial<kind>(a, run, [](auto& worker, int64_t index, int64_t groups) {
      worker.backward(index, groups);
    });
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
