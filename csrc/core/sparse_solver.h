// Sparse heads of one task: a working set grown along a path of strengths, block coordinate descent
// on its Gram matrix, Newton on the support, and a gap certified on all features in double sums.
#pragma once

#include "newton.h"

SPARSEDIS_BEGIN

constexpr int kPathStages = 5;          // geometric stages from the smallest zero strength down
constexpr int64_t kRefreshRounds = 30;  // rounds after which q is formed anew from the data
constexpr double kInnerShare = 0.8;     // the set is solved to this share of the tolerance

template <typename Real>
struct SparseWork {
  WorkingSet<Real> set;
  NewtonWork<Real> newton;
  Buffer<Real> R, g, W, pull;  // (C, lds), (C, ld) three times; pull = A'B
  Buffer<double> R64, g64;
  int64_t steps = 0, max_steps = 0;

  // A'B where it is of use.
  const Real* target(const Task<Real>& task) const {
    return task.loss == kSquared ? pull.get() : nullptr;
  }
};

// How many passes precede a Newton step; `cold` starts far away, where a Newton step is wasted.
struct Rhythm {
  int64_t first, between;
  bool direct;
};

template <typename Real>
inline bool works_on_all(const Task<Real>& task) {
  // Beside Newton steps on curved losses a Gram matrix is cheap, and a path is not.
  const int64_t rows = task.loss == kSquared ? task.n : 2 * task.n;
  return rows >= task.M || (task.C == 1 && task.M <= 64) || !task.sparse;
}

inline Rhythm rhythm_of(bool warm, bool all, int64_t C) {
  if (warm) return {2, 2, true};
  if (all) return {C > 1 ? 7 : 12, C > 1 ? 7 : 4, false};
  return {C > 1 ? 4 : 2, C > 1 ? 4 : 2, false};
}

// W of the set, spread over all features: (C, task.ld).
template <typename Real>
inline void scatter_weights(const WorkingSet<Real>& ws, int64_t ld, Real* W) {
  std::fill_n(W, ws.C * ld, Real(0));
  for (int64_t k = 0; k < ws.size; ++k)
    for (int64_t c = 0; c < ws.C; ++c) W[c * ld + ws.index.get()[k]] = ws.W.get()[c * ws.ld + k];
}

// Relative gap of W over all features, given R = B - A W; g = A'R is left in `g`.
template <typename Sum, typename Real>
inline double full_gap(const Task<Real>& task, const Real* W, const Sum* R, Sum* g) {
  const int64_t C = task.C;
  multiply(R, C, task.lds, task.n, task.A.get(), task.ld, task.ld, g, task.ld);
  double correlation = 0;
  for (int64_t c = 0; c < C; ++c)
    correlation += dot<double>(g + c * task.ld, W + c * task.ld, task.M);
  const GapParts parts{correlation, penalty_of(task.penalty, W, task.M, C, task.ld, 1.0)};
  const auto loss_of = squared_divergence(sum_of_squares(R, C * task.lds));
  const double zero = 0.5 * task.target2;
  return duality_gap(task.penalty, parts, loss_of, g, task.M, C, task.ld, 1.0) / zero;
}

// R = B - Z W of the set, (C, lds).
template <typename Sum, typename Real>
inline void set_residual(const Task<Real>& task, const WorkingSet<Real>& ws, Sum* R) {
  const int64_t lds = task.lds;
  multiply(ws.W.get(), ws.C, ws.ld, ws.size, ws.Zt.get(), lds, lds, R, lds);
  const Real* B = task.B.get();
#pragma omp simd
  for (int64_t i = 0; i < ws.C * lds; ++i) R[i] = static_cast<Sum>(B[i]) - R[i];
}

// The gap of the current weights; computed in `Real`, and once that meets `tol`, in double.
template <typename Real>
inline double refresh(const Task<Real>& task, double tol, SparseWork<Real>& work) {
  const int64_t rows = task.C * task.lds, columns = task.C * task.ld;
  Real *R = work.R.reserve(rows), *g = work.g.reserve(columns);
  scatter_weights(work.set, task.ld, work.W.get());
  set_residual(task, work.set, R);
  double gap = full_gap(task, work.W.get(), R, g);
  if (sizeof(Real) == 8 || gap > tol) return gap;
  double *R64 = work.R64.reserve(rows), *g64 = work.g64.reserve(columns);
  set_residual(task, work.set, R64);
  gap = full_gap(task, work.W.get(), R64, g64);
  for (int64_t i = 0; i < columns; ++i) g[i] = static_cast<Real>(g64[i]);
  return gap;
}

// The strength, in units of the penalty, at which every feature of g is held at zero.
template <typename Real>
inline double zero_strength(const Task<Real>& task, const Real* g) {
  double largest = 0;
  for (int64_t j = 0; j < task.M; ++j) {
    const double nu = dual_norm(g + j, task.C, task.ld, task.penalty.l1[j], task.penalty.group[j],
                                task.penalty.nonneg);
    // Features that only ridge penalises are never held; they do not set the path.
    if (nu < std::numeric_limits<double>::infinity()) largest = std::max(largest, nu);
  }
  return largest;
}

