// The features a sparse solve works on: their Gram matrix, correlations and weights, compact.
#pragma once

#include "task.h"

SPARSEDIS_BEGIN

// What passes of block coordinate descent need of every feature.
template <typename Real>
struct PassWork {
  Buffer<Real> room, moves;         // of features that move together
  Buffer<Real> curvature, l1, low;  // of the loss; the thresholds above 0 and below
  Buffer<Real> level, held,
      taken;  // 1 / group, 1 and the inverse curvature; 1, 0 and 0 without one
};

// Columns are the set's features, `ld` apart per output: W and q are (C, ld), G is (size, ld).
template <typename Real>
struct WorkingSet {
  int64_t size = 0, C = 0, ld = 0;
  double scale = 1;    // multiplies l1 and group: the stage of the path
  double target2 = 0;  // ||B||^2
  double bend = 1;     // of the loss: passes take bend * G as its Hessian
  Buffer<int64_t> index;
  Buffer<char> member;                     // per feature of the task
  Buffer<Real> Z, Zt, G, W, q, target_q;   // Zt (ld, lds); target_q = Z'B, q = Z'(B - Z W)
  Buffer<Real> l1, group, ridge, inverse;  // inverse: of the curvature a pass takes
  PassWork<Real> pass;
  bool nonneg = false;
  bool held = true;  // the penalty holds rows at zero; else all rows are the support

  TaskPenalty<Real> penalty() const { return {l1.get(), group.get(), ridge.get(), nonneg}; }
};

template <typename Real>
inline void reset(WorkingSet<Real>& ws, const Task<Real>& task, int64_t capacity) {
  ws.size = 0, ws.C = task.C, ws.ld = matrix_stride<Real>(capacity);
  ws.scale = 1, ws.target2 = task.target2, ws.nonneg = task.penalty.nonneg;
  ws.bend = loss_curvature(task.loss), ws.held = task.sparse;
  ws.index.reserve(ws.ld);
  std::fill_n(ws.member.reserve(task.M), task.M, char(0));
  ws.Z.reserve(task.n * ws.ld);
  Real* Zt = ws.Zt.reserve(ws.ld * task.lds);
  for (int64_t k = 0; k < ws.ld; ++k)
    std::fill(Zt + k * task.lds + task.n, Zt + (k + 1) * task.lds, Real(0));
  ws.G.reserve(ws.ld * ws.ld);
  for (Buffer<Real>* rows : {&ws.W, &ws.q, &ws.target_q})
    std::fill_n(rows->reserve(ws.C * ws.ld), ws.C * ws.ld, Real(0));
  for (Buffer<Real>* row : {&ws.l1, &ws.group, &ws.ridge, &ws.inverse})
    std::fill_n(row->reserve(ws.ld), ws.ld, Real(0));
}

// Takes feature j in. `load_columns` then loads its column and rows of G.
template <typename Real>
inline void append(WorkingSet<Real>& ws, const Task<Real>& task, int64_t j) {
  const int64_t k = ws.size++;
  ws.index.get()[k] = j;
  ws.member.get()[j] = 1;
  ws.l1.get()[k] = task.penalty.l1[j];
  ws.group.get()[k] = task.penalty.group[j];
  ws.ridge.get()[k] = task.penalty.ridge[j];
  for (int64_t c = 0; c < ws.C; ++c) ws.W.get()[c * ws.ld + k] = 0;
}

// Rows [begin, size) of G, from the Gram matrix of all features.
template <typename Real>
inline void copy_gram(WorkingSet<Real>& ws, int64_t ld, int64_t begin, const Real* all_features) {
  const int64_t* index = ws.index.get();
  for (int64_t a = begin; a < ws.size; ++a)
    for (int64_t b = 0; b <= a; ++b) {
      const Real g = all_features[index[a] * ld + index[b]];
      ws.G.get()[a * ws.ld + b] = ws.G.get()[b * ws.ld + a] = g;
    }
}

// The inverse curvature, bend * G_kk + ridge, of features [begin, size).
template <typename Real>
inline void load_inverses(WorkingSet<Real>& ws, int64_t begin) {
  for (int64_t k = begin; k < ws.size; ++k) {
    const Real curvature =
        static_cast<Real>(ws.bend) * ws.G.get()[k * ws.ld + k] + ws.ridge.get()[k];
    ws.inverse.get()[k] = curvature > 0 ? 1 / curvature : Real(0);
  }
}

// What features [begin, size) need: columns of Z and their transpose, Z'B from `pull` = A'B (or
// null, where the loss is not squared), rows of G. Only passes need G, and only a penalty with
// zeros needs passes.
template <typename Real>
inline void load_columns(WorkingSet<Real>& ws, const Task<Real>& task, int64_t begin,
                         const Real* pull, const Real* all_features) {
  if (begin == ws.size) return;
  const int64_t* index = ws.index.get();
  // All features in their order need no copy; the other losses take rows of Z later.
  const bool all = begin == 0 && ws.size == task.M && task.loss == kSquared &&
                   std::is_sorted(index, index + ws.size);
  for (int64_t i = 0; i < task.n && !all; ++i) {
    const Real* row = task.A.get() + i * task.stride;
    Real* to = ws.Z.get() + i * ws.ld;
    for (int64_t k = begin; k < ws.size; ++k) to[k] = row[index[k]];
    std::fill(to + ws.size, to + padded<Real>(ws.size), Real(0));
  }
  const Real* Z = all ? task.A.get() : ws.Z.get();
  const int64_t stride = all ? task.stride : ws.ld;
  transpose(Z + begin, stride, task.n, ws.size - begin, ws.Zt.get() + begin * task.lds, task.lds);
  for (int64_t c = 0; c < ws.C && pull; ++c)
    for (int64_t k = begin; k < ws.size; ++k)
      ws.target_q.get()[c * ws.ld + k] = pull[c * task.ld + index[k]];
  if (!task.sparse) return;
  if (all_features != nullptr) {
    copy_gram(ws, task.ld, begin, all_features);
  } else {
    gram_columns(Z, task.n, stride, begin, ws.size, ws.G.get(), ws.ld);
  }
  load_inverses(ws, begin);
}

// q -= bend * moves G[rows] after `count` rows have moved; moves (c, m) is at m * step + c * row.
template <typename Real>
inline void follow(WorkingSet<Real>& ws, const int64_t* rows, int64_t count, const Real* moves,
                   int64_t step, int64_t row) {
  const int64_t ld = ws.ld;
  for_each_rows(ws.C, [&](int64_t c, auto outputs) {
    constexpr int some = decltype(outputs)::value;
    for_each_columns<some, Real>(ws.size, [&](int64_t b, auto vectors) {
      Tile<some, Real, decltype(vectors)::value> tile, moved;
      moved.clear();
      for (int64_t m = 0; m < count; ++m)
        moved.add_product(moves + m * step + c * row, row, ws.G.get() + rows[m] * ld + b);
      tile.load(ws.q.get() + c * ld + b, ld);
      tile.add(static_cast<Real>(-ws.bend), moved);
      tile.store(ws.q.get() + c * ld + b, ld);
    });
  });
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
