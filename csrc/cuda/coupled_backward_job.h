// The gradient of heads that the shared level couples as launches: what their kernels are given.
#pragma once

#include "backward_job.h"

SPARSEDIS_BEGIN

// What a gradient keeps of all tasks, besides their own slices.
struct CoupledBackwardMemory {
  double* part;                         // (M, T): what tasks add to a number of a feature
  double *norm, *radial, *drop;         // (M): of weights; of the direction along them, and what
                                        // that takes off the curvature
  double *weight, *curvature, *length;  // (T): of all samples, 0 where there is nothing to solve;
                                        // <direction, image>; <rhs, scaled>
  unsigned* arrived;                    // blocks, at the points where they wait for each other

  SPARSEDIS_HD CoupledBackwardMemory(Arena& arena, int64_t T, int64_t M) {
    part = arena.take<double>(M * T);
    for (double** of_feature : {&norm, &radial, &drop}) *of_feature = arena.take<double>(M);
    for (double** of_task : {&weight, &curvature, &length}) *of_task = arena.take<double>(T);
    arrived = arena.take<unsigned>(1);
  }
};

template <typename Real>
struct CoupledBackwardJob {
  BackwardJob<Real> own;  // what tasks need that nothing couples
  char* coupled;          // CoupledBackwardMemory

  void place(const TaskBlocks& there, char* rest) {
    own.place(there, rest);
    coupled = rest + sums_bytes(own.writers, shared_numbers(own.args));
  }
  SPARSEDIS_HD CoupledBackwardMemory memory() const {
    Arena arena(nullptr, 0, coupled);
    return {arena, own.args.samples.T, own.args.samples.M};
  }
};

// `rows` are the samples of all tasks.
template <typename Real>
Plan<CoupledBackwardJob<Real>> plan_coupled_backward(const HeadsBackwardArgs<Real>& args,
                                                     int64_t rows, const Machine& machine) {
  const SamplesArgs<Real>& s = args.samples;
  const int64_t numbers = shared_numbers(args);
  const int64_t writers = numbers > 0 ? std::min(s.T, most_sums(numbers)) : 0;
  const CoupledBackwardJob<Real> job{{args, {}, 0, kThreads, writers}, nullptr};
  const auto lay_out = [&](Arena& arena) {
    TaskMemory<double>(arena, 0, s.M, s.C, s.loss, nullptr, job.own.needs());
    SupportMemory(arena, s.M);
    AdjointMemory(arena, 0, s.M, s.C, nullptr, false);
  };
  const TaskPlan tasks =
      plan_kept_tasks(s, rows, backward_row_numbers(s.C, s.loss), machine, lay_out);
  Arena coupled = counting_arena(0);
  CoupledBackwardMemory(coupled, s.T, s.M);
  const int64_t features = std::max<int64_t>(s.M, 1);
  const int64_t together = std::min(std::max(s.T, features), machine.resident);
  std::vector<Launch> launches{tasks.launch("adjoint_load"),
                               {"adjoint_norms", features, 0},
                               tasks.launch("adjoint_start"),
                               {"adjoint_solve", together, 0, true},
                               {"adjoint_write", numbers > 0 ? writers : tasks.grid, 0}};
  if (args.grad_shared) launches.push_back({"adjoint_shared", features, 0});
  if (numbers > 0) launches.push_back({"adjoint_sums", sums_grid(numbers), 0});
  return {job, tasks, sums_bytes(writers, numbers) + coupled.sliced(), launches};
}

SPARSEDIS_END
