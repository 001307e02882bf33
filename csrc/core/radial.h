// Proximal operators that scale a whole group: x = s(||v||) v. Group MCP (Zhang 2010), group SCAD
// (Fan and Li 2001), group L0.
#pragma once

#include "threshold.h"

SPARSEDIS_BEGIN

enum RadialKind : int64_t { kMcp = 0, kScad = 1, kL0 = 2 };

// s and its partial derivatives.
struct Radial {
  double scale, radius, strength, step, shape;
};

// r <= eta lam: 0; r <= gamma lam: (1 - eta lam / r) / (1 - eta / gamma); else 1.
SPARSEDIS_HD inline Radial mcp(double r, double lam, double eta, double gamma) {
  if (r <= eta * lam) return {0, 0, 0, 0, 0};
  if (r > gamma * lam) return {1, 0, 0, 0, 0};
  const double k = 1 - eta / gamma, top = 1 - eta * lam / r;
  return {top / k, eta * lam / (r * r * k), -eta / (r * k), -lam / (r * k) + top / (gamma * k * k),
          -top * eta / (gamma * gamma * k * k)};
}

// r <= lam (1 + eta): block soft threshold; r <= a lam: ((a-1) - eta a lam / r) / (a-1-eta);
// else 1.
SPARSEDIS_HD inline Radial scad(double r, double lam, double eta, double a) {
  if (r <= eta * lam) return {0, 0, 0, 0, 0};
  if (r <= lam * (1 + eta)) return {1 - eta * lam / r, eta * lam / (r * r), -eta / r, -lam / r, 0};
  if (r > a * lam) return {1, 0, 0, 0, 0};
  const double k = a - 1 - eta, top = a - 1 - eta * a * lam / r;
  return {top / k, eta * a * lam / (r * r * k), -eta * a / (r * k),
          -a * lam / (r * k) + top / (k * k), (1 - eta * lam / r) / k - top / (k * k)};
}

SPARSEDIS_HD inline Radial radial(int64_t kind, double r, double lam, double eta, double shape) {
  if (r != r) return {r, r, r, r, r};
  if (kind == kMcp) return mcp(r, lam, eta, shape);
  if (kind == kScad) return scad(r, lam, eta, shape);
  return {r * r > 2 * eta * lam ? 1.0 : 0.0, 0, 0, 0, 0};
}

SPARSEDIS_END
