// Sparse heads of one task: a working set grown along a path of strengths, block coordinate descent
// on its Gram matrix, Newton on the support, and a gap certified on all features in double sums.
#pragma once

#include "descent.h"
#include "newton.h"

SPARSEDIS_BEGIN

constexpr int kPathStages = 8;          // geometric, a pass each, from the least zero strength down
constexpr int64_t kRefreshRounds = 30;  // rounds after which q is formed anew from the data
constexpr double kInnerShare = 0.8;     // the set is solved to this share of the tolerance

template <typename Real>
struct SparseWork {
  WorkingSet<Real> set;
  NewtonWork<Real> newton;
  Buffer<Real> R, g, W, pull;  // (C, lds), (C, ld) three times; pull = A'B
  Buffer<double> W64, R64, g64;
  Buffer<int64_t> pulled;  // from zero
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
  // Conjugate gradients are cheap where there are samples enough for every feature.
  if (warm) return {C > 1 ? 6 : 2, 2, !all};
  if (C > 1) return {10, 3, false};
  return {all ? 20 : 8, all ? 4 : 6, false};
}

// W of the set, spread over all features: (C, task.ld).
template <typename Real>
inline void scatter_weights(const WorkingSet<Real>& ws, int64_t ld, Real* W) {
  std::fill_n(W, ws.C * ld, Real(0));
  for (int64_t k = 0; k < ws.size; ++k)
    for (int64_t c = 0; c < ws.C; ++c) W[c * ld + ws.index.get()[k]] = ws.W.get()[c * ws.ld + k];
}

// Relative gap of W over all features, given R = B - A W and g = A'R.
template <typename Sum, typename Real>
inline double relative_gap(const Task<Real>& task, const Real* W, const Sum* R, const Sum* g) {
  const int64_t C = task.C;
  double correlation = 0;
  for (int64_t c = 0; c < C; ++c)
    correlation += dot<double>(g + c * task.ld, W + c * task.ld, task.M);
  const GapParts parts{correlation, penalty_of(task.penalty, W, task.M, C, task.ld, 1.0)};
  const auto loss_of = squared_divergence(sum_of_squares(R, C * task.lds));
  const double zero = 0.5 * task.target2;
  return duality_gap(task.penalty, parts, loss_of, g, task.M, C, task.ld, 1.0) / zero;
}

// The same of R alone; g is left in `g`.
template <typename Sum, typename Real>
inline double full_gap(const Task<Real>& task, const Real* W, const Sum* R, Sum* g) {
  multiply(R, task.C, task.lds, task.n, task.A.get(), task.stride, task.ld, g, task.ld);
  return relative_gap(task, W, R, g);
}

// R = B - Z W of the set, (C, lds), for its weights in the type of the sums.
template <typename Sum, typename Real>
inline void set_residual(const Task<Real>& task, const WorkingSet<Real>& ws, const Sum* W, Sum* R) {
  const int64_t lds = task.lds;
  multiply(W, ws.C, ws.ld, ws.size, ws.Zt.get(), lds, lds, R, lds);
  const Real* B = task.B.get();
#pragma omp simd
  for (int64_t i = 0; i < ws.C * lds; ++i) R[i] = static_cast<Sum>(B[i]) - R[i];
}

// The gap of the current weights, computed in `Real`.
template <typename Real>
inline double estimate(const Task<Real>& task, SparseWork<Real>& work) {
  Real *R = work.R.reserve(task.C * task.lds), *g = work.g.reserve(task.C * task.ld);
  scatter_weights(work.set, task.ld, work.W.get());
  set_residual(task, work.set, work.set.W.get(), R);
  return full_gap(task, work.W.get(), R, g);
}

// The same in double sums.
template <typename Real>
inline double certify(const Task<Real>& task, SparseWork<Real>& work) {
  if (sizeof(Real) == 8) return estimate(task, work);
  const WorkingSet<Real>& ws = work.set;
  const int64_t weights = ws.C * ws.ld, columns = task.C * task.ld;
  double *W64 = work.W64.reserve(weights), *R64 = work.R64.reserve(task.C * task.lds),
         *g64 = work.g64.reserve(columns);
  scatter_weights(ws, task.ld, work.W.get());
  std::copy_n(ws.W.get(), weights, W64);
  set_residual(task, ws, W64, R64);
  const double gap = full_gap(task, work.W.get(), R64, g64);
  Real* g = work.g.reserve(columns);
  for (int64_t i = 0; i < columns; ++i) g[i] = static_cast<Real>(g64[i]);
  return gap;
}