// A set that is full is laid out anew with twice the room, its weights kept.
template <typename Real>
inline void make_room(const Task<Real>& task, const Real* all_features, SparseWork<Real>& work) {
  WorkingSet<Real>& ws = work.set;
  scatter_weights(ws, task.ld, work.W.get());
  Buffer<int64_t> old(ws.size);
  std::copy_n(ws.index.get(), ws.size, old.get());
  const int64_t size = ws.size;
  const double scale = ws.scale;
  reset(ws, task, std::min(task.M, 2 * ws.ld));
  ws.scale = scale;
  for (int64_t k = 0; k < size; ++k) {
    append(ws, task, old.get()[k]);
    for (int64_t c = 0; c < ws.C; ++c)
      ws.W.get()[c * ws.ld + k] = work.W.get()[c * task.ld + old.get()[k]];
  }
  load_columns(ws, task, 0, work.target(task), all_features);
}

// Takes in every feature that g pulls from zero at the set's stage; false if there was none.
template <typename Real>
inline bool take_violators(const Task<Real>& task, const Real* all_features,
                           SparseWork<Real>& work) {
  WorkingSet<Real>& ws = work.set;
  const TaskPenalty<Real>& p = task.penalty;
  int64_t begin = ws.size;
  for_each_norm(p, work.g.get(), task.M, task.C, task.ld, ws.scale, [&](int64_t j, double pull) {
    if (ws.member.get()[j] || !(pull > ws.scale * p.group[j])) return;
    if (ws.size == ws.ld) {
      load_columns(ws, task, begin, work.target(task), all_features);
      make_room(task, all_features, work);
      begin = ws.size;
    }
    append(ws, task, j);
  });
  const bool any = ws.size > begin;
  load_columns(ws, task, begin, work.target(task), all_features);
  return any;
}

template <typename Real>
inline void load_correlations(const Task<Real>& task, SparseWork<Real>& work) {
  WorkingSet<Real>& ws = work.set;
  for (int64_t c = 0; c < ws.C; ++c)
    for (int64_t k = 0; k < ws.size; ++k)
      ws.q.get()[c * ws.ld + k] = work.g.get()[c * task.ld + ws.index.get()[k]];
}

template <typename Real>
inline void passes(SparseWork<Real>& work, int64_t count) {
  for (int64_t i = 0; i < count && work.steps < work.max_steps; ++i, ++work.steps)
    descend(work.set);
}

// Passes and Newton steps until the set's own gap meets `target` (or for one round, on the path).
template <typename Real>
inline void solve_set(SparseWork<Real>& work, Rhythm rhythm, double target, bool one_round) {
  const double zero = 0.5 * work.set.target2;
  passes(work, rhythm.first);
  for (int64_t round = 0; round < kRefreshRounds && work.steps < work.max_steps; ++round) {
    const double gap = restricted_gap(work.set) / zero;
    if (gap <= target) return;
    ++work.steps;
    newton_step(work.set, work.newton, NewtonRule{rhythm.direct, gap});
    if (one_round) return;
    passes(work, rhythm.between);
  }
}

// Starts the set: all features, or the support of the warm start.
template <typename Real>
inline void start_set(const Task<Real>& task, const Real* init, const Real* all_features,
                      SparseWork<Real>& work) {
  WorkingSet<Real>& ws = work.set;
  const bool all = works_on_all(task);
  if (task.loss == kSquared)
    multiply(task.B.get(), task.C, task.lds, task.n, task.A.get(), task.ld, task.ld,
             work.pull.reserve(task.C * task.ld), task.ld);
  reset(ws, task, all ? task.M : std::min<int64_t>(task.M, 512));
  for (int64_t j = 0; j < task.M; ++j) {
    bool live = false;
    for (int64_t c = 0; c < task.C && init; ++c) live |= init[j * task.C + c] != 0;
    if (!all && !live) continue;
    if (ws.size == ws.ld) make_room<Real>(task, nullptr, work);
    append(ws, task, j);
    for (int64_t c = 0; c < task.C && init; ++c)
      ws.W.get()[c * ws.ld + ws.size - 1] = init[j * task.C + c];
  }
  load_columns(ws, task, 0, work.target(task), all_features);
}

// Solves the task to a relative gap of `tol`; W of shape (C, task.ld) ends in work.W. Returns the
// gap reached. `init` is (M, C) or null; `all_features` is the Gram matrix of A, or null.
template <typename Real>
inline double solve_sparse(const Task<Real>& task, const Real* init, double tol, int64_t max_steps,
                           const Real* all_features, SparseWork<Real>& work) {
  const bool all = works_on_all(task);
  work.steps = 0, work.max_steps = max_steps;
  work.W.reserve(task.C * task.ld);
  start_set(task, init, all_features, work);
  double gap = refresh(task, tol, work);
  const bool warm = sum_of_squares(work.W.get(), task.C * task.ld) > 0;
  const double start = warm || all ? 1.0 : zero_strength(task, work.g.get());
  int stage = start > 1 ? 0 : kPathStages;
  double target = kInnerShare * tol;
  while (gap > tol && work.steps < max_steps) {
    const bool last = stage == kPathStages;
    work.set.scale = last ? 1.0 : std::pow(start, 1.0 - (stage + 1.0) / (kPathStages + 1.0));
    const bool grew = take_violators(task, all_features, work);
    load_correlations(task, work);
    solve_set(work, rhythm_of(warm, all, task.C), target, !last);
    const double previous = gap;
    gap = refresh(task, tol, work);
    if (last && !grew && gap > previous / 2) target /= 2;
    stage = std::min(stage + 1, kPathStages);
  }
  return gap;
}

SPARSEDIS_END
