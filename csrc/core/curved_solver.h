// Heads of one task under a loss that is not squared: on a working set, passes over a quadratic
// bound of the loss find the support, Newton steps on the support converge, and a gap is certified
// on all features in double.
#pragma once

#include "curved_newton.h"
#include "sparse_solver.h"

SPARSEDIS_BEGIN

constexpr int kCurvedStages = 5;      // geometric stages from the smallest zero strength down
constexpr int64_t kCurvedPasses = 2;  // passes over the bound before a Newton step

template <typename Real>
struct CurvedWork {
  Curved<Real> data;
  Scores<Real> scores;
  Scores<double> certified;
  CurvedNewton<Real> newton;
  BiasSystem system;
  Buffer<double> g;
  double objective = 0;
};

// Everything a solve of one task goes through.
template <typename Real>
struct CurvedSolve {
  const Task<Real>& task;
  bool fit_intercept;
  const Real* all_features;  // the Gram matrix of A, or null
  double tol;
  SparseWork<Real>& sparse;
  CurvedWork<Real>& curved;
};

// Scores, bias, residual and objective at the set's weights, and q = A'R of the set.
template <typename Real>
inline void evaluate_set(CurvedSolve<Real>& solve) {
  WorkingSet<Real>& ws = solve.sparse.set;
  CurvedWork<Real>& curved = solve.curved;
  Scores<Real>& m = curved.scores;
  multiply(ws.W.get(), m.C, ws.ld, ws.size, ws.Zt.get(), m.ld, m.ld, m.S.get(), m.ld);
  const Real* inverse = curved.data.inverse_root.get();
  for (int64_t c = 0; c < m.C; ++c)
#pragma omp simd
    for (int64_t i = 0; i < m.ld; ++i) m.S.get()[c * m.ld + i] *= inverse[i];
  fit_bias(solve.task.loss, solve.fit_intercept, curved.data, m, curved.system);
  respond(curved.data, m);
  multiply(m.R.get(), m.C, m.ld, solve.task.n, ws.Z.get(), ws.ld, ws.ld, ws.q.get(), ws.ld);
  curved.objective =
      divergence(solve.task.loss, m, m.bias.get(), curved.data.y.get(), curved.data.p.get(), 0.0) +
      penalty_of(ws.penalty(), ws.W.get(), ws.size, ws.C, ws.ld, ws.scale);
}

// The gap of the set's problem at its stage.
template <typename Real>
inline double set_gap(const CurvedSolve<Real>& solve) {
  const WorkingSet<Real>& ws = solve.sparse.set;
  return curved_gap(ws.penalty(), solve.task.loss, solve.curved.data, solve.curved.scores,
                    ws.W.get(), ws.q.get(), ws.size, ws.ld, ws.scale);
}

// The gap of the task at the set's weights, in double; g is left in `sparse.g`.
template <typename Real>
inline double certify(CurvedSolve<Real>& solve) {
  const Task<Real>& task = solve.task;
  CurvedWork<Real>& curved = solve.curved;
  const Real* W = solve.sparse.W.get();
  scatter_weights(solve.sparse.set, task.ld, solve.sparse.W.get());
  evaluate_all(task, solve.fit_intercept, curved.data, W, task.ld, curved.certified, curved.system);
  double* g = curved.g.reserve(task.C * task.ld);
  pull_all(task, curved.certified, g);
  for (int64_t i = 0; i < task.C * task.ld; ++i) solve.sparse.g.get()[i] = static_cast<Real>(g[i]);
  return curved_gap(task.penalty, task.loss, curved.data, curved.certified, W, g, task.M, task.ld,
                    1.0);
}

// The gap at the set's weights; computed in `Real`, and once that meets `tol`, in double.
template <typename Real>
inline double refresh(CurvedSolve<Real>& solve) {
  const Task<Real>& task = solve.task;
  if (sizeof(Real) == 4) {
    const Scores<Real>& m = solve.curved.scores;
    scatter_weights(solve.sparse.set, task.ld, solve.sparse.W.get());
    pull_all(task, m, solve.sparse.g.get());
    const double gap = curved_gap(task.penalty, task.loss, solve.curved.data, m,
                                  solve.sparse.W.get(), solve.sparse.g.get(), task.M, task.ld, 1.0);
    if (gap > solve.tol) return gap;
  }
  return certify(solve);
}

