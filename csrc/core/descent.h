// Passes of block coordinate descent over a working set: every feature in turn goes to the exact
// minimum over its own weights.
//
// Eight features move one after another on a copy of their q, then all of q follows by one product.
// The outputs of a feature are vectors: with up to eight, u = q + h W of all eight features lie in
// registers, and a feature waits for little but the norm of the one before it.
#pragma once

#include "eight.h"
#include "working_set.h"

SPARSEDIS_BEGIN

constexpr int kFeatures = 8;  // that move on a copy of q
constexpr int kOutputs = 8;   // of a vector

// Outputs of one feature, padded with zeros.
template <typename Real>
struct OutputVector {
  using Vector = typename Eight<Real>::Vector;
  static constexpr bool kGrouped = true;

  static Real sum(const Vector& x) { return Eight<Real>::sum(x); }

  // x[k, c] = q[c, k] for eight features and as many outputs as there are, in registers.
  static void load(const Real* q, int64_t ld, int64_t outputs, Vector* x) {
#pragma GCC unroll 8
    for (int c = 0; c < kOutputs; ++c) x[c] = c < outputs ? Eight<Real>::at(q + c * ld) : Vector{};
    Eight<Real>::transpose(x);
  }
};

// The only output of a feature, whose l1 and group strengths are one.
template <typename Real>
struct SingleOutput {
  using Vector = Real;
  static constexpr bool kGrouped = false;

  static void load(const Real* q, int64_t, int64_t, Vector* x) { std::copy_n(q, kFeatures, x); }
};

// Features from k0 on move; `vectors` hold a feature's outputs, 0 for as many as it takes. What is
// read past the set's end is not used.
template <typename Row, int vectors, bool thresholded, typename Real>
inline void descend_some(WorkingSet<Real>& ws, int64_t k0) {
  using Vector = typename Row::Vector;
  constexpr int64_t width = sizeof(Vector) / sizeof(Real);
  const PassWork<Real>& pass = ws.pass;
  const int64_t ld = ws.ld, count = vectors > 0 ? vectors : pass.vectors;
  const Real *G = ws.G.get() + k0 * (ld + 1), bend = static_cast<Real>(ws.bend);
  Vector few[2 * kFeatures * std::max(vectors, 1)];
  Vector* u = vectors > 0 ? few : reinterpret_cast<Vector*>(pass.room.get());
  Vector *moves = u + kFeatures * count, *W = reinterpret_cast<Vector*>(pass.W.get()) + k0 * count;
  int64_t rows[kFeatures], moved = 0;
  for (int64_t v = 0; v < count; ++v) {
    Vector x[kFeatures];
    Row::load(ws.q.get() + v * width * ld + k0, ld, ws.C - v * width, x);
#pragma GCC unroll 8
    for (int j = 0; j < kFeatures; ++j)
      u[j * count + v] = x[j] + pass.curvature.get()[k0 + j] * W[j * count + v];
  }
#pragma GCC unroll 8
  for (int j = 0; j < kFeatures; ++j) {
    const int64_t k = k0 + j;
    if (k == ws.size) break;
    Vector *x = u + j * count, *w = W + j * count, squares{};
    Real factor = ws.inverse.get()[k];
    for (int64_t v = 0; v < count; ++v) {
      if constexpr (thresholded)
        shrink(x[v], Vector{} + pass.low.get()[k], Vector{} + pass.l1.get()[k]);
      const Vector part = x[v] * pass.level.get()[k];
      squares += part * part;
    }
    if constexpr (Row::kGrouped) {
      const Real held = pass.held.get()[k], norm2 = Row::sum(squares);
      const bool live = norm2 > held;
      if (!live && !pass.live.get()[k]) continue;
      pass.live.get()[k] = live;
      factor = live ? factor * (1 - held / std::sqrt(norm2)) : Real(0);
    } else {
      if (*x == 0 && *w == 0) continue;
    }
    for (int64_t v = 0; v < count; ++v) {
      const Vector next = x[v] * factor, move = next - w[v];
      w[v] = next, moves[moved * count + v] = move;
#pragma GCC unroll 8
      for (int i = j + 1; i < kFeatures; ++i) u[i * count + v] -= bend * G[j * ld + i] * move;
    }
    rows[moved++] = k;
  }
  const Real* by = reinterpret_cast<const Real*>(moves);
  if (moved > 0) follow(ws, rows, moved, by, count * width, 1);
}

// The thresholds of all features at the set's scale; true where entries are thresholded one by one.
template <typename Real>
inline bool load_thresholds(WorkingSet<Real>& ws, bool grouped) {
  PassWork<Real>& pass = ws.pass;
  bool any = ws.nonneg || !grouped;
  for (Buffer<Real>* row : {&pass.curvature, &pass.l1, &pass.low, &pass.level, &pass.held})
    row->reserve(ws.ld);
  for (int64_t k = 0; k < ws.size; ++k) {
    const Real group = static_cast<Real>(ws.scale * ws.group.get()[k]);
    const Real l1 = static_cast<Real>(ws.scale * ws.l1.get()[k]) + (grouped ? Real(0) : group);
    const bool held = group >= std::numeric_limits<Real>::min();
    pass.curvature.get()[k] = static_cast<Real>(ws.bend) * ws.G.get()[k * ws.ld + k];
    pass.l1.get()[k] = l1;
    pass.low.get()[k] = ws.nonneg ? -std::numeric_limits<Real>::infinity() : -l1;
    pass.level.get()[k] = held ? 1 / group : Real(1);
    pass.held.get()[k] = held;
    any |= l1 > 0;
  }
  return any;
}

template <typename Row, int vectors, typename Real>
inline void descend_rows(WorkingSet<Real>& ws, int64_t passes) {
  constexpr int64_t outputs = sizeof(typename Row::Vector) / sizeof(Real);
  PassWork<Real>& pass = ws.pass;
  pass.vectors = (ws.C + outputs - 1) / outputs;
  const int64_t width = pass.vectors * outputs;
  const auto some = load_thresholds(ws, Row::kGrouped) ? descend_some<Row, vectors, true, Real>
                                                       : descend_some<Row, vectors, false, Real>;
  if (vectors == 0) pass.room.reserve(2 * kFeatures * width);
  std::fill_n(pass.W.reserve(ws.ld * width), ws.ld * width, Real(0));
  std::fill_n(pass.live.reserve(ws.ld), ws.ld, char(0));
  for (int64_t c = 0; c < ws.C; ++c)
    for (int64_t k = 0; k < ws.size; ++k) pass.live.get()[k] |= ws.W.get()[c * ws.ld + k] != 0;
  transpose(ws.W.get(), ws.ld, ws.C, ws.size, pass.W.get(), width);
  for (int64_t i = 0; i < passes; ++i)
    for (int64_t k0 = 0; k0 < ws.size; k0 += kFeatures) some(ws, k0);
  transpose(pass.W.get(), width, ws.size, ws.C, ws.W.get(), ws.ld);
}

// Cyclic passes of block coordinate descent over the set.
template <typename Real>
inline void descend(WorkingSet<Real>& ws, int64_t passes) {
  const auto rows = ws.C == 1          ? descend_rows<SingleOutput<Real>, 1, Real>
                    : ws.C <= kOutputs ? descend_rows<OutputVector<Real>, 1, Real>
                                       : descend_rows<OutputVector<Real>, 0, Real>;
  rows(ws, passes);
}

SPARSEDIS_END
