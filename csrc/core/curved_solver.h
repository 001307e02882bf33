// Heads of one task under a loss that is not squared: on a working set, passes over a quadratic
// model of the loss find the support, Newton steps on the support converge, and a gap is certified
// on all features in double.
#pragma once

#include "curved_newton.h"
#include "sparse_solver.h"

SPARSEDIS_BEGIN

constexpr int kCurvedStages = 5;      // geometric stages from the smallest zero strength down
constexpr int64_t kCurvedPasses = 2;  // over one quadratic model
constexpr double kStiff = 1.15;       // curvature of the first model, in units of the mean
constexpr double kNearGap = 0.07;  // a gap from which on every model is followed by a Newton step
constexpr double kFast = 0.6;      // passes that leave less than this of the gap need no Newton
constexpr int kHalvings = 12;      // of a Newton step
constexpr double kDescent = 0.1;   // share of what the slope promises that a step has to gain
template <typename Real>
constexpr double kFallRounding = sizeof(Real) == 4 ? 1e-6 : 1e-14;  // of an objective's fall
constexpr double kBiasShare = 0.05;  // of the tolerance that a bias may cost the gap

template <typename Real>
struct CurvedWork {
  Curved<Real> data;
  Scores<Real> scores;
  Scores<double> certified;
  CurvedTerm<Real> term;
  BiasSystem system;
  Buffer<double> g;
  Buffer<Real> before_W;  // the set's weights and bias, to go back to
  Buffer<double> before_bias;
  double objective = 0, before = 0;
  double stiffness = kStiff;
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

  // The decrement of the bias at which its gradient, which the gap is blind to, costs little.
  double enough(double share) const {
    const double least = share * std::max(tol, 0.0) * curved.data.zero;
    return std::max(least * least, small_decrement<double>());
  }
};

// S of the set's weights, their best bias, and R.
template <typename Real, typename Sum>
inline void respond_set(CurvedSolve<Real>& solve, Scores<Sum>& m, double enough) {
  const WorkingSet<Real>& ws = solve.sparse.set;
  CurvedWork<Real>& curved = solve.curved;
  multiply(ws.W.get(), m.C, ws.ld, ws.size, ws.Zt.get(), m.ld, m.ld, m.S.get(), m.ld);
  const Real* inverse = curved.data.inverse_root.get();
  for (int64_t c = 0; c < m.C; ++c)
#pragma omp simd
    for (int64_t i = 0; i < m.ld; ++i) m.S.get()[c * m.ld + i] *= inverse[i];
  fit_bias(solve.task.loss, solve.fit_intercept, curved.data, m, curved.system, enough);
  respond(curved.data, m);
}

// Scores, bias, residual and objective at the set's weights, and q = A'R of the set.
template <typename Real>
inline void evaluate_set(CurvedSolve<Real>& solve) {
  WorkingSet<Real>& ws = solve.sparse.set;
  CurvedWork<Real>& curved = solve.curved;
  Scores<Real>& m = curved.scores;
  respond_set(solve, m, std::max(solve.enough(kBiasShare), small_decrement<Real>()));
  multiply(m.R.get(), m.C, m.ld, solve.task.n, ws.Z.get(), ws.ld, ws.size, ws.q.get(), ws.ld);
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
  Scores<double>& m = curved.certified;
  scatter_weights(solve.sparse.set, task.ld, solve.sparse.W.get());
  std::copy_n(curved.scores.bias.get(), task.C, m.bias.get());
  respond_set(solve, m, small_decrement<double>());  // no gap holds for another bias
  double* g = curved.g.reserve(task.C * task.ld);
  pull_all(task, m, g);
  for (int64_t i = 0; i < task.C * task.ld; ++i) solve.sparse.g.get()[i] = static_cast<Real>(g[i]);
  return curved_gap(task.penalty, task.loss, curved.data, m, solve.sparse.W.get(), g, task.M,
                    task.ld, 1.0);
}

// The gap at the set's weights; computed in `Real`, and once that meets `tol`, in double. Leaves
// `sparse.g` where a feature is not in the set.
template <typename Real>
inline double refresh(CurvedSolve<Real>& solve) {
  const Task<Real>& task = solve.task;
  const WorkingSet<Real>& ws = solve.sparse.set;
  double gap = 0;
  if (ws.size == task.M && ws.scale == 1) {
    gap = set_gap(solve);
  } else if (sizeof(Real) == 4) {
    const Scores<Real>& m = solve.curved.scores;
    scatter_weights(ws, task.ld, solve.sparse.W.get());
    pull_all(task, m, solve.sparse.g.get());
    gap = curved_gap(task.penalty, task.loss, solve.curved.data, m, solve.sparse.W.get(),
                     solve.sparse.g.get(), task.M, task.ld, 1.0);
  }
  return gap > solve.tol ? gap : certify(solve);
}

// What `go_back` goes back to.
template <typename Real>
inline void remember(CurvedSolve<Real>& solve) {
  const WorkingSet<Real>& ws = solve.sparse.set;
  CurvedWork<Real>& curved = solve.curved;
  curved.before = curved.objective;
  std::copy_n(ws.W.get(), ws.C * ws.ld, curved.before_W.reserve(ws.C * ws.ld));
  std::copy_n(curved.scores.bias.get(), ws.C, curved.before_bias.reserve(ws.C));
}

