// lambda_max and duality_gap: a block takes a task after another. Where the shared level couples
// tasks, blocks take features between that.
#pragma once

#include "coupled.cuh"
#include "report.cuh"
#include "report_job.h"

SPARSEDIS_BEGIN

// Loads samples, strengths and weights of task t; false where one is not finite or not possible.
template <typename Task, typename Real, typename Weight>
__device__ bool load_all(const ReportJob<Real>& job, int64_t t, const Weight* weight, Task& task) {
  const int64_t size = task.in.M * task.in.C;
  auto* W = task.memory.W;
  return load_task(task) && load_penalty(task, job.args.penalty, t, job.needs()) &&
         (weight == nullptr ||
          stage(task.block, weight + t * size, size, [W](int64_t k, Weight w) { W[k] = w; }));
}

// The factor of the penalty at which W = 0 becomes optimal: the largest dual norm of A'R there.
template <typename Real>
__device__ void lambda_max(const ReportJob<Real>& job) {
  for_each_task<Real>(job.args.samples, job.blocks, job.needs(),
                      [&](int64_t t, auto& task, Arena&, double*) {
                        const int64_t C = task.in.C;
                        const TaskMemory<Real>& memory = task.memory;
                        double value = std::numeric_limits<double>::quiet_NaN();
                        if (load_all(job, t, job.args.weight, task)) {
                          evaluate_both(task, false);
                          pull_all(task, memory.g);
                          value = task.block.largest(task.in.M, [&](int64_t j) {
                            return dual_norm(memory.g + j * C, C, 1, memory.l1[j], memory.group[j],
                                             job.args.penalty.nonneg);
                          });
                        }
                        if (Block::rank() == 0) job.args.value[t] = static_cast<Real>(value);
                      });
}

// The relative gap of weights, from the data.
template <typename Real>
__device__ void duality_gap(const ReportJob<Real>& job) {
  for_each_task<Real>(job.args.samples, job.blocks, job.needs(),
                      [&](int64_t t, auto& task, Arena&, double*) {
                        double value = std::numeric_limits<double>::quiet_NaN();
                        if (load_all(job, t, job.args.weight, task)) {
                          const double zero = task.empty() ? 0.0 : evaluate_both(task, true);
                          value = 0;
                          if (zero > 0) {
                            pull_all(task, task.memory.g);
                            value = gap_at(task, job.args.penalty.nonneg) / zero;
                          }
                        }
                        if (Block::rank() == 0) job.args.value[t] = static_cast<Real>(value);
                      });
}

// ---- the shared level

template <typename Real>
__device__ CoupledFeatures<Real> features_of(const ReportJob<Real>& job,
                                             const CoupledMemory& memory, double* scratch) {
  return {job.args.samples, job.args.penalty, memory, Block{scratch, nullptr, kThreads}};
}

// g = A'R of every task at its weights, their objective at zero, ridges and status.
template <typename Real>
__device__ void coupled_pull(const ReportJob<Real>& job) {
  const CoupledMemory memory = job.coupled_memory();
  const bool weighed = job.args.weight != nullptr;
  for_each_task<double>(
      job.args.samples, job.blocks, job.needs(), [&](int64_t t, auto& task, Arena&, double*) {
        const int64_t M = task.in.M, C = task.in.C;
        double *g = memory.g + t * M * C, *W = memory.W + t * M * C;
        const bool finite = load_all(job, t, job.args.weight, task),
                   present = finite && !task.empty();
        const double zero = present ? evaluate_both(task, weighed) : 0.0;
        task.block.each(M * C, [&](int64_t k) {
          // Where the bias is at a limit W stays 0.
          const bool held = present && task.in.loss != kSquared && task.memory.limit[k % C] != 0;
          W[k] = weighed && finite && !held ? task.memory.W[k] : 0.0;
          g[k] = 0;
        });
        task.block.each(
            M, [&](int64_t j) { memory.ridge[t * M + j] = finite ? task.memory.ridge[j] : 0.0; });
        if (present) pull_all(task, g);
        if (Block::rank() > 0) return;
        memory.zero[t] = zero, memory.status[t] = finite ? kConverged : kNotFinite;
      });
}

// The dual norm of every feature.
template <typename Real>
__device__ void feature_stretch(const ReportJob<Real>& job) {
  __shared__ double scratch[kThreads];
  const CoupledMemory memory = job.coupled_memory();
  features_of(job, memory, scratch).load_stretch(job.args.weight != nullptr);
}

// The loss of every task at the dual point.
template <typename Real>
__device__ void coupled_loss(const ReportJob<Real>& job) {
  const CoupledMemory memory = job.coupled_memory();
  for_each_task<double>(
      job.args.samples, job.blocks, job.needs(), [&](int64_t t, auto& task, Arena&, double*) {
        double loss = 0;
        if (memory.status[t] == kConverged && load_all(job, t, memory.W, task) && !task.empty()) {
          evaluate_both(task, true);
          loss = loss_of(task, features_of(job, memory, task.block.scratch).dual_scale());
        }
        if (Block::rank() == 0) memory.loss[t] = loss;
      });
}

// Penalty, conjugate and correlation of every feature.
template <typename Real>
__device__ void feature_value(const ReportJob<Real>& job) {
  __shared__ double scratch[kThreads];
  const CoupledMemory memory = job.coupled_memory();
  const CoupledFeatures<Real> features = features_of(job, memory, scratch);
  features.load_value(features.dual_scale());
}

// The gap of all tasks together; a task that is not finite has none.
template <typename Real>
__device__ void coupled_gap(const ReportJob<Real>& job) {
  __shared__ double scratch[kThreads];
  const CoupledMemory memory = job.coupled_memory();
  const double gap = features_of(job, memory, scratch).gap();
  Block{scratch, nullptr, kThreads}.each(job.args.samples.T, [&](int64_t t) {
    const bool finite = memory.status[t] == kConverged;
    job.args.value[t] = static_cast<Real>(finite ? gap : std::numeric_limits<double>::quiet_NaN());
  });
}

// One strength for all tasks; a task that is not finite counts as an empty one.
template <typename Real>
__device__ void coupled_lambda_max(const ReportJob<Real>& job) {
  __shared__ double scratch[kThreads];
  const Block block{scratch, nullptr, kThreads};
  const SamplesArgs<Real>& samples = job.args.samples;
  const CoupledMemory memory = job.coupled_memory();
  const double most = block.largest(samples.M, [&](int64_t m) { return memory.stretch[m]; });
  const double any = block.largest(
      samples.T, [&](int64_t t) { return memory.status[t] == kConverged ? 1.0 : 0.0; });
  if (Block::rank() == 0)
    *job.args.value = static_cast<Real>(
        any > 0 || samples.T == 0 ? most : std::numeric_limits<double>::quiet_NaN());
}

SPARSEDIS_END
