// The gradient of heads, for tasks that the shared level does not couple: a block takes a task
// after another.
#pragma once

#include "adjoint.cuh"

SPARSEDIS_BEGIN

template <typename Real>
__device__ void fit_heads_backward(const BackwardJob<Real>& job) {
  const HeadsBackwardArgs<Real>& a = job.args;
  clear_sums(job);
  for_each_task<double>(
      a.samples, job.blocks, job.needs(), [&](int64_t t, auto& task, Arena& arena) {
        const TaskInput<Real>& in = task.in;
        const HeadGradient<Real> out = gradient_of(job, t);
        double* rows = job.blocks.rows + row_of(a.samples, t) * job.blocks.row_numbers +
                       in.n * row_numbers(in.C, in.loss);
        double* partial = arena.take<double>(kPartials);
        const AdjointMemory memory(arena, partial, in.n, in.M, in.C, rows);
        const Adjoint<Real> adjoint{task, memory, out, a.penalty};
        const bool finite = load_solution(task, a.penalty, t, job.needs(), out.weight);
        if (!finite || task.empty())
          return adjoint.fill(finite ? Real(0) : std::numeric_limits<Real>::quiet_NaN());
        adjoint.load(t);
        adjoint.solve();
        adjoint.write();
      });
}

SPARSEDIS_END
