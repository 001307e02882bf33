// Fits of heads that the shared level couples as launches: what their kernels are given.
#pragma once

#include "coupled_memory.h"
#include "fit_job.h"

SPARSEDIS_BEGIN

// How far a fit has come, which all tasks have in common.
struct Reached {
  double gap;
  int64_t steps;
  unsigned arrived;  // blocks, at the points where they wait for each other
};

// What a fit keeps of all tasks, besides their own slices.
struct CoupledFitMemory {
  CoupledMemory all;
  double *lipschitz, *weight;  // (T): of the loss; of all samples, 0 where nothing is fitted
  double *uphill, *length2;    // (T): what a step told
  double* norm;                // (M): of a feature's weights over all tasks
  Reached* reached;

  SPARSEDIS_HD CoupledFitMemory(Arena& arena, int64_t T, int64_t M, int64_t C)
      : all(arena, T, M, C) {
    for (double** of_task : {&lipschitz, &weight, &uphill, &length2})
      *of_task = arena.take<double>(T);
    norm = arena.take<double>(M), reached = arena.take<Reached>(1);
  }
};

template <typename Real>
struct CoupledFitJob {
  HeadsArgs<Real> args;
  TaskBlocks blocks;
  char* coupled;  // CoupledFitMemory

  // g, weights and ridge lie with those of all tasks.
  SPARSEDIS_HD TaskNeeds needs() const { return {false, false, false, false}; }
  void place(const TaskBlocks& there, char* rest) { blocks = there, coupled = rest; }
  SPARSEDIS_HD CoupledFitMemory memory() const {
    Arena arena(nullptr, 0, coupled);
    return {arena, args.samples.T, args.samples.M, args.samples.C};
  }
};

// `rows` are the samples of all tasks.
template <typename Real>
Plan<CoupledFitJob<Real>> plan_coupled_fit(const HeadsArgs<Real>& args, int64_t rows,
                                           const Machine& machine) {
  const SamplesArgs<Real>& s = args.samples;
  CoupledFitJob<Real> job{args, {}, nullptr};
  const auto lay_out = [&](Arena& arena) {
    TaskMemory<double>(arena, 0, s.M, s.C, s.loss, nullptr, job.needs());
    ProximalMemory<double>(arena, 0, s.M, s.C, nullptr);
  };
  const TaskPlan tasks = plan_kept_tasks(s, rows, fit_row_numbers(s.C, s.loss), machine, lay_out);
  Arena coupled = counting_arena(0);
  CoupledFitMemory(coupled, s.T, s.M, s.C);
  const int64_t together = std::clamp<int64_t>(std::max(s.T, s.M), 1, machine.resident);
  return {job,
          tasks,
          coupled.sliced(),
          {tasks.launch("coupled_start"),
           {"coupled_steps", together, 0, true},
           tasks.launch("coupled_write")}};
}

SPARSEDIS_END