template <typename Real>
inline void go_back(CurvedSolve<Real>& solve) {
  WorkingSet<Real>& ws = solve.sparse.set;
  std::copy_n(solve.curved.before_W.get(), ws.C * ws.ld, ws.W.get());
  std::copy_n(solve.curved.before_bias.get(), ws.C, solve.curved.scores.bias.get());
  evaluate_set(solve);
}

// Whether the objective has fallen by `promised` since `remember`, up to rounding.
template <typename Real>
inline bool has_fallen(const CurvedSolve<Real>& solve, double promised) {
  const CurvedWork<Real>& curved = solve.curved;
  return curved.objective <= curved.before - promised + kFallRounding<Real> * curved.data.zero;
}

// Passes over a quadratic model whose Hessian is the Gram matrix times the mean curvature of the
// loss. Where the objective rises the model was not stiff enough: with the bound of the curvature
// it cannot.
template <typename Real>
inline void curved_passes(CurvedSolve<Real>& solve) {
  const Task<Real>& task = solve.task;
  CurvedWork<Real>& curved = solve.curved;
  WorkingSet<Real>& ws = solve.sparse.set;
  const double bound = loss_curvature(task.loss);
  const double mean = mean_curvature(task.loss, curved.data, curved.scores);
  ws.bend = std::min(bound, curved.stiffness * mean);
  load_inverses(ws, 0);
  remember(solve);
  passes(solve.sparse, kCurvedPasses);
  evaluate_set(solve);
  if (has_fallen(solve, 0) || ws.bend == bound) return;
  curved.stiffness *= 2;
  go_back(solve);
}

// A Newton step, halved until the objective falls. Rows and entries that would turn over stop at
// zero, many at once, where a step along a line would have to end at the first of them.
template <typename Real>
inline void curved_step(CurvedSolve<Real>& solve, double gap) {
  WorkingSet<Real>& ws = solve.sparse.set;
  NewtonWork<Real>& newton = solve.sparse.newton;
  CurvedWork<Real>& curved = solve.curved;
  const SupportSystem<Real>& s = newton.system;
  const int64_t S = curved_direction(ws, curved.data, curved.scores, solve.fit_intercept, gap,
                                     newton, curved.term);
  if (S == 0) return;
  const double slope = inner(s, s.x.get(), s.r.get());
  remember(solve);
  load_line(newton);
  double length = 1;
  for (int halving = 0; halving < kHalvings; ++halving, length /= 2) {
    clip_step(newton, length, ws.nonneg);
    for (int64_t c = 0; c < ws.C; ++c) {
      for (int64_t a = 0; a < S; ++a)
        ws.W.get()[c * ws.ld + s.row.get()[a]] = newton.next.get()[c * s.ld + a];
      const double shift = solve.fit_intercept ? s.x.get()[c * s.ld + S] : 0.0;
      curved.scores.bias.get()[c] = curved.before_bias.get()[c] + length * shift;
    }
    evaluate_set(solve);
    if (has_fallen(solve, kDescent * length * slope)) return;
  }
  go_back(solve);
}

// Passes and Newton steps until the set's own gap meets `target` (or a few passes, on the path).
template <typename Real>
inline void solve_curved_set(CurvedSolve<Real>& solve, double target, bool one_round) {
  SparseWork<Real>& sparse = solve.sparse;
  double previous = std::numeric_limits<double>::infinity();
  for (int64_t round = 0; round < kRefreshRounds && sparse.steps < sparse.max_steps; ++round) {
    if (solve.task.sparse) curved_passes(solve);
    if (one_round) return;
    const double gap = set_gap(solve);
    if (gap <= target || sparse.steps >= sparse.max_steps) return;
    const bool fast = solve.task.sparse && gap > kNearGap && gap < kFast * previous;
    previous = gap;
    if (fast) continue;
    ++sparse.steps;
    curved_step(solve, gap);
    if (solve.task.sparse && set_gap(solve) <= target) return;
  }
}

// The set at the start: W = 0 where the bias is at a limit, and W >= 0 if asked.
template <typename Real>
inline void start_curved(CurvedSolve<Real>& solve, const Real* init) {
  WorkingSet<Real>& ws = solve.sparse.set;
  start_set(solve.task, init, works_on_all(solve.task), solve.all_features, solve.sparse);
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
  curved.scores.shape(task.C, curved.data.ld, curved.data.limit.get());
  curved.stiffness = kStiff;
  std::copy_n(curved.certified.bias.get(), task.C, curved.scores.bias.get());
  CurvedTerm<Real>& term = curved.term;
  term.loss = task.loss, term.fit_intercept = false, term.n = task.n;  // the bias is a row
  term.gathered_size = 0;
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
  const bool warm = sum_of_squares(sparse.set.W.get(), task.C * sparse.set.ld) > 0;
  const double start = warm || all ? 1.0 : zero_strength(task, sparse.g.get());
  int stage = start > 1 ? 0 : kCurvedStages;
  double target = kInnerShare * solve.tol;
  while (gap > solve.tol && sparse.steps < max_steps) {
    const bool last = stage == kCurvedStages;
    sparse.set.scale = last ? 1.0 : std::pow(start, 1.0 - (stage + 1.0) / (kCurvedStages + 1.0));
    const bool grew = sparse.set.size < task.M && take_violators(task, solve.all_features, sparse);
    if (grew) load_correlations(task, sparse);
    solve_curved_set(solve, target, !last);
    const double previous = gap;
    gap = refresh(solve);
    if (last && !grew && gap > previous / 2) target /= 2;
    stage = std::min(stage + 1, kCurvedStages);
  }
  return gap > solve.tol ? certify(solve) : gap;
}

SPARSEDIS_END
