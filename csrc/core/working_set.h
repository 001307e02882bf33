// The features a sparse solve works on: their Gram matrix, correlations and weights, compact; and a
// pass of block coordinate descent over them.
#pragma once

#include "task.h"

SPARSEDIS_BEGIN

// Columns are the set's features, `ld` apart per output: W and q are (C, ld), G is (size, ld).
template <typename Real>
struct WorkingSet {
  int64_t size = 0, C = 0, ld = 0;
  double scale = 1;    // multiplies l1 and group: the stage of the path
  double target2 = 0;  // ||B||^2
  double bend = 1;     // bound of the loss's second derivative: passes take bend * G as Hessian
  Buffer<int64_t> index;
  Buffer<char> member;                // per feature of the task
  Buffer<Real> Z, G, W, q, target_q;  // target_q = Z'B, q = Z'(B - Z W)
  Buffer<Real> l1, group, ridge;
  bool nonneg = false;
  bool held = true;  // the penalty holds rows at zero; else all rows are the support

  TaskPenalty<Real> penalty() const { return {l1.get(), group.get(), ridge.get(), nonneg}; }
};

template <typename Real>
inline void reset(WorkingSet<Real>& ws, const Task<Real>& task, int64_t capacity) {
  ws.size = 0, ws.C = task.C, ws.ld = padded<Real>(capacity);
  ws.scale = 1, ws.target2 = task.target2, ws.nonneg = task.penalty.nonneg;
  ws.bend = loss_curvature(task.loss), ws.held = task.sparse;
  ws.index.reserve(ws.ld);
  std::fill_n(ws.member.reserve(task.M), task.M, char(0));
  std::fill_n(ws.Z.reserve(task.n * ws.ld), task.n * ws.ld, Real(0));
  ws.G.reserve(ws.ld * ws.ld);
  for (Buffer<Real>* rows : {&ws.W, &ws.q, &ws.target_q})
    std::fill_n(rows->reserve(ws.C * ws.ld), ws.C * ws.ld, Real(0));
  for (Buffer<Real>* row : {&ws.l1, &ws.group, &ws.ridge}) row->reserve(ws.ld);
}

// Takes feature j in. `gram_from` then computes the new rows of G.
template <typename Real>
inline void append(WorkingSet<Real>& ws, const Task<Real>& task, int64_t j) {
  const int64_t k = ws.size++;
  ws.index.get()[k] = j;
  ws.member.get()[j] = 1;
  for (int64_t i = 0; i < task.n; ++i) ws.Z.get()[i * ws.ld + k] = task.A.get()[i * task.ld + j];
  ws.l1.get()[k] = task.penalty.l1[j];
  ws.group.get()[k] = task.penalty.group[j];
  ws.ridge.get()[k] = task.penalty.ridge[j];
  for (int64_t c = 0; c < ws.C; ++c) {
    Real sum = 0;
    for (int64_t i = 0; i < task.n; ++i)
      sum += ws.Z.get()[i * ws.ld + k] * task.B.get()[i * ws.C + c];
    ws.target_q.get()[c * ws.ld + k] = sum;
    ws.W.get()[c * ws.ld + k] = 0;
  }
}

// Rows [begin, size) of G: from the Gram matrix of all features where there is one, else from Z.
// Only passes need them, and only a penalty with zeros needs passes.
template <typename Real>
inline void gram_from(WorkingSet<Real>& ws, const Task<Real>& task, int64_t begin,
                      const Real* all_features) {
  if (!task.sparse) return;
  if (all_features == nullptr) {
    gram_columns(ws.Z.get(), task.n, ws.ld, begin, ws.size, ws.G.get(), ws.ld);
    return;
  }
  const int64_t* index = ws.index.get();
  for (int64_t a = begin; a < ws.size; ++a)
    for (int64_t b = 0; b <= a; ++b) {
      const Real g = all_features[index[a] * task.ld + index[b]];
      ws.G.get()[a * ws.ld + b] = ws.G.get()[b * ws.ld + a] = g;
    }
}

// Exact minimiser over row k of the set; false where it does not move. `d` receives the C changes.
template <typename Real>
inline bool update_row(WorkingSet<Real>& ws, int64_t k, Real* d) {
  const int64_t C = ws.C, ld = ws.ld;
  Real *w = ws.W.get() + k, *q = ws.q.get() + k;
  const Real h = static_cast<Real>(ws.bend) * ws.G.get()[k * ld + k];
  const Real l1 = static_cast<Real>(ws.scale * ws.l1.get()[k]);
  const double group = ws.scale * ws.group.get()[k];
  double norm2 = 0;
  for (int64_t c = 0; c < C; ++c) {
    d[c] = soft_threshold(h * w[c * ld] + q[c * ld], l1, ws.nonneg);
    norm2 += static_cast<double>(d[c]) * d[c];
  }
  const double norm = std::sqrt(norm2), curvature = static_cast<double>(h) + ws.ridge.get()[k];
  const double factor = norm > group && curvature > 0 ? (1 - group / norm) / curvature : 0.0;
  bool moved = false;
  for (int64_t c = 0; c < C; ++c) {
    const Real next = static_cast<Real>(factor * d[c]);
    d[c] = next - w[c * ld];
    w[c * ld] = next;
    moved |= d[c] != 0;
  }
  return moved;
}

// One cyclic pass of block coordinate descent; q follows W.
template <typename Real>
inline void descend(WorkingSet<Real>& ws, Real* d) {
  for (int64_t k = 0; k < ws.size; ++k) {
    if (!update_row(ws, k, d)) continue;
    for (int64_t c = 0; c < ws.C; ++c)
      axpy(static_cast<Real>(-ws.bend) * d[c], ws.G.get() + k * ws.ld, ws.q.get() + c * ws.ld,
           ws.size);
  }
}

// The duality gap of the problem restricted to the set, from q and W.
template <typename Real>
inline double restricted_gap(const WorkingSet<Real>& ws) {
  double w_target = 0, w_q = 0;
  for (int64_t c = 0; c < ws.C; ++c) {
    w_target += dot<double>(ws.W.get() + c * ws.ld, ws.target_q.get() + c * ws.ld, ws.size);
    w_q += dot<double>(ws.W.get() + c * ws.ld, ws.q.get() + c * ws.ld, ws.size);
  }
  const TaskPenalty<Real> p = ws.penalty();
  const GapParts parts{w_q, penalty_of(p, ws.W.get(), ws.size, ws.C, ws.ld, ws.scale)};
  const auto loss_of = squared_divergence(std::max(0.0, ws.target2 - w_target - w_q));
  return duality_gap(p, parts, loss_of, ws.q.get(), ws.size, ws.C, ws.ld, ws.scale);
}

SPARSEDIS_END
