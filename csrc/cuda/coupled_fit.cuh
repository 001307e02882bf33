// Heads of tasks that the shared level couples: accelerated proximal gradient steps of all tasks at
// once, each with the curvature of its own loss. A step is three phases, between which all blocks
// wait: tasks look ahead, features solve for their norm over tasks, tasks move. Momentum restarts
// where all tasks together point uphill. Everything in double, as cpu/coupled.h.
#pragma once

#include "coupled.cuh"
#include "coupled_fit_job.h"
#include "grid.cuh"
#include "head.cuh"
#include "kept.cuh"
#include "proximal.cuh"

SPARSEDIS_BEGIN

// Calls body(t, task, solve) for the tasks of this block, as earlier phases left them.
template <typename Real, typename F>
__device__ void for_each_fit(const CoupledFitJob<Real>& job, const CoupledFitMemory& memory,
                             KeptScratch& scratch, F body) {
  const auto with = [&](int64_t t, auto& task, TaskMemory<double>& own, Arena& arena,
                        double* rows) {
    const TaskInput<Real>& in = task.in;
    const int64_t first = t * in.M * in.C;
    own.g = memory.all.g + first, own.W = memory.all.W + first;
    own.ridge = memory.all.ridge + t * in.M;
    const ProximalMemory<double> kept(arena, in.n, in.M, in.C, rows);
    Proximal<double, Real> solve{task, kept, job.args.penalty.nonneg, loss_curvature(in.loss)};
    body(t, task, solve);
  };
  for_each_kept_task(job.args.samples, job.blocks, job.needs(), scratch, with);
}

// Loads a task and its start; what is not finite or has no samples takes no part.
template <typename Real>
__device__ void coupled_start(const CoupledFitJob<Real>& job) {
  __shared__ KeptScratch scratch;
  const HeadsArgs<Real>& a = job.args;
  const CoupledFitMemory memory = job.memory();
  if (blockIdx.x == 0 && Block::rank() == 0) memory.reached->arrived = 0;
  for_each_fit(job, memory, scratch, [&](int64_t t, auto& task, auto& solve) {
    const TaskMemory<double>& m = task.memory;
    const int64_t M = task.in.M, C = task.in.C;
    const Real* init = a.init ? a.init + t * M * C : nullptr;
    const bool finite = load_task(task) && load_penalty(task, a.penalty, t, job.needs()) &&
                        load_start(task, init, a.penalty.nonneg);
    const bool present = finite && !task.empty();
    const double zero = present ? evaluate_both(task, false) : 0.0;
    task.block.each(M * C, [&](int64_t k) {
      const bool held = present && task.in.loss != kSquared && m.limit[k % C] != 0;
      m.g[k] = 0;
      if (!present || held) m.W[k] = 0;
    });
    if (!present) task.block.each(M, [&](int64_t j) { m.ridge[j] = 0; });
    if (present) solve.load_lipschitz(), solve.rest();
    task.block.each(M, [&](int64_t j) { memory.all.excess[j * a.samples.T + t] = 0; });
    if (Block::rank() > 0) return;
    memory.all.status[t] = finite ? kConverged : kNotFinite;
    memory.all.zero[t] = zero, memory.all.loss[t] = memory.uphill[t] = memory.length2[t] = 0;
    memory.weight[t] = present ? task.total_weight : 0.0;
    memory.lipschitz[t] = present ? solve.lipschitz : 1.0;
  });
}

template <typename Real>
struct CoupledSteps {
  const CoupledFitJob<Real>& job;
  const CoupledFitMemory& memory;
  const CoupledFeatures<Real>& features;
  KeptScratch& scratch;
  Grid& grid;

  template <typename F>
  __device__ void each_task(F body) const {
    for_each_fit(job, memory, scratch, [&](int64_t t, auto& task, auto& solve) {
      task.total_weight = memory.weight[t], solve.lipschitz = memory.lipschitz[t];
      if (task.total_weight > 0) body(t, task, solve);
    });
  }

  // The gap of all tasks together, from the data.
  __device__ double gap() const {
    each_task([&](int64_t, auto& task, auto& solve) {
      evaluate(task, true);
      pull_all(task, task.memory.g);
      solve.start();
    });
    grid.sync();
    features.load_stretch(true);
    grid.sync();
    const double scale = features.dual_scale();
    each_task([&](int64_t t, auto& task, auto&) {
      const double loss = loss_of(task, scale);
      if (Block::rank() == 0) memory.all.loss[t] = loss;
    });
    features.load_value(scale);
    grid.sync();
    return features.gap();
  }

