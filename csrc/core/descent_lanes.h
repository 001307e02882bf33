// Passes of block coordinate descent, and Newton steps, on working sets of several tasks, side by
// side in the lanes of vectors. Lanes that are not live stay where they are.
#pragma once

#include "lanes.h"

SPARSEDIS_BEGIN

constexpr int64_t kLaneOutputs = 5;  // at most: more sums than registers hold

// Features of every lane; where it has fewer than others, zeros stand after its last. What moves is
// `step`: weights are W + step, and `pull` is A'R at W.
template <typename Real>
struct LaneSet {
  int64_t size, ld, C;
  bool nonneg = false;
  LaneMatrix<Real, false> gram;          // (ld, ld), left of the diagonal's tiles and on them
  LaneBuffer<Real> l1, group, ridge;     // (ld)
  LaneBuffer<Real> W, pull, step, base;  // (ld, C); base: pull + G_jj W_j
  LaneBuffer<Real> inverse, low, high, level, held, taken;  // (ld), as in `PassWork`

  void shape(int64_t features, int64_t outputs) {
    gram.shape(features), size = features, ld = gram.ld, C = outputs;
    for (auto* rows : {&W, &pull, &step, &base}) rows->reserve(ld * C);
    for (auto* row : {&l1, &group, &ridge, &inverse, &low, &high, &level, &held, &taken})
      row->reserve(ld);
  }
};

// As that of descent.h, where the curvature of the loss is 1 / `scale` of the Gram matrix.
template <typename Real>
inline bool load_thresholds(const Lanes<Real>& scale, LaneSet<Real>& s) {
  const Lanes<Real> zero{}, one = zero + 1, smallest = zero + std::numeric_limits<Real>::min();
  const bool grouped = s.C > 1;
  Lanes<Real> any{};
  for (int64_t k = 0; k < s.size; ++k) {
    const Lanes<Real> group = s.group.get()[k] * scale;
    const Lanes<Real> l1 = s.l1.get()[k] * scale + (grouped ? zero : group);
    const Lanes<Real> own = s.gram.K.get()[k * (s.ld + 1)];
    const Lanes<Real> curvature = own + s.ridge.get()[k] * scale;
    const Lanes<Real> inverse = curvature > zero ? one / curvature : zero;
    const auto held = group >= smallest;
    s.inverse.get()[k] = inverse, s.high.get()[k] = l1;
    s.low.get()[k] = s.nonneg ? zero - std::numeric_limits<Real>::infinity() : -l1;
    s.level.get()[k] = held ? one / group : one;
    s.held.get()[k] = held ? one : zero;
    s.taken.get()[k] = held ? inverse : zero;
    any += l1;
    for (int64_t c = k * s.C; c < (k + 1) * s.C; ++c)
      s.base.get()[c] = s.pull.get()[c] * scale + own * s.W.get()[c];
  }
  bool thresholded = s.nonneg || !grouped;
  for (int64_t t = 0; t < Simd<Real>::kLanes; ++t) thresholded |= any[t] > 0;
  return thresholded;
}

// Adds sum_k row[k * stride] step[k] to `sums`, of which several run side by side: which one a
// feature goes to does not depend on how many there are.
template <int outputs, int sides, typename Real>
inline void add_steps(const Lanes<Real>* row, int64_t stride, const Lanes<Real>* step,
                      int64_t count, Lanes<Real> (&sums)[sides][outputs]) {
  const auto add = [&](int64_t k, int side) __attribute__((always_inline)) {
    const Lanes<Real> factor = row[k * stride];
#pragma GCC unroll 8
    for (int c = 0; c < outputs; ++c) sums[side][c] += factor * step[k * outputs + c];
  };
  int64_t k = 0;
  for (; k + sides <= count; k += sides)
#pragma GCC unroll 8
    for (int side = 0; side < sides; ++side) add(k + side, side);
#pragma GCC unroll 8
  for (int side = 0; side + 1 < sides; ++side)
    if (k + side < count) add(k + side, side);
}

// u = A_j'R as the weights are now, without those of feature j itself; features from `end` on have
// taken no step.
template <int outputs, typename Real>
__attribute__((always_inline)) inline void pull_without(int64_t j, int64_t end,
                                                        const LaneSet<Real>& s,
                                                        Lanes<Real> (&u)[outputs]) {
  constexpr int sides = outputs <= 2 ? 4 : 2;
  const Lanes<Real>*G = s.gram.K.get(), *step = s.step.get();
  Lanes<Real> sums[sides][outputs] = {};
  add_steps<outputs, sides, Real>(G + (j + 1) * s.ld + j, s.ld, step + (j + 1) * outputs,
                                  end - j - 1, sums);
  add_steps<outputs, sides, Real>(G + j * s.ld, 1, step, j, sums);
#pragma GCC unroll 8
  for (int c = 0; c < outputs; ++c) {
    for (int side = 1; side < sides; ++side) sums[0][c] += sums[side][c];
    u[c] = s.base.get()[j * outputs + c] - sums[0][c];
  }
}