// The strength, in units of the penalty, at which every feature of g is held at zero.
template <typename Real>
inline double zero_strength(const Task<Real>& task, const Real* g) {
  const TaskPenalty<Real>& p = task.penalty;
  double largest = 0;
  for_each_norm(p, g, task.M, task.C, task.ld, 0.0, [&](int64_t j, double norm) {
    const double l1 = p.l1[j], group = p.group[j];
    // Features that only ridge penalises are never held; they do not set the path.
    if (l1 + group == 0 || !(norm > largest * group)) return;
    if (l1 == 0 || task.C == 1) {
      largest = std::max(largest, norm / (l1 + group));
    } else if (thresholded(g + j, task.C, task.ld, largest, l1, p.nonneg).norm > largest * group) {
      largest = std::max(largest, dual_norm(g + j, task.C, task.ld, l1, group, p.nonneg));
    }
  });
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
  int64_t *pulled = work.pulled.reserve(task.M), count = 0;
  for_each_norm(p, work.g.get(), task.M, task.C, task.ld, ws.scale, [&](int64_t j, double pull) {
    pulled[count] = j;  // whether to keep it is no branch, which would often be mispredicted
    count += !ws.member.get()[j] & (pull > ws.scale * p.group[j]);
  });
  int64_t begin = ws.size;
  for (int64_t i = 0; i < count; ++i) {
    if (ws.size == ws.ld) {
      load_columns(ws, task, begin, work.target(task), all_features);
      make_room(task, all_features, work);
      begin = ws.size;
    }
    append(ws, task, pulled[i]);
  }
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
  count = std::min(count, work.max_steps - work.steps);
  descend(work.set, count);
  work.steps += count;
}

// Passes and Newton steps until the set's own gap meets `target`.
template <typename Real>
inline void solve_set(SparseWork<Real>& work, Rhythm rhythm, double target) {
  const double zero = 0.5 * work.set.target2;
  passes(work, rhythm.first);
  for (int64_t round = 0; round < kRefreshRounds && work.steps < work.max_steps; ++round) {
    const double gap = restricted_gap(work.set) / zero;
    if (gap <= target) return;
    ++work.steps;
    newton_step(work.set, work.newton, NewtonRule{rhythm.direct, gap});
    passes(work, rhythm.between);
  }
}

// Starts the set: all features, or the support of the warm start.
template <typename Real>
inline void start_set(const Task<Real>& task, const Real* init, bool all, const Real* all_features,
                      SparseWork<Real>& work) {
  WorkingSet<Real>& ws = work.set;
  if (task.loss == kSquared)
    multiply(task.B.get(), task.C, task.lds, task.n, task.A.get(), task.stride, task.ld,
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

// The gap at the start, and g = A'R.
template <typename Real>
inline double start_gap(const Task<Real>& task, bool warm, double tol, SparseWork<Real>& work) {
  if (warm) {
    const double gap = estimate(task, work);
    return gap > tol ? gap : certify(task, work);
  }
  const int64_t columns = task.C * task.ld;
  std::copy_n(work.pull.get(), columns, work.g.reserve(columns));
  std::fill_n(work.W.get(), columns, Real(0));
  return relative_gap(task, work.W.get(), task.B.get(), work.g.get());
}

// g = A'R at the set's weights; q of a set of all features has it.
template <typename Real>
inline void correlate(const Task<Real>& task, SparseWork<Real>& work) {
  const WorkingSet<Real>& ws = work.set;
  if (ws.size == task.M) {
    for (int64_t c = 0; c < ws.C; ++c)
      for (int64_t k = 0; k < ws.size; ++k)
        work.g.get()[c * task.ld + ws.index.get()[k]] = ws.q.get()[c * ws.ld + k];
    return;
  }
  Real* R = work.R.reserve(task.C * task.lds);
  set_residual(task, ws, ws.W.get(), R);
  multiply(R, task.C, task.lds, task.n, task.A.get(), task.stride, task.ld, work.g.get(), task.ld);
}

// From W = 0 down to the penalty through stages of a pass each, so that the set never holds
// many more features than its stage has.
template <typename Real>
inline void follow_path(const Task<Real>& task, const Real* all_features, SparseWork<Real>& work) {
  const double start = zero_strength(task, work.g.get());
  for (int stage = 1; stage <= kPathStages && start > 1; ++stage) {
    work.set.scale = std::pow(start, 1.0 - stage / (kPathStages + 1.0));
    take_violators(task, all_features, work);
    load_correlations(task, work);
    passes(work, 1);
    correlate(task, work);
  }
  work.set.scale = 1;
}

// Solves the task to a relative gap of `tol`; W of shape (C, task.ld) ends in work.W. Returns the
// gap reached. `init` is (M, C) or null; `all_features` is the Gram matrix of A, or null.
template <typename Real>
inline double solve_sparse(const Task<Real>& task, const Real* init, double tol, int64_t max_steps,
                           const Real* all_features, SparseWork<Real>& work) {
  const bool all = works_on_all(task), warm = init && sum_of_squares(init, task.M * task.C) > 0;
  work.steps = 0, work.max_steps = max_steps;
  work.W.reserve(task.C * task.ld);
  start_set(task, init, all && !warm, all_features, work);
  double gap = start_gap(task, warm, tol, work), target = kInnerShare * tol;
  if (gap <= tol) return gap;
  if (!warm) follow_path(task, all_features, work);
  do {  // once even where the path took all steps: what it left has a gap of its own
    const bool grew = take_violators(task, all_features, work);
    load_correlations(task, work);
    solve_set(work, rhythm_of(warm, all, task.C), target);
    const double previous = gap;
    gap = certify(task, work);
    if (!grew && gap > previous / 2) target /= 2;
  } while (gap > tol && work.steps < max_steps);
  return gap;
}

SPARSEDIS_END
