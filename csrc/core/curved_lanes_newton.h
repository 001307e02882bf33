// Newton's direction on the supports of tasks in the lanes of vectors, by conjugate gradients,
// under a loss that is not squared. The system is that of curved_newton.h, over all features: what
// a lane does not move is zero there. The bias is the row after the features.
#pragma once

#include "curved_lanes.h"
#include "curved_newton.h"

SPARSEDIS_BEGIN

constexpr int64_t kFarSteps = 5, kNearSteps = 8;  // of conjugate gradients, by the gap

template <typename Real>
struct LaneNewton {
  int64_t rows;                      // features and the bias
  LaneBuffer<Real> unit, scale;      // (rows, C): W_j / ||W_j||; 1 / diag(H), or 0: stays at 0
  LaneBuffer<Real> x, r, p, Hp;      // (rows, C)
  LaneBuffer<Real> e, d, T;          // (rows) twice, (samples, C)
  double slope[Simd<Real>::kLanes];  // of the direction x, downwards

  void shape(int64_t samples, int64_t features, int64_t C) {
    rows = features + 1;
    for (auto* wide : {&unit, &scale, &x, &r, &p}) wide->reserve(rows * C);
    Hp.reserve(whole_tiles(rows) * C), T.reserve(samples * C);
    for (auto* row : {&e, &d}) row->reserve(rows);
  }
};

// The mean of A's curvature in every output.
template <typename Real>
inline void mean_curvatures(const CurvedLanes<Real>& g, Lanes<Real>* mean) {
  const LanePart<Real, Real> part{g, 0};
  std::fill_n(mean, g.C, Lanes<Real>{});
  for (int64_t i = 0; i < g.n; ++i)
    for (int64_t c = 0; c < g.C; ++c) {
      const Lanes<Real> P = part.at(g.scores.P, i * g.C + c);
      mean[c] += part.weight(i) * (P - P * P);
    }
}

// The largest curvature of a feature, and the damping for it.
template <typename Real>
inline Lanes<Real> load_damping(const LaneSet<Real>& set, const Lanes<Real>* mean,
                                const double* gap, Lanes<Real>& largest) {
  using Vector = Lanes<Real>;
  Vector most{}, share{};
  largest = Vector{};
  for (int64_t c = 0; c < set.C; ++c) most = mean[c] > most ? mean[c] : most;
  for (int64_t j = 0; j < set.size; ++j) {
    const Vector own = set.gram.K.get()[j * (set.ld + 1)];
    largest = own > largest ? own : largest;
  }
  largest *= most;
  for (int64_t t = 0; t < Simd<Real>::kLanes; ++t)
    share[t] = static_cast<Real>(damping_share<Real>({false, gap[t]}));
  return largest * share;
}

// Fills unit, e, d, the preconditioner, and r, minus the gradient.
template <typename Real>
inline void load_newton(const CurvedLanes<Real>& g, const double* gap, LaneNewton<Real>& s) {
  using Vector = Lanes<Real>;
  const LaneSet<Real>& set = g.all;
  const int64_t C = g.C;
  const Vector zero{}, one = zero + 1, *W = set.W.get(), *pull = set.pull.get();
  Vector mean[kLaneOutputs], largest;
  s.shape(g.rows, set.size, C);
  mean_curvatures(g, mean);
  const Vector damping = load_damping(set, mean, gap, largest), cap = Real(kRadialCap) * largest;
  for (int64_t j = 0; j < set.size; ++j) {
    const Vector ridge = set.ridge.get()[j], l1 = set.l1.get()[j], group = set.group.get()[j];
    Vector norm{};
    for (int64_t k = j * C; k < (j + 1) * C; ++k) norm += W[k] * W[k];
    take_root(norm);
    const Vector inverse = norm > zero ? 1 / norm : zero, held = group * inverse;
    const Vector e = s.e.get()[j] = ridge + damping, d = s.d.get()[j] = held < cap ? held : cap;
    const Vector own = set.gram.K.get()[j * (set.ld + 1)];
    for (int64_t c = 0; c < C; ++c) {
      const int64_t k = j * C + c;
      const Vector w = W[k], unit = s.unit.get()[k] = w * inverse;
      const auto moves = (w != zero) | ~g.sparse;
      const Vector sign = w > zero ? one : (w < zero ? -one : zero);
      const Vector diagonal = own * mean[c] + e + d * (1 - unit * unit);
      s.r.get()[k] = pull[k] - ridge * w - l1 * sign - group * unit;
      s.scale.get()[k] = moves & (diagonal > zero) ? 1 / diagonal : zero;
    }
  }
  const Vector free = zero + Real(g.fit_intercept);
  s.e.get()[set.size] = damping, s.d.get()[set.size] = zero;
  for (int64_t c = 0; c < C; ++c) {
    const int64_t k = set.size * C + c;
    s.unit.get()[k] = zero, s.r.get()[k] = pull[k];
    s.scale.get()[k] = free / (mean[c] + damping);
  }
}

// Sums of products over all rows, one for each output, so that they do not wait for each other.
template <typename Real>
struct LaneSums {
  Lanes<Real> of[kLaneOutputs] = {};

