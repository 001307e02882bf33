// One task from samples to head weights: load, choose the method, solve, write.
#pragma once

#include "curved_solver.h"
#include "ridge.h"

SPARSEDIS_BEGIN

// What tasks with one design have in common.
template <typename Real>
struct SharedDesign {
  bool same = false;           // samples and their weights, in every task
  bool one_ridge = false;      // every task has the ridge of the first, too
  const Real* gram = nullptr;  // of all features, or null
};

template <typename Real>
struct HeadWork {
  Task<Real> task;
  bool loaded = false, finite = false;  // the design that all tasks share, in `task`
  SpdSystem<Real> ridge;
  SparseWork<Real> sparse;
  CurvedWork<Real> curved;
  Task<double> exact;  // of ridge heads that float32 does not solve
  SpdSystem<double> exact_ridge;
};

template <typename Real>
struct HeadOutput {
  Real *weight, *bias, *gap;  // (M, C), (C), (1)
  int32_t *n_iter, *status;
};

// Those of task t.
template <typename Real>
inline HeadOutput<Real> head_output(const HeadsArgs<Real>& a, int64_t t) {
  const int64_t C = a.samples.C;
  return {a.weight + t * a.samples.M * C, a.bias + t * C, a.gap + t, a.n_iter + t, a.status + t};
}

// The heads that task t starts from, (M, C), or null.
template <typename Real>
inline const Real* head_start(const HeadsArgs<Real>& a, int64_t t) {
  return a.init ? a.init + t * a.samples.M * a.samples.C : nullptr;
}

template <typename Real>
inline void write_nothing(const TaskInput<Real>& in, const HeadOutput<Real>& out, Real value,
                          Status status) {
  std::fill_n(out.weight, in.M * in.C, value);
  std::fill_n(out.bias, in.C, value);
  *out.gap = value, *out.n_iter = 0, *out.status = status;
}

// W (C, ld) to weight (M, C), and bias = ybar - W' zbar.
template <typename Real>
inline void write_head(const Task<Real>& task, const Real* W, const HeadOutput<Real>& out) {
  transpose(W, task.ld, task.C, task.M, out.weight, task.C);
  for (int64_t c = 0; c < task.C; ++c)
    out.bias[c] = static_cast<Real>(task.ybar.get()[c] -
                                    dot<double>(W + c * task.ld, task.zbar.get(), task.M));
}

// The bias of a task whose loss is not squared, from the one that fits the centred samples: a class
// that is none is at -inf, and the others have sum 0, since a shift of all changes nothing.
template <typename Real, typename Weight>
inline void write_curved_bias(const TaskInput<Real>& in, const double* zbar, const Weight* W,
                              int64_t ld, const double* centred, const double* limit, Real* bias) {
  double sum = 0;
  int64_t finite = 0;
  for (int64_t c = 0; c < in.C; ++c) {
    const double b = centred[c] - dot<double>(W + c * ld, zbar, in.M);
    bias[c] = static_cast<Real>(limit[c] == 0 ? b : limit[c]);
    if (limit[c] == 0) sum += b, ++finite;
  }
  if (in.loss != kMultinomial || finite == 0) return;
  for (int64_t c = 0; c < in.C; ++c)
    if (limit[c] == 0) bias[c] -= static_cast<Real>(sum / static_cast<double>(finite));
}

// The same as `fit_head` does for squares, of a task that is loaded: W in work.sparse.W, the gap.
template <typename Real>
inline double solve_curved_head(const TaskInput<Real>& in, const Real* init, double tol,
                                int64_t max_iter, const Real* all_features, HeadWork<Real>& work) {
  Task<Real>& task = work.task;
  Curved<Real>& data = work.curved.data;
  load_curved(in, task, data);
  evaluate_zero(task, in.fit_intercept, data, work.curved.certified, work.curved.system);
  if (data.zero == 0) {
    std::fill_n(work.sparse.W.get(), task.C * task.ld, Real(0));
    return 0;
  }
  CurvedSolve<Real> solve{task, in.fit_intercept, all_features, tol, work.sparse, work.curved};
  return solve_curved(solve, init, max_iter);
}