  // u = L x + A'R of every feature at the extrapolated point x, into g, and its part above the
  // levels below the shared one.
  __device__ void look_ahead(double inertia) const {
    const SamplesArgs<Real>& s = job.args.samples;
    each_task([&](int64_t t, auto& task, auto& solve) {
      const TaskMemory<double>& m = task.memory;
      solve.look_ahead(inertia);
      Block::sync();
      task.block.each(s.M * s.C, [&](int64_t k) {
        m.g[k] += solve.lipschitz * (m.W[k] + inertia * solve.memory.move[k]);
      });
      task.block.each(s.M, [&](int64_t j) {
        memory.all.excess[j * s.T + t] = excess(features.column(memory.all.g, j), t, 1.0).norm;
      });
    });
  }

  // The norm over tasks of every feature's exact minimiser.
  __device__ void load_norms() const {
    const SamplesArgs<Real>& s = job.args.samples;
    features.each([&](int64_t m) {
      const double* b = memory.all.excess + m * s.T;
      const double norm = feature_norm(
          s.T, at(job.args.penalty.shared, 0, m), [&](int64_t t) { return b[t]; },
          [&](int64_t t) { return memory.lipschitz[t] + memory.all.ridge[t * s.M + m]; },
          features.block);
      if (Block::rank() == 0) memory.norm[m] = norm;
    });
  }

  // Moves feature j of task t to it.
  template <typename Solve>
  __device__ void move_feature(int64_t t, int64_t j, double inertia, const Solve& solve,
                               double (&told)[2]) const {
    const PenaltyArgs<Real>& penalty = job.args.penalty;
    const TaskMemory<double>& m = solve.task.memory;
    const int64_t C = solve.task.in.C;
    const double L = solve.lipschitz, l1 = at(penalty.l1, t, j), shared = at(penalty.shared, 0, j);
    const double b = memory.all.excess[j * job.args.samples.T + t], norm = memory.norm[j];
    const double curvature = L + m.ridge[j] + (shared > 0 ? shared / norm : 0.0);
    const double factor = norm > 0 && b > 0 ? b / ((b + at(penalty.group, t, j)) * curvature) : 0.0;
    for (int64_t c = 0; c < C; ++c) {
      double &w = m.W[j * C + c], &v = solve.memory.move[j * C + c];
      const double next = factor * soft_threshold(m.g[j * C + c], l1, solve.nonneg);
      const double ahead = w + inertia * v;
      v = next - w, w = next;
      add_move(told, L, ahead - next, v);
    }
  }

  __device__ void move(double inertia) const {
    each_task([&](int64_t t, auto& task, auto& solve) {
      double told[2];
      task.block.sums(task.in.M, told, [&](int64_t j, double (&pair)[2]) {
        move_feature(t, j, inertia, solve, pair);
      });
      solve.move_bias(told);
      solve.follow();
      if (Block::rank() == 0) memory.uphill[t] = told[0], memory.length2[t] = told[1];
    });
  }

  // Returns the step's squared length.
  __device__ double step(Momentum<double>& momentum) const {
    look_ahead(momentum.inertia);
    grid.sync();
    load_norms();
    grid.sync();
    move(momentum.inertia);
    grid.sync();
    double told[2];
    features.block.sums(job.args.samples.T, told, [&](int64_t t, double (&pair)[2]) {
      pair[0] += memory.uphill[t], pair[1] += memory.length2[t];
    });
    momentum.advance(told[0]);
    return told[1];
  }
};

template <typename Real>
__device__ void coupled_steps(const CoupledFitJob<Real>& job) {
  __shared__ KeptScratch scratch;
  const HeadsArgs<Real>& a = job.args;
  const CoupledFitMemory memory = job.memory();
  const CoupledFeatures<Real> features{a.samples, a.penalty, memory.all,
                                       Block{scratch.sums, scratch.partial, kThreads}};
  Grid grid(&memory.reached->arrived);
  const CoupledSteps<Real> all{job, memory, features, scratch, grid};
  Momentum<double> momentum;
  int64_t steps = 0;
  double gap = all.gap();
#pragma unroll 1
  while (gap > a.tol && steps < a.max_iter) {
    Rhythm<double> rhythm(gap, a.tol);
#pragma unroll 1
    for (bool due = false; !due && steps < a.max_iter; ++steps)
      due = rhythm.due(all.step(momentum));
    gap = all.gap();
  }
  if (blockIdx.x == 0 && Block::rank() == 0)
    memory.reached->gap = gap, memory.reached->steps = steps;
}

template <typename Real>
__device__ void coupled_write(const CoupledFitJob<Real>& job) {
  __shared__ KeptScratch scratch;
  const HeadsArgs<Real>& a = job.args;
  const CoupledFitMemory memory = job.memory();
  for_each_fit(job, memory, scratch, [&](int64_t t, auto& task, auto&) {
    const HeadResult<Real> out = result_of(a, t);
    const bool finite = memory.all.status[t] == kConverged;
    if (memory.weight[t] > 0)
      return write_head(task, out, memory.reached->gap, a.tol, memory.reached->steps);
    write_all(task, out, finite ? Real(0) : std::numeric_limits<Real>::quiet_NaN(),
              finite ? kConverged : kNotFinite);
  });
}

SPARSEDIS_END