  Lanes<Real> total(int64_t C) const {
    Lanes<Real> sum{};
    for (int64_t c = 0; c < C; ++c) sum += of[c];
    return sum;
  }
};

// T = Q T, Q the Hessian of the loss in the scores of every sample.
template <typename Real>
inline void curve(const CurvedLanes<Real>& g, Lanes<Real>* T) {
  using Vector = Lanes<Real>;
  const int64_t C = g.C;
  const bool logistic = g.loss == kLogistic;
  const Vector* P = &lanes_at(g.scores.P.get());
  for (int64_t i = 0; i < g.n; ++i) {
    Vector along{};
    for (int64_t k = i * C; k < (i + 1) * C; ++k) T[k] *= P[k], along += T[k];
    for (int64_t k = i * C; k < (i + 1) * C; ++k) T[k] -= P[k] * (logistic ? T[k] : along);
  }
}

// Hp = H p where p moves; returns <p, H p>.
template <typename Real>
inline Lanes<Real> apply(const CurvedLanes<Real>& g, LaneNewton<Real>& s) {
  using Vector = Lanes<Real>;
  const int64_t C = g.C, ld = g.all.ld;
  const Vector *p = s.p.get(), *unit = s.unit.get(), *A = g.A.get();
  Vector* Hp = s.Hp.get();
  multiply_rows<Real>(A, ld, 1, g.rows, s.rows, p, C, s.T.values());
  curve(g, s.T.get());
  multiply_rows<Real>(A, 1, ld, ld, g.n, s.T.get(), C, s.Hp.values());
  LaneSums<Real> curvature;
  for (int64_t j = 0; j < s.rows; ++j) {
    const Vector e = s.e.get()[j], d = s.d.get()[j];
    Vector radial{};
    for (int64_t k = j * C; k < (j + 1) * C; ++k) radial += unit[k] * p[k];
    radial *= d;
    for (int64_t c = 0; c < C; ++c) {
      const int64_t k = j * C + c;
      Hp[k] += (e + d) * p[k] - radial * unit[k];
      curvature.of[c] += p[k] * Hp[k];
    }
  }
  return curvature.total(C);
}

// r -= alpha Hp, and Hp = scale r, the preconditioned residual; returns <r, scale r>.
template <typename Real>
inline Lanes<Real> step_residual(const Lanes<Real>& alpha, int64_t C, LaneNewton<Real>& s) {
  Lanes<Real>*r = s.r.get(), *z = s.Hp.get();
  LaneSums<Real> sums;
  for (int64_t j = 0; j < s.rows; ++j)
    for (int64_t c = 0; c < C; ++c) {
      const int64_t k = j * C + c;
      r[k] -= alpha * z[k];
      z[k] = s.scale.get()[k] * r[k];
      sums.of[c] += r[k] * z[k];
    }
  return sums.total(C);
}

// x, the direction of the lanes that move, from W and the scores there, as `solve_by_cg` finds it.
template <typename Real>
inline void curved_direction(const LaneMask<Real>& live, const CurvedLanes<Real>& g,
                             const double* gap, LaneNewton<Real>& s) {
  using Vector = Lanes<Real>;
  constexpr int64_t lanes = CurvedLanes<Real>::kLanes;
  load_newton(g, gap, s);
  const int64_t C = g.C, size = s.rows * C;
  const Vector zero{};
  Vector *x = s.x.get(), *p = s.p.get(), *z = s.Hp.get(), most{}, eta2{}, fallen{}, slope{};
  LaneMask<Real> near{};
  for (int64_t t = 0; t < lanes; ++t) {
    const double eta = left_share(gap[t]);
    eta2[t] = static_cast<Real>(eta * eta);
    most[t] = gap[t] > kFar && g.sparse[t] ? static_cast<Real>(kPromise * gap[t] * g.zero[t])
                                           : std::numeric_limits<Real>::max();
    near[t] = gap[t] > kFar ? 0 : -1;
  }
  std::fill_n(z, size, zero);
  Vector rz = step_residual(zero, C, s);
  for (int64_t k = 0; k < size; ++k) x[k] = zero, p[k] = z[k];
  const Vector target = eta2 * rz;
  LaneMask<Real> moves = live & (rz > target);
  for (int64_t step = 0; step < kNearSteps && any_lane(moves); ++step) {
    if (step == kFarSteps) moves &= near;
    const Vector curvature = apply(g, s);
    moves &= curvature > zero;
    const Vector alpha = moves ? rz / curvature : zero;
    const Vector next = step_residual(alpha, C, s), ratio = moves ? next / rz : zero;
    fallen += Real(0.5) * alpha * rz, slope += alpha * rz;
    rz = moves ? next : rz;
    for (int64_t k = 0; k < size; ++k) x[k] += alpha * p[k], p[k] = z[k] + ratio * p[k];
    moves &= (rz > target) & (fallen < most);
  }
  for (int64_t t = 0; t < lanes; ++t) s.slope[t] = slope[t];
}

SPARSEDIS_END