// Moves feature j of every live lane to its minimum.
template <int outputs, bool thresholded, typename Real>
__attribute__((always_inline)) inline void descend_one(const LaneMask<Real>& live, int64_t j,
                                                       int64_t end, LaneSet<Real>& s) {
  using Vector = Lanes<Real>;
  Vector *own = s.step.get() + j * outputs, x[outputs], norm2[2] = {};
  pull_without(j, end, s, x);
#pragma GCC unroll 8
  for (int c = 0; c < outputs; ++c) {
    if constexpr (thresholded) shrink(x[c], s.low.get()[j], s.high.get()[j]);
    const Vector part = x[c] * s.level.get()[j];
    norm2[c % 2] += part * part;
  }
  Vector factor = s.inverse.get()[j];
  if constexpr (outputs > 1) {  // the l1 and group strengths of one output are one
    const Vector most = Vector{} + std::numeric_limits<Real>::max();
    const Vector all = norm2[0] + norm2[1];
    Vector root = all < most ? all : most;
    take_root(root);
    factor = all > s.held.get()[j] ? factor - s.taken.get()[j] / root : Vector{};
  }
#pragma GCC unroll 8
  for (int c = 0; c < outputs; ++c)
    own[c] = live ? x[c] * factor - s.W.get()[j * outputs + c] : own[c];
}

template <int outputs, bool thresholded, typename Real>
inline void descend_rows(const LaneMask<Real>& live, int64_t passes, bool fresh, LaneSet<Real>& s) {
  for (int64_t i = 0; i < passes; ++i)
    for (int64_t j = 0; j < s.size; ++j) {
      const int64_t end = fresh && i == 0 ? j + 1 : s.size;
      descend_one<outputs, thresholded>(live, j, end, s);
    }
}

// Cyclic passes over the features of a set, of the lanes that are live; where it is `fresh`, no
// lane has taken a step.
template <typename Real>
inline void descend(const LaneMask<Real>& live, int64_t passes, bool fresh, LaneSet<Real>& s,
                    const Lanes<Real>& scale = Lanes<Real>{} + 1) {
  const bool thresholded = load_thresholds(scale, s);
  const auto rows = [&](auto outputs) {
    constexpr int count = decltype(outputs)::value;
    thresholded ? descend_rows<count, true>(live, passes, fresh, s)
                : descend_rows<count, false>(live, passes, fresh, s);
  };
  switch (s.C) {
    case 1:
      return rows(std::integral_constant<int, 1>());
    case 2:
      return rows(std::integral_constant<int, 2>());
    case 3:
      return rows(std::integral_constant<int, 3>());
    case 4:
      return rows(std::integral_constant<int, 4>());
    default:
      return rows(std::integral_constant<int, kLaneOutputs>());
  }
}

// The system of a Newton step with one output: K d = e over weights that are not zero, with K = G +
// ridge and e what pulls them less what the penalty takes; d is 0 elsewhere.
template <typename Real>
inline void load_newton(const LaneSet<Real>& s, LaneMatrix<Real, false>& system,
                        LaneSides<Real>& sides) {
  using Vector = Lanes<Real>;
  const Vector zero{}, *G = s.gram.K.get(), *step = s.step.get(), *W = s.W.get();
  system.shape(s.size), sides.shape(system.ld, 1);
  std::fill_n(system.K.get(), system.ld * system.ld, zero);
  std::fill_n(sides.e.get(), system.ld, zero);
  for (int64_t a = s.size; a < system.ld; ++a) system.K.get()[a * (system.ld + 1)] = zero + 1;
  for (int64_t a = 0; a < s.size; ++a) {
    const Vector w = W[a] + step[a], curvature = G[a * (s.ld + 1)] + s.ridge.get()[a];
    const auto live = w != zero;
    Vector* row = system.K.get() + a * system.ld;
    for (int64_t b = 0; b < a; ++b)
      row[b] = live & (W[b] + step[b] != zero) ? G[a * s.ld + b] : zero;
    Vector pull[1];
    pull_without(a, s.size, s, pull);
    const Vector high = s.high.get()[a], rest = pull[0] - curvature * w - (w < zero ? -high : high);
    row[a] = live ? curvature : zero + 1;
    sides.e.get()[a] = live ? rest : zero;
  }
}

// Moves the weights of every live lane to their minimum with these signs, or as far as the first
// that would change its own, which becomes zero. Where K is singular they stay.
template <typename Real>
inline void newton_step(const LaneMask<Real>& live, LaneMatrix<Real, false>& system,
                        LaneSides<Real>& sides, LaneSet<Real>& s) {
  using Vector = Lanes<Real>;
  load_newton(s, system, sides);
  factor_lanes(system);
  solve_lanes(system, sides);
  const Vector zero{}, never = zero + 2, *d = sides.e.get();
  const auto share = [&](int64_t a, const Vector& w) {  // of d, after which a sign changes
    const Vector to = w + d[a], part = w / (w - to);
    return (w * to < zero) & (s.low.get()[a] < zero) ? part : never;
  };
  Vector part = zero + 1, poison{};
  for (int64_t a = 0; a < s.size; ++a) {
    const Vector first = share(a, s.W.get()[a] + s.step.get()[a]);
    part = first < part ? first : part;
    poison += d[a] * zero;
  }
  const auto moves = live & (poison == zero);
  for (int64_t a = 0; a < s.size; ++a) {
    const Vector w = s.W.get()[a] + s.step.get()[a];
    const Vector to = share(a, w) <= part ? zero : w + part * d[a];
    s.step.get()[a] = moves ? to - s.W.get()[a] : s.step.get()[a];
  }
}

SPARSEDIS_END