// A Newton step with an exact line search; goes back where the objective would rise.
template <typename Real>
inline void curved_step(CurvedSolve<Real>& solve, double gap) {
  WorkingSet<Real>& ws = solve.sparse.set;
  NewtonWork<Real>& newton = solve.sparse.newton;
  CurvedNewton<Real>& work = solve.curved.newton;
  Scores<Real>& m = solve.curved.scores;
  const Curved<Real>& data = solve.curved.data;
  if (!curved_direction(ws, data, ws.Zt.get(), m, gap, newton, work)) return;
  step_scores(data, newton.system, work);
  load_line(newton);
  const double alpha =
      line_search([&](double at) { return curved_slope(data, m, newton, work, at); });
  clip_step(newton, alpha, ws.nonneg);
  const double before = solve.curved.objective;
  std::copy_n(ws.W.get(), ws.C * ws.ld, work.before_W.reserve(ws.C * ws.ld));
  std::copy_n(m.bias.get(), ws.C, work.before_bias.reserve(ws.C));
  for (int64_t a = 0; a < newton.system.S; ++a)
    for (int64_t c = 0; c < ws.C; ++c)
      ws.W.get()[c * ws.ld + newton.system.row.get()[a]] =
          newton.next.get()[c * newton.system.ld + a];
  for (int64_t c = 0; c < ws.C; ++c) m.bias.get()[c] += alpha * work.term.answer.get()[c];
  evaluate_set(solve);
  const double rounding = (sizeof(Real) == 4 ? 1e-6 : 1e-14) * data.zero;
  if (solve.curved.objective <= before + rounding) return;
  std::copy_n(work.before_W.get(), ws.C * ws.ld, ws.W.get());
  std::copy_n(work.before_bias.get(), ws.C, m.bias.get());
  evaluate_set(solve);
}

// Passes over the quadratic bound and Newton steps until the set's own gap meets `target` (or for
// one round, on the path).
template <typename Real>
inline void solve_curved_set(CurvedSolve<Real>& solve, double target, bool one_round) {
  SparseWork<Real>& sparse = solve.sparse;
  for (int64_t round = 0; round < kRefreshRounds && sparse.steps < sparse.max_steps; ++round) {
    if (solve.task.sparse) {
      passes(sparse, kCurvedPasses);
      evaluate_set(solve);
    }
    const double gap = set_gap(solve);
    if (gap <= target) return;
    ++sparse.steps;
    curved_step(solve, gap);
    if (one_round) return;
  }
}

// The set at the start: W = 0 where the bias is at a limit, and W >= 0 if asked.
template <typename Real>
inline void start_curved(CurvedSolve<Real>& solve, const Real* init) {
  WorkingSet<Real>& ws = solve.sparse.set;
  start_set(solve.task, init, solve.all_features, solve.sparse);
  for (int64_t c = 0; c < ws.C; ++c)
    for (int64_t k = 0; k < ws.size; ++k) {
      Real& w = ws.W.get()[c * ws.ld + k];
      if (solve.curved.data.limit.get()[c] != 0 || (ws.nonneg && w < 0)) w = 0;
    }
  evaluate_set(solve);
}

// Shapes the work of a task that `evaluate_zero` has looked at.
template <typename Real>
inline void shape_curved(CurvedSolve<Real>& solve) {
  const Task<Real>& task = solve.task;
  CurvedWork<Real>& curved = solve.curved;
  for (Scores<Real>* m : {&curved.scores, &curved.newton.trial})
    m->shape(task.C, curved.data.ld, curved.data.limit.get());
  std::copy_n(curved.certified.bias.get(), task.C, curved.scores.bias.get());
  CurvedTerm<Real>& term = curved.newton.term;
  term.loss = task.loss, term.fit_intercept = solve.fit_intercept, term.n = task.n;
  solve.sparse.g.reserve(task.C * task.ld);
}

// Solves a task that is not trivial to a relative gap of `tol`; W (C, task.ld) ends in sparse.W,
// the bias in curved.certified. Returns the gap reached. `init` is (M, C) or null.
template <typename Real>
inline double solve_curved(CurvedSolve<Real>& solve, const Real* init, int64_t max_steps) {
  const Task<Real>& task = solve.task;
  SparseWork<Real>& sparse = solve.sparse;
  sparse.steps = 0, sparse.max_steps = max_steps;
  shape_curved(solve);
  start_curved(solve, init);
  double gap = refresh(solve);
  const bool all = works_on_all(task);
  const bool warm = sum_of_squares(sparse.W.get(), task.C * task.ld) > 0;
  const double start = warm || all ? 1.0 : zero_strength(task, sparse.g.get());
  int stage = start > 1 ? 0 : kCurvedStages;
  double target = kInnerShare * solve.tol;
  while (gap > solve.tol && sparse.steps < max_steps) {
    const bool last = stage == kCurvedStages;
    sparse.set.scale = last ? 1.0 : std::pow(start, 1.0 - (stage + 1.0) / (kCurvedStages + 1.0));
    const bool grew = take_violators(task, solve.all_features, sparse);
    load_correlations(task, sparse);
    solve_curved_set(solve, target, !last);
    const double previous = gap;
    gap = refresh(solve);
    if (last && !grew && gap > previous / 2) target /= 2;
    stage = std::min(stage + 1, kCurvedStages);
  }
  return gap > solve.tol ? certify(solve) : gap;
}

SPARSEDIS_END
