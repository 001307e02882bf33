// The gradient of heads that the shared level couples: conjugate gradients over all tasks at once.
// The level bends a feature by shared / norm, but not along its weights, which takes a sum over
// tasks. A step is three phases, between which all blocks wait: tasks apply their own Hessians,
// features add up what lies along their weights, tasks advance.
#pragma once

#include "adjoint.cuh"
#include "coupled_backward_job.h"
#include "grid.cuh"
#include "kept.cuh"

SPARSEDIS_BEGIN

constexpr int64_t kCoupledSteps = 5000;  // of conjugate gradients, at most

template <typename Real>
struct CoupledAdjoint {
  const CoupledBackwardJob<Real>& job;
  const CoupledBackwardMemory& memory;
  KeptScratch& scratch;

  __device__ const HeadsBackwardArgs<Real>& args() const { return job.own.args; }
  __device__ Block block() const { return {scratch.sums, scratch.partial, kThreads}; }

  // Calls body(t, task, adjoint) for the tasks of this block.
  template <typename F>
  __device__ void each(F body) const {
    const auto with = [&](int64_t t, auto& task, auto&, Arena& arena, double* rows) {
      const TaskInput<Real>& in = task.in;
      const SupportMemory support(arena, in.M);
      const AdjointMemory own(arena, in.n, in.M, in.C, rows, false);
      const HeadGradient<Real> out = gradient_of(job.own, t);
      task.total_weight = memory.weight[t];
      body(t, task, Adjoint<Real>{task, support, own, out, args().penalty, memory.norm});
    };
    for_each_kept_task<kRaw>(args().samples, job.own.blocks, job.own.needs(), scratch, with);
  }
  // Of these, the tasks that take part.
  template <typename F>
  __device__ void each_present(F body) const {
    each([&](int64_t t, auto& task, const Adjoint<Real>& adjoint) {
      if (task.total_weight > 0) body(t, task, adjoint);
    });
  }

  // The sums over tasks of `part`, for the features of this block.
  template <typename F>
  __device__ void sum_parts(F put) const {
    const SamplesArgs<Real>& s = args().samples;
    for (int64_t m = blockIdx.x; m < s.M; m += gridDim.x) {
      const double* part = memory.part + m * s.T;
      const double sum = block().sum(s.T, [&](int64_t t) { return part[t]; });
      if (Block::rank() == 0) put(m, sum);
    }
  }
  // What task t adds: <W, V> of every feature of its support, for V (S, C).
  __device__ void project(int64_t t, const Adjoint<Real>& adjoint, const double* V) const {
    const auto& m = adjoint.task.memory;
    const int64_t C = adjoint.task.in.C;
    adjoint.task.block.each(adjoint.support(), [&](int64_t a) {
      const int64_t j = adjoint.features.row[a];
      double sum = 0;
      for (int64_t c = 0; c < C; ++c) sum += m.W[j * C + c] * V[a * C + c];
      memory.part[j * args().samples.T + t] = sum;
    });
  }

  // ---- the phases of a step

  __device__ void apply() const {
    each_present([&](int64_t t, auto&, const Adjoint<Real>& adjoint) {
      const double curvature = adjoint.apply();
      project(t, adjoint, adjoint.memory.direction);
      if (Block::rank() == 0) memory.curvature[t] = curvature;
    });
  }
  __device__ void load_radial() const {
    sum_parts([&](int64_t m, double along) {
      const double norm = memory.norm[m], shared = at(args().penalty.shared, 0, m);
      memory.radial[m] = norm > 0 ? shared * along / (norm * norm * norm) : 0.0;
      memory.drop[m] = memory.radial[m] * along;
    });
  }
  __device__ double curvature() const {
    const SamplesArgs<Real>& s = args().samples;
    return block().sum(s.T, [&](int64_t t) { return memory.curvature[t]; }) -
           block().sum(s.M, [&](int64_t m) { return memory.drop[m]; });
  }
  __device__ void advance(double length) const {
    each_present([&](int64_t t, auto& task, const Adjoint<Real>& adjoint) {
      const int64_t C = task.in.C;
      task.block.each(adjoint.size(), [&](int64_t k) {
        const int64_t j = adjoint.features.row[k / C];
        adjoint.memory.image[k] -= memory.radial[j] * task.memory.W[j * C + k % C];
      });
      const double next = adjoint.advance(length);
      if (Block::rank() == 0) memory.length[t] = next;
    });
  }
  __device__ void turn(double ratio) const {
    each_present([&](int64_t, auto&, const Adjoint<Real>& adjoint) { adjoint.turn(ratio); });
  }
  __device__ double length() const {  // <rhs, scaled>
    return block().sum(args().samples.T, [&](int64_t t) { return memory.length[t]; });
  }
};

