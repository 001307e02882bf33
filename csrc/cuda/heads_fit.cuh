// Heads of tasks that the shared level does not couple: a block takes a task after another.
//
// Ridge has one factor of the smaller side. Everything else goes by accelerated proximal gradient
// steps, taken in `Compute`; now and then scores, residuals and the gap are formed anew, in double
// sums.
#pragma once

#include "head.cuh"
#include "proximal.cuh"
#include "ridge.cuh"

SPARSEDIS_BEGIN

// ---- ridge

// The task in double, where rounding keeps float32 from the gap: W in its memory, the gap reached.
template <typename Task, typename Real>
__device__ double fit_exactly(const Task& task, const FitJob<Real>& job) {
  const TaskInput<Real>& in = task.in;
  const TaskMemory<Real>& m = task.memory;
  Arena arena(nullptr, 0, job.exact + blockIdx.x * job.exact_bytes);
  const ExactMemory<Real> memory(arena, m, job.unknowns, in.M, in.C);
  const TaskMemory<double, Real>& wide = memory.task;
  const BlockTask<double, Real, kRaw> exact{task.block, in, wide, task.total_weight};
  task.block.each(in.M, [&](int64_t j) { wide.ridge[j] = m.ridge[j]; });
  const Ridge ridge{exact, memory.ridge};
  ridge.factor();
  const double gap = ridge.fit();
  task.block.each(in.M * in.C, [&](int64_t k) { m.W[k] = static_cast<Real>(wide.W[k]); });
  return gap;
}

template <typename Real>
__device__ void fit_ridge(const FitJob<Real>& job) {
  const HeadsArgs<Real>& a = job.args;
  bool kept = false;  // features and factor, from the block's last task
  for_each_task<Real>(
      a.samples, job.blocks, fit_needs(true),
      [&](int64_t t, auto& task, Arena& arena, double*) {
        __builtin_assume(task.in.loss == kSquared);
        const RidgeMemory<Real> memory(arena, job.unknowns, task.in.M);
        if (!load_task(task, kept) || (!kept && !load_penalty(task, a.penalty, t, fit_needs(true))))
          return write_all(task, result_of(a, t), std::numeric_limits<Real>::quiet_NaN(),
                           kNotFinite);
        if (task.empty()) return write_all(task, result_of(a, t), Real(0), kConverged);
        const Ridge ridge{task, memory};
        if (!kept) ridge.factor();
        kept = job.one_factor;
        double gap = ridge.fit();
        if (sizeof(Real) == 4 && !(gap <= a.tol)) gap = fit_exactly(task, job);
        write_head(task, result_of(a, t), gap, a.tol, 1);
      },
      job.threads);
}

// ---- accelerated proximal gradient

// Weights to a relative gap of `tol`, in memory.W; returns the gap reached.
template <typename Compute, typename Real>
__device__ double solve_proximal(Proximal<Compute, Real>& solve, double tol, int64_t max_iter,
                                 int64_t* steps) {
  const BlockTask<Compute, Real>& task = solve.task;
  const TaskMemory<Compute>& m = task.memory;
  const int64_t C = task.in.C;
  if (task.in.loss != kSquared) load_bias(task);
  Momentum<Compute> momentum;
  double zero = 0, gap = 0;
#pragma unroll 1
  for (bool weighed = false;; weighed = true) {  // at zero first, so that it is inlined once
    evaluate(task, weighed);
    if (!weighed) {
      zero = loss_of(task, 0.0);
      task.block.each(task.in.M * C, [&](int64_t k) {
        const bool held = task.in.loss != kSquared && m.limit[k % C] != 0;
        if (zero == 0 || held) m.W[k] = 0;
      });
      if (zero == 0) return 0;
      continue;
    }
    pull_all(task, m.g);
    gap = gap_at(task, solve.nonneg) / zero;
    if (!(gap > tol) || *steps >= max_iter) return gap;  // a gap that is no number stays so
    if (solve.lipschitz == 0) solve.load_lipschitz(), solve.rest();
    solve.start();
    Rhythm<Compute> rhythm(gap, tol);
    for (bool due = false; !due && *steps < max_iter; ++*steps)
      due = rhythm.due(solve.step(momentum));
  }
}

template <typename Real>
__device__ void fit_proximal(const FitJob<Real>& job) {
  const HeadsArgs<Real>& a = job.args;
  for_each_task<Real, kCentred, kFirstLeft>(
      a.samples, job.blocks, fit_needs(false),
      [&](int64_t t, auto& task, Arena& arena, double* rows) {
        const TaskInput<Real>& in = task.in;
        const ProximalMemory<Real> memory(arena, in.n, in.M, in.C, rows);
        const Real* init = a.init ? a.init + t * in.M * in.C : nullptr;
        if (!load_task(task) || !load_penalty(task, a.penalty, t, fit_needs(false)) ||
            !load_start(task, init, a.penalty.nonneg))
          return write_all(task, result_of(a, t), std::numeric_limits<Real>::quiet_NaN(),
                           kNotFinite);
        if (task.empty()) return write_all(task, result_of(a, t), Real(0), kConverged);
        Proximal<Real, Real> solve{task, memory, a.penalty.nonneg, loss_curvature(in.loss)};
        int64_t steps = 0;
        const double gap = solve_proximal(solve, a.tol, a.max_iter, &steps);
        write_head(task, result_of(a, t), gap, a.tol, steps);
      },
      job.threads);
}

SPARSEDIS_END
