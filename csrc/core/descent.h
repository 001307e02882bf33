// Passes of block coordinate descent over a working set: every feature in turn goes to the exact
// minimum over its own weights.
//
// Eight features move one after another on a copy of their q, then all of q follows by one product.
// They are the lanes of a vector for each output: a move is a few operations on all eight, and a
// feature waits for little but its own norm after the move before it.
#pragma once

#include "eight.h"
#include "working_set.h"

SPARSEDIS_BEGIN

constexpr int kFeatures = 8;  // that move on a copy of q

// Features from k0 on move; they have so many outputs, 0 for any number, which is to say more than
// registers hold. What is read past the set's end is not used.
template <int outputs, bool thresholded, typename Real>
inline void descend_some(WorkingSet<Real>& ws, int64_t k0) {
  using Lanes = Eight<Real>;
  using Vector = typename Lanes::Vector;
  constexpr bool grouped = outputs != 1;  // the l1 and group strengths of one output are one
  const PassWork<Real>& pass = ws.pass;
  const int64_t ld = ws.ld, C = outputs > 0 ? outputs : ws.C;
  const auto lanes = [k0](const Buffer<Real>& row) { return &Lanes::at(row.get() + k0); };
  const Vector *level = lanes(pass.level), *curvature = lanes(pass.curvature),
               *low = lanes(pass.low), *l1 = lanes(pass.l1), *held = lanes(pass.held);
  const Real bend = static_cast<Real>(ws.bend), most = std::numeric_limits<Real>::max();
  const Real *inverse = ws.inverse.get() + k0, *taken = pass.taken.get() + k0;
  const Real *G = ws.G.get() + k0 * (ld + 1), *q = ws.q.get() + k0;
  Real *W = ws.W.get() + k0, *moves = pass.moves.get();
  Vector few[2 * std::max(outputs, 1)], norm2{};
  Vector* u = outputs > 0 ? few : reinterpret_cast<Vector*>(pass.room.get());
  Vector* x = thresholded ? u + C : u;  // u past its thresholds
  typename Lanes::Mask live{};
  int64_t rows[kFeatures], moved = 0;
#pragma GCC unroll 8
  for (int64_t c = 0; c < C; ++c) {
    const Vector& w = Lanes::at(W + c * ld);
    u[c] = Lanes::at(q + c * ld) + *curvature * w;
    live |= w != 0;
  }
  const auto measure = [&]() __attribute__((always_inline)) {
    Vector even{}, odd{};
#pragma GCC unroll 8
    for (int64_t c = 0; c < C; ++c) {
      x[c] = u[c];
      if constexpr (thresholded) shrink(x[c], *low, *l1);
      const Vector part = x[c] * *level;
      (c % 2 == 0 ? even : odd) += part * part;
    }
    norm2 = even + odd;
  };
  const auto move = [&](auto lane) __attribute__((always_inline)) {
    constexpr int j = decltype(lane)::value;
    if (k0 + j >= ws.size) return;
    const bool free = grouped ? norm2[j] > (*held)[j] : x[0][j] != 0;
    if (!free && !live[j]) return;
    Real factor = inverse[j];
    if constexpr (grouped) {  // the root and the division run side by side
      const Real square = std::min(norm2[j], most);
      factor = free ? factor - taken[j] / square * std::sqrt(square) : Real(0);
    }
    const Vector row = bend * Lanes::at(G + j * ld);
#pragma GCC unroll 8
    for (int64_t c = 0; c < C; ++c) {
      Real& w = W[c * ld + j];
      const Real next = x[c][j] * factor, step = next - w;
      if constexpr (outputs > 0) {  // of the factor's operations the next feature waits for one
        Vector all;
        Lanes::template spread<j>(x[c], all);
        u[c] = (u[c] + row * w) - row * all * factor;
      } else {
        u[c] -= row * step;
      }
      moves[c * kFeatures + moved] = step;
      w = next;
    }
    rows[moved++] = k0 + j;
    measure();
  };
  measure();
  if (grouped && !any_lane(live | (norm2 > *held))) return;
  move(std::integral_constant<int, 0>());
  move(std::integral_constant<int, 1>());
  move(std::integral_constant<int, 2>());
  move(std::integral_constant<int, 3>());
  move(std::integral_constant<int, 4>());
  move(std::integral_constant<int, 5>());
  move(std::integral_constant<int, 6>());
  move(std::integral_constant<int, 7>());
  if (moved > 0) follow(ws, rows, moved, moves, 1, kFeatures);
}

// What passes at the set's scale need; true where entries are thresholded one by one.
template <typename Real>
inline bool load_thresholds(WorkingSet<Real>& ws) {
  PassWork<Real>& pass = ws.pass;
  const bool grouped = ws.C > 1;
  bool any = ws.nonneg || !grouped;
  for (Buffer<Real>* row :
       {&pass.curvature, &pass.l1, &pass.low, &pass.level, &pass.held, &pass.taken})
    row->reserve(ws.ld);
  for (int64_t k = 0; k < ws.size; ++k) {
    const Real group = static_cast<Real>(ws.scale * ws.group.get()[k]);
    const Real l1 = static_cast<Real>(ws.scale * ws.l1.get()[k]) + (grouped ? Real(0) : group);
    const bool held = grouped && group >= std::numeric_limits<Real>::min();
    pass.curvature.get()[k] = static_cast<Real>(ws.bend) * ws.G.get()[k * ws.ld + k];
    pass.l1.get()[k] = l1;
    pass.low.get()[k] = ws.nonneg ? -std::numeric_limits<Real>::infinity() : -l1;
    pass.level.get()[k] = held ? 1 / group : Real(1);
    pass.held.get()[k] = held;
    pass.taken.get()[k] = held ? ws.inverse.get()[k] : Real(0);
    any |= l1 > 0;
  }
  return any;
}

template <int outputs, typename Real>
inline void descend_rows(WorkingSet<Real>& ws, int64_t passes) {
  const auto some =
      load_thresholds(ws) ? descend_some<outputs, true, Real> : descend_some<outputs, false, Real>;
  ws.pass.moves.reserve(ws.C * kFeatures);
  ws.pass.room.reserve(2 * ws.C * kFeatures);
  for (int64_t i = 0; i < passes; ++i)
    for (int64_t k0 = 0; k0 < ws.size; k0 += kFeatures) some(ws, k0);
}

// Cyclic passes of block coordinate descent over the set.
template <typename Real>
inline void descend(WorkingSet<Real>& ws, int64_t passes) {
  switch (ws.C) {
    case 1:
      return descend_rows<1>(ws, passes);
    case 2:
      return descend_rows<2>(ws, passes);
    case 3:
      return descend_rows<3>(ws, passes);
    case 4:
      return descend_rows<4>(ws, passes);
    case 5:
      return descend_rows<5>(ws, passes);
    default:
      return descend_rows<0>(ws, passes);
  }
}

SPARSEDIS_END
