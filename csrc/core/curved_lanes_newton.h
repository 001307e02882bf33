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
  int64_t rows;                        // features and the bias
  LaneBuffer<Real> unit, live, scale;  // (rows, C): W_j / ||W_j||; 1 where it moves; 1 / diag(H)
  LaneBuffer<Real> x, r, p, Hp;        // (rows, C)
  LaneBuffer<Real> e, d, T;            // (rows) twice, (samples, C)
  double slope[Simd<Real>::kLanes];    // of the direction x, downwards

  void shape(int64_t samples, int64_t features, int64_t C) {
    rows = features + 1;
    for (auto* wide : {&unit, &live, &scale, &x, &r, &p}) wide->reserve(rows * C);
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

// The largest curvature of a feature, and the damping: a share of it.
template <typename Real>
inline Lanes<Real> load_damping(const LaneSet<Real>& set, const Lanes<Real>* mean,
                                const double* gap, Lanes<Real>& largest) {
  using Vector = Lanes<Real>;
  const Real least = sizeof(Real) == 4 ? Real(1e-5) : Real(1e-10);
  Vector most{};
  largest = Vector{};
  for (int64_t c = 0; c < set.C; ++c) most = mean[c] > most ? mean[c] : most;
  for (int64_t j = 0; j < set.size; ++j) {
    const Vector own = set.gram.K.get()[j * (set.ld + 1)];
    largest = own > largest ? own : largest;
  }
  largest *= most;
  Vector share = Real(1e-3) * load_vector<Real>(gap);
  share = share < Real(1e-3) ? share : Vector{} + Real(1e-3);
  return largest * (share > least ? share : Vector{} + least);
}

// Fills unit, live, e, d, the preconditioner, and r, minus the gradient.
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
      const Vector rest = pull[k] - ridge * w - l1 * sign - group * unit;
      s.live.get()[k] = moves ? one : zero;
      s.r.get()[k] = moves ? rest : zero;
      const Vector diagonal = own * mean[c] + e + d * (1 - unit * unit);
      s.scale.get()[k] = diagonal > zero ? 1 / diagonal : zero;
    }
  }
  const Vector free = zero + Real(g.fit_intercept);
  s.e.get()[set.size] = damping, s.d.get()[set.size] = zero;
  for (int64_t c = 0; c < C; ++c) {
    const int64_t k = set.size * C + c;
    s.unit.get()[k] = zero, s.live.get()[k] = free, s.r.get()[k] = free * pull[k];
    s.scale.get()[k] = 1 / (mean[c] + damping);
  }
}

// Hp = H p
template <typename Real>
inline void apply(const CurvedLanes<Real>& g, LaneNewton<Real>& s) {
  using Vector = Lanes<Real>;
  const int64_t C = g.C;
  const LanePart<Real, Real> part{g, 0};
  const Vector* p = s.p.get();
  Vector *T = s.T.get(), *Hp = s.Hp.get();
  multiply_rows<Real>(g.A.get(), g.all.ld, 1, g.rows, s.rows, p, C, s.T.values());
  for (int64_t i = 0; i < g.n; ++i) {
    Vector along{};
    for (int64_t c = 0; c < C; ++c) {
      const Vector P = part.at(g.scores.P, i * C + c);
      T[i * C + c] *= P;
      along += g.loss == kLogistic ? P * T[i * C + c] : T[i * C + c];
    }
    for (int64_t c = 0; c < C; ++c) {
      const Vector P = part.at(g.scores.P, i * C + c);
      T[i * C + c] -= P * (g.loss == kLogistic ? T[i * C + c] : along);
    }
  }
  multiply_rows<Real>(g.A.get(), 1, g.all.ld, g.all.ld, g.n, T, C, s.Hp.values());
  for (int64_t j = 0; j < s.rows; ++j) {
    const Vector e = s.e.get()[j], d = s.d.get()[j];
    Vector radial{};
    for (int64_t c = j * C; c < (j + 1) * C; ++c) radial += s.unit.get()[c] * p[c];
    for (int64_t c = j * C; c < (j + 1) * C; ++c)
      Hp[c] = s.live.get()[c] * (Hp[c] + (e + d) * p[c] - d * radial * s.unit.get()[c]);
  }
}

// <a, b> of every lane.
template <typename Real>
inline Lanes<Real> inner(const Lanes<Real>* a, const Lanes<Real>* b, int64_t rows, int64_t C) {
  Lanes<Real> sums[kLaneOutputs] = {}, total{};
  for (int64_t j = 0; j < rows; ++j)
    for (int64_t c = 0; c < C; ++c) sums[c] += a[j * C + c] * b[j * C + c];
  for (int64_t c = 0; c < C; ++c) total += sums[c];
  return total;
}

// x, the direction of the lanes that move, from W and the scores there, as `solve_by_cg` finds it.
template <typename Real>
inline void curved_direction(const LaneMask<Real>& live, const CurvedLanes<Real>& g,
                             const double* gap, LaneNewton<Real>& s) {
  using Vector = Lanes<Real>;
  constexpr int64_t lanes = CurvedLanes<Real>::kLanes;
  load_newton(g, gap, s);
  const int64_t C = g.C, size = s.rows * C;
  const Vector zero{}, *scale = s.scale.get();
  Vector *x = s.x.get(), *r = s.r.get(), *p = s.p.get(), *Hp = s.Hp.get(), rz{}, most{}, eta2{};
  for (int64_t t = 0; t < lanes; ++t) {
    eta2[t] = static_cast<Real>(std::min(0.09, gap[t]));
    most[t] = gap[t] > kFar && g.sparse[t] ? static_cast<Real>(kPromise * gap[t] * g.zero[t])
                                           : std::numeric_limits<Real>::max();
  }
  for (int64_t k = 0; k < size; ++k) x[k] = zero, p[k] = scale[k] * r[k];
  rz = inner<Real>(p, r, s.rows, C);
  const Vector target = eta2 * rz;
  LaneMask<Real> moves = live & (rz > target), near{};
  for (int64_t t = 0; t < lanes; ++t) near[t] = gap[t] > kFar ? 0 : -1;
  Vector fallen{}, slope{};
  for (int64_t step = 0; step < kNearSteps && any_lane(moves); ++step) {
    if (step == kFarSteps) moves &= near;
    apply(g, s);
    const Vector curvature = inner<Real>(p, Hp, s.rows, C);
    moves &= curvature > zero;
    const Vector alpha = moves ? rz / curvature : zero;
    for (int64_t k = 0; k < size; ++k) {
      x[k] += alpha * p[k], r[k] -= alpha * Hp[k];
      Hp[k] = scale[k] * r[k];
    }
    const Vector next = inner<Real>(r, Hp, s.rows, C);
    fallen += Real(0.5) * alpha * rz, slope += alpha * rz;
    const Vector ratio = moves ? next / rz : zero;
    rz = moves ? next : rz;
    for (int64_t k = 0; k < size; ++k) p[k] = Hp[k] + ratio * p[k];
    moves &= (rz > target) & (fallen < most);
  }
  for (int64_t t = 0; t < lanes; ++t) s.slope[t] = slope[t];
}

SPARSEDIS_END
