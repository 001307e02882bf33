// The gradient of heads, for tasks that the shared level does not couple: a block takes a task
// after another.
#pragma once

#include "adjoint.cuh"
#include "ridge.cuh"

SPARSEDIS_BEGIN

// Ridge heads: the whole system, over all features, has one factor.
template <typename Task>
__device__ void solve_directly(const Task& task, const RidgeMemory<double>& memory, double* x,
                               double* room) {
  const Ridge<Task> ridge{task, memory};
  ridge.factor();
  ridge.invert(x, room);
}

template <typename Real>
__device__ void fit_heads_backward(const BackwardJob<Real>& job) {
  const HeadsBackwardArgs<Real>& a = job.args;
  clear_sums(job);
  for_each_task<double, kRaw>(
      a.samples, job.blocks, job.needs(),
      [&](int64_t t, auto& task, Arena& arena, double* rows) __attribute__((always_inline)) {
        const TaskInput<Real>& in = task.in;
        const bool direct = job.unknowns > 0;
        const HeadGradient<Real> out = gradient_of(job, t);
        const SupportMemory support(arena, in.M);
        const RidgeMemory<double> system(arena, job.unknowns, direct ? in.M : 0);
        const bool finite = load_solution(task, a.penalty, t, job.needs(), out.weight);
        if (!finite || task.empty())
          return fill(task, out, finite ? Real(0) : std::numeric_limits<Real>::quiet_NaN());
        load_support(task, a.penalty, nullptr, support);
        const AdjointMemory memory(arena, in.n, support.row[in.M], in.C, rows, direct);
        const Adjoint<Real> adjoint{task, support, memory, out, a.penalty};
        adjoint.load(t);
        if (direct)
          solve_directly(task, system, memory.x, memory.product);
        else
          adjoint.solve();
        adjoint.write();
      },
      job.threads);
}

SPARSEDIS_END
