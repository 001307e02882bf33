// Proximal operators that scale a whole group: x = s(||v||) v. Group MCP (Zhang 2010), group SCAD
// (Fan and Li 2001), group L0.
#pragma once

#include <type_traits>

#include "lane_vectors.h"

SPARSEDIS_BEGIN

enum RadialKind : int64_t { kMcp = 0, kScad = 1, kL0 = 2 };

// s and its partial derivatives: numbers, or vectors of them with a group in each lane.
template <bool lanes>
struct Radial {
  using Number = typename LaneEntry<double, !lanes>::Type;
  Number scale, radius, strength, step, shape;
};

template <bool lanes>
using RadialNumber = typename Radial<lanes>::Number;

// Between two radii it is `inside`; the group is 0 below and whole above. Not a number is inside.
template <bool lanes, typename Mask>
inline Radial<lanes> between(const Mask& zero, const Mask& whole, const Radial<lanes>& inside) {
  using Number = RadialNumber<lanes>;
  const Number none{}, one = none + 1;
  const auto in = [&](const Number& x) { return zero ? none : (whole ? none : x); };
  return {zero ? none : (whole ? one : inside.scale), in(inside.radius), in(inside.strength),
          in(inside.step), in(inside.shape)};
}

// r <= eta lam: 0; r <= gamma lam: (1 - eta lam / r) / (1 - eta / gamma); else 1. Where nothing is
// penalised all is whole, and so it is for the others.
template <bool lanes, typename Number = RadialNumber<lanes>>
inline Radial<lanes> mcp(const Number& r, const Number& lam, const Number& eta,
                         const Number& gamma) {
  const Number t = eta * lam, by_r = 1 / r, part = eta / gamma, by_k = 1 / (1 - part);
  const Number top = 1 - t * by_r, slope = top * by_k * by_k / gamma;
  return between<lanes>((r <= t) & (t > 0), (r > gamma * lam) | (t == 0),
                        {top * by_k, t * by_r * by_r * by_k, -eta * by_r * by_k,
                         slope - lam * by_r * by_k, -slope * part});
}

// r <= lam (1 + eta): block soft threshold; r <= a lam: ((a-1) - eta a lam / r) / (a-1-eta);
// else 1.
template <bool lanes, typename Number = RadialNumber<lanes>>
inline Radial<lanes> scad(const Number& r, const Number& lam, const Number& eta, const Number& a) {
  const Number none{}, one = none + 1, t = eta * lam, edge = lam * (1 + eta);
  const Number by_r = 1 / r, by_k = 1 / (a - 1 - eta), soft = 1 - t * by_r;
  const Number top = (a - 1 - a * t * by_r) * by_k, times = a * by_k;
  const auto near = r <= edge;
  const Number bent = near ? one : times;
  return between<lanes>(
      (r <= t) & (t > 0), ((r > a * lam) & (r > edge)) | (t == 0),
      {near ? soft : top, bent * t * by_r * by_r, -bent * eta * by_r,
       (near ? none : top * by_k) - bent * lam * by_r, near ? none : (soft - top) * by_k});
}

template <bool lanes, typename Number = RadialNumber<lanes>>
inline Radial<lanes> l0(const Number& r, const Number& lam, const Number& eta) {
  const Number t = eta * lam;
  return between<lanes>((r * r <= 2 * t) & (t > 0), (r * r > 2 * t) | (t == 0), {r, r, r, r, r});
}

template <RadialKind kind, bool lanes, typename Number = RadialNumber<lanes>>
inline Radial<lanes> radial(const Number& r, const Number& lam, const Number& eta,
                            const Number& shape) {
  if constexpr (kind == kMcp) return mcp<lanes>(r, lam, eta, shape);
  if constexpr (kind == kScad) return scad<lanes>(r, lam, eta, shape);
  return l0<lanes>(r, lam, eta);
}

// Calls body(the kind as a constant).
template <typename F>
void with_kind(int64_t kind, F body) {
  if (kind == kMcp) return body(std::integral_constant<RadialKind, kMcp>());
  if (kind == kScad) return body(std::integral_constant<RadialKind, kScad>());
  body(std::integral_constant<RadialKind, kL0>());
}

// Whether r is within a share `tol` of a radius at which the formula changes.
template <RadialKind kind>
inline bool radial_near(double r, double lam, double eta, double shape, double tol) {
  const auto near = [=](double radius) { return std::fabs(r - radius) <= tol * radius; };
  if constexpr (kind == kL0) return near(std::sqrt(2 * eta * lam));
  return near(eta * lam) || near(shape * lam) || (kind == kScad && near((1 + eta) * lam));
}

SPARSEDIS_END