// Ridge heads in double, where rounding keeps float32 from the gap: W in work.sparse.W, the gap.
template <typename Real>
inline double solve_ridge_exactly(const TaskInput<Real>& in, const PenaltyArgs<Real>& penalty,
                                  int64_t t, double tol, HeadWork<Real>& work, int64_t* steps) {
  Task<double>& task = work.exact;
  load_task(in, task), load_penalty(penalty, t, task);
  Buffer<double> W(task.C * task.ld);
  const double gap = solve_ridge(task, work.exact_ridge, tol, W.get(), steps);
  for (int64_t c = 0; c < task.C; ++c)
    for (int64_t j = 0; j < task.M; ++j)
      work.sparse.W.get()[c * work.task.ld + j] = static_cast<Real>(W.get()[c * task.ld + j]);
  return gap;
}

// Loads the task, and its design only where it is not the one before's.
template <typename Real>
inline bool load_head(const TaskInput<Real>& in, bool shares_design, HeadWork<Real>& work) {
  if (!work.loaded) work.finite = load_design(in, work.task);
  work.loaded = shares_design;
  return work.finite && load_targets(in, work.task);
}

// Fills the strengths of task t; false where they or what it starts from are not finite.
template <typename Real>
inline bool load_fit(const HeadsArgs<Real>& a, int64_t t, Task<Real>& task) {
  const Real* init = head_start(a, t);
  return load_penalty(a.penalty, t, task) && (!init || all_finite(init, task.M * task.C));
}

template <typename Real>
inline void write_report(double gap, int64_t steps, double tol, const HeadOutput<Real>& out) {
  *out.gap = static_cast<Real>(gap);
  *out.n_iter = static_cast<int32_t>(steps);
  *out.status = gap <= tol ? kConverged : kIterationLimit;
}

// Solves task t.
template <typename Real>
inline void fit_head(const HeadsArgs<Real>& a, int64_t t, const SharedDesign<Real>& design,
                     HeadWork<Real>& work) {
  const TaskInput<Real> in = task_input(a.samples, t);
  const HeadOutput<Real> out = head_output(a, t);
  const Real* init = head_start(a, t);
  Task<Real>& task = work.task;
  if (!load_head(in, design.same, work) || !load_fit(a, t, task)) {
    write_nothing(in, out, std::numeric_limits<Real>::quiet_NaN(), kNotFinite);
    return;
  }
  if (task.empty()) {
    write_nothing(in, out, Real(0), kConverged);
    return;
  }
  int64_t steps = 0;
  double gap = 0;
  Real* W = work.sparse.W.reserve(task.C * task.ld);
  if (task.loss != kSquared) {
    work.sparse.steps = 0;
    gap = solve_curved_head(in, init, a.tol, a.max_iter, design.gram, work);
    steps = work.sparse.steps;
  } else if (task.target2 == 0) {
    std::fill_n(W, task.C * task.ld, Real(0));
  } else if (task.sparse) {
    gap = solve_sparse(task, init, a.tol, a.max_iter, design.gram, work.sparse);
    steps = work.sparse.steps;
  } else {
    gap = solve_ridge(task, work.ridge, a.tol, W, &steps);
    work.ridge.factored = design.same && design.one_ridge;
    if (sizeof(Real) == 4 && !(gap <= a.tol))
      gap = solve_ridge_exactly(in, a.penalty, t, a.tol, work, &steps);
  }
  write_head(task, work.sparse.W.get(), out);
  if (task.loss != kSquared)
    write_curved_bias(in, task.zbar.get(), work.sparse.W.get(), task.ld,
                      work.curved.certified.bias.get(), work.curved.data.limit.get(), out.bias);
  write_report(gap, steps, a.tol, out);
}

SPARSEDIS_END