// Loads tasks at their weights; what is not finite or has no samples takes no part.
template <typename Real>
__device__ void adjoint_load(const CoupledBackwardJob<Real>& job) {
  __shared__ KeptScratch scratch;
  const CoupledBackwardMemory memory = job.memory();
  const SamplesArgs<Real>& s = job.own.args.samples;
  if (blockIdx.x == 0 && Block::rank() == 0) *memory.arrived = 0;
  const CoupledAdjoint<Real> all{job, memory, scratch};
  all.each([&](int64_t t, auto& task, const Adjoint<Real>& adjoint) {
    const int64_t C = task.in.C;
    const bool present =
        load_solution(task, job.own.args.penalty, t, job.own.needs(), adjoint.out.weight);
    task.block.each(s.M, [&](int64_t j) {
      double norm2 = 0;
      for (int64_t c = 0; c < C && present; ++c)
        norm2 += task.memory.W[j * C + c] * task.memory.W[j * C + c];
      memory.part[j * s.T + t] = norm2;
    });
    // Less than no weight tells what is not finite from what is empty.
    if (Block::rank() == 0)
      memory.weight[t] = present ? task.total_weight : -1.0, memory.curvature[t] = 0,
      memory.length[t] = 0;
  });
}

template <typename Real>
__device__ void adjoint_norms(const CoupledBackwardJob<Real>& job) {
  __shared__ KeptScratch scratch;
  const CoupledBackwardMemory memory = job.memory();
  CoupledAdjoint<Real>{job, memory, scratch}.sum_parts(
      [&](int64_t m, double norm2) { memory.norm[m] = sqrt(norm2); });
}

template <typename Real>
__device__ void adjoint_start(const CoupledBackwardJob<Real>& job) {
  __shared__ KeptScratch scratch;
  const CoupledBackwardMemory memory = job.memory();
  const SamplesArgs<Real>& s = job.own.args.samples;
  CoupledAdjoint<Real>{job, memory, scratch}.each(
      [&](int64_t t, auto& task, const Adjoint<Real>& adjoint) {
        task.block.each(s.M, [&](int64_t j) { memory.part[j * s.T + t] = 0; });
        if (!(task.total_weight > 0)) return;
        load_support(task, job.own.args.penalty, memory.norm, adjoint.features);
        adjoint.load(t);
        const double length = adjoint.start();
        if (Block::rank() == 0) memory.length[t] = length;
      });
}

template <typename Real>
__device__ void adjoint_solve(const CoupledBackwardJob<Real>& job) {
  __shared__ KeptScratch scratch;
  const CoupledBackwardMemory memory = job.memory();
  const CoupledAdjoint<Real> all{job, memory, scratch};
  Grid grid(memory.arrived);
  double rz = all.length();
  const double target = adjoint_eta<Real>() * adjoint_eta<Real>() * rz;
  for (int64_t step = 0; step < kCoupledSteps && rz > target; ++step) {
    all.apply();
    grid.sync();
    all.load_radial();
    grid.sync();
    const double curvature = all.curvature();
    if (!(curvature > 0)) return;
    all.advance(rz / curvature);
    grid.sync();
    const double next = all.length();
    all.turn(next / rz);
    rz = next;
  }
}

template <typename Real>
__device__ void adjoint_write(const CoupledBackwardJob<Real>& job) {
  __shared__ KeptScratch scratch;
  const CoupledBackwardMemory memory = job.memory();
  const CoupledAdjoint<Real> all{job, memory, scratch};
  clear_sums(job.own);
  Block::sync();
  all.each([&](int64_t t, auto& task, const Adjoint<Real>& adjoint) {
    const double weight = task.total_weight;
    if (!(weight > 0))
      return fill(task, adjoint.out,
                  weight == 0 ? Real(0) : std::numeric_limits<Real>::quiet_NaN());
    all.project(t, adjoint, adjoint.memory.x);
    adjoint.write();
  });
}

template <typename Real>
__device__ void adjoint_shared(const CoupledBackwardJob<Real>& job) {
  __shared__ KeptScratch scratch;
  const CoupledBackwardMemory memory = job.memory();
  const HeadsBackwardArgs<Real>& a = job.own.args;
  CoupledAdjoint<Real>{job, memory, scratch}.sum_parts([&](int64_t m, double along) {
    const double norm = memory.norm[m];
    a.grad_shared[m] = static_cast<Real>(norm > 0 ? -a.penalty.shared.scale * along / norm : 0.0);
  });
}

template <typename Real>
__device__ void adjoint_sums(const CoupledBackwardJob<Real>& job) {
  add_sums(job.own);
}

SPARSEDIS_END
