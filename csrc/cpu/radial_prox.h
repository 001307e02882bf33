// The proxes that scale a group by a function of its norm, MCP, SCAD and L0, and their gradients.
#pragma once

#include <algorithm>

#include "../core/radial.h"
#include "prox.h"

SPARSEDIS_BEGIN

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
    fetch(grad, groups * a.C);
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
    fetch(v, groups * a.C);
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

SPARSEDIS_END
