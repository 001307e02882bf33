// The proxes that scale a group by a function of its norm, MCP, SCAD and L0, and their gradients.
#pragma once

#include <algorithm>

#include "../core/radial.h"
#include "uniform_prox.h"

SPARSEDIS_BEGIN

// Consecutive groups of a radial prox: what it takes, and what it makes of them.
template <RadialKind kind, typename Real>
class RadialGroups {
  using Vector = Lanes<double>;

 public:
  explicit RadialGroups(const RadialArgs<Real>& args) : a(args) {}

  // x of the groups [index, index + groups).
  void prox(int64_t index, int64_t groups) {
    load(index, groups);
    each(groups, [&](int64_t k, const Radial<true>& s) { round(s.scale, factor + k); });
    scale<false>(a.v + index * a.C, groups, none, layout, factor, a.x + index * a.C);
  }

  // Gradients of the groups: of s(||v||) v it is s grad + s' <v, grad> / ||v|| v.
  void backward(int64_t index, int64_t groups) {
    load(index, groups);
    const Real *v = a.v + index * a.C, *grad = a.grad + index * a.C;
    Real of_strength[kGroups], of_step[kGroups], of_shape[kGroups];
    fetch(grad, groups * a.C);
    if constexpr (kind == kL0)
      std::fill_n(along, kGroups, 0.0);  // nothing depends on the radius
    else
      load_along(v, grad, groups);
    each(groups, [&](int64_t k, const Radial<true>& s) {
      const Vector zero{}, product = lanes_at(along + k);
      round(s.scale, factor + k);
      round(s.radius == zero ? zero : s.radius * product / lanes_at(r + k), turn + k);
      round(s.strength * product, of_strength + k);
      round(s.step * product, of_step + k), round(s.shape * product, of_shape + k);
    });
    std::copy_n(of_strength, groups, a.grad_strength + index);
    std::copy_n(of_step, groups, a.grad_step + index);
    std::copy_n(of_shape, groups, a.grad_shape + index);
    const auto slope = [&](const auto& of_entries, const auto& beside, auto& x) {
      auto times = x, part = x, u = x;
      of_entries(factor, times), of_entries(turn, part), beside(v, u);
      x = times * x + part * u;
    };
    map_entries(grad, groups, layout, slope, a.grad_v + index * a.C);
  }

 private:
  const RadialArgs<Real>& a;
  const Layout<Real> layout{a.C};
  const Levels<Real> none{};
  Buffer<Real> buffer{};
  Real norm[kGroups], factor[kGroups], turn[kGroups];
  double strength[kGroups], step[kGroups], shape[kGroups];
  double r[kGroups], along[kGroups];  // ||v||; <v, grad>

  // Calls body(k, s) for groups k.., of as many groups as a vector has lanes.
  template <typename F>
  void each(int64_t groups, F body) const {
    for (int64_t k = 0; k < groups; k += Simd<double>::kLanes)
      body(k, radial<kind, true>(lanes_at(r + k), lanes_at(strength + k), lanes_at(step + k),
                                 lanes_at(shape + k)));
  }
  static void round(const Vector& from, Real* to) {
    typedef Real Rounded __attribute__((vector_size(sizeof(Vector) / sizeof(double) * sizeof(Real)),
                                        aligned(alignof(Real)), may_alias));
    *reinterpret_cast<Rounded*>(to) = __builtin_convertvector(from, Rounded);
  }

  // Norms are of sums in double where squares may leave the range of `Real`, or where rounding may
  // decide on a formula.
  void load(int64_t index, int64_t groups) {
    load_numbers(a.strength, index, groups, strength);
    load_numbers(a.step, index, groups, step);
    load_numbers(a.shape, index, groups, shape);
    const Real* v = a.v + index * a.C;
    fetch(v, groups * a.C);
    norms<false>(v, groups, none, layout, norm);
    int64_t unsure = 0;
#pragma omp simd reduction(+ : unsure)
    for (int64_t k = 0; k < groups; ++k) r[k] = norm[k], unsure += is_unsure(k);
    for (int64_t k = 0; k < groups && unsure > 0; ++k)
      if (is_unsure(k)) r[k] = std::sqrt(sum_of_squares(v + k * a.C, a.C));
  }
  void load_numbers(const Strength<Real>& from, int64_t index, int64_t groups, double* to) const {
    Real numbers[kGroups];
    fill(from, a.M, index, groups, numbers);
    for (int64_t k = 0; k < groups; ++k) to[k] = numbers[k];
  }
  // A product that is not finite is taken in double.
  void load_along(const Real* v, const Real* grad, int64_t groups) {
    Real product[kGroups];
    int64_t beyond = 0;
    inner_products(v, grad, groups, layout, buffer.reserve(groups * a.C), product);
#pragma omp simd reduction(+ : beyond)
    for (int64_t k = 0; k < groups; ++k)
      along[k] = product[k], beyond += !std::isfinite(product[k]);
    for (int64_t k = 0; k < groups && beyond > 0; ++k)
      if (!std::isfinite(product[k])) along[k] = dot<double>(v + k * a.C, grad + k * a.C, a.C);
  }
  bool is_unsure(int64_t k) const {
    return !(norm[k] > kLeastStrength<Real> && norm[k] < 1 / kLeastStrength<Real>) |
           radial_near<kind>(norm[k], strength[k], step[k], shape[k], kNear<Real>);
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
