// Proximal operators that scale a whole group: x = s(||v||) v. Group MCP (Zhang 2010), group SCAD
// (Fan and Li 2001), group L0.
#pragma once

#include <type_traits>

#include "threshold.h"

SPARSEDIS_BEGIN

enum RadialKind : int64_t { kMcp = 0, kScad = 1, kL0 = 2 };

// s and its partial derivatives.
struct Radial {
  double scale, radius, strength, step, shape;
};

// Between two radii it is `inside`; the group is 0 below and whole above. Not a number is inside.
SPARSEDIS_HD inline Radial between(bool zero, bool whole, const Radial& inside) {
  const bool in = !(zero || whole);
  return {zero ? 0.0 : (whole ? 1.0 : inside.scale), in ? inside.radius : 0.0,
          in ? inside.strength : 0.0, in ? inside.step : 0.0, in ? inside.shape : 0.0};
}

// r <= eta lam: 0; r <= gamma lam: (1 - eta lam / r) / (1 - eta / gamma); else 1.
SPARSEDIS_HD inline Radial mcp(double r, double lam, double eta, double gamma) {
  const double k = 1 - eta / gamma, top = 1 - eta * lam / r;
  return between(r <= eta * lam, r > gamma * lam,
                 {top / k, eta * lam / (r * r * k), -eta / (r * k),
                  -lam / (r * k) + top / (gamma * k * k), -top * eta / (gamma * gamma * k * k)});
}

// r <= lam (1 + eta): block soft threshold; r <= a lam: ((a-1) - eta a lam / r) / (a-1-eta);
// else 1.
SPARSEDIS_HD inline Radial scad(double r, double lam, double eta, double a) {
  const double k = a - 1 - eta, top = a - 1 - eta * a * lam / r, soft = 1 - eta * lam / r;
  const bool near = r <= lam * (1 + eta);
  return between(
      r <= eta * lam, !near && r > a * lam,
      {near ? soft : top / k, (near ? eta * lam : eta * a * lam / k) / (r * r),
       (near ? -eta : -eta * a / k) / r, near ? -lam / r : -a * lam / (r * k) + top / (k * k),
       near ? 0.0 : soft / k - top / (k * k)});
}

SPARSEDIS_HD inline Radial l0(double r, double lam, double eta) {
  return between(r * r <= 2 * eta * lam, r * r > 2 * eta * lam, {r, r, r, r, r});
}

template <RadialKind kind>
SPARSEDIS_HD inline Radial radial(double r, double lam, double eta, double shape) {
  if constexpr (kind == kMcp) return mcp(r, lam, eta, shape);
  if constexpr (kind == kScad) return scad(r, lam, eta, shape);
  return l0(r, lam, eta);
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
SPARSEDIS_HD inline bool radial_near(double r, double lam, double eta, double shape, double tol) {
  const auto near = [=](double radius) { return std::fabs(r - radius) <= tol * radius; };
  if constexpr (kind == kL0) return near(std::sqrt(2 * eta * lam));
  return near(eta * lam) || near(shape * lam) || (kind == kScad && near((1 + eta) * lam));
}

SPARSEDIS_END
