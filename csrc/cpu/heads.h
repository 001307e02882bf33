// Head solves over a batch of tasks: a worker owns a task from start to finish and takes the next.
#pragma once

#include "penalised_lanes.h"
#include "ridge_lanes.h"

SPARSEDIS_BEGIN

// Elements that one task's samples touch, on average.
template <typename Real>
int64_t task_size(const SamplesArgs<Real>& s) {
  const int64_t n = s.offsets ? s.offsets[s.T] / std::max<int64_t>(s.T, 1) + 1 : s.n;
  return n * s.M * s.C;
}

// What the tasks of a batch have in common. The Gram matrix is worked out once; a worker factors
// the system of ridge heads for its first task.
template <typename Real>
class Common {
 public:
  SharedDesign<Real> design;

  explicit Common(const HeadsArgs<Real>& a) {
    const SamplesArgs<Real>& s = a.samples;
    design.same = same_design(s);
    design.one_ridge = same_ridge(a.penalty);
    const bool ridge = s.loss == kSquared && only_ridge(a.penalty);
    Task<Real> task;
    if (!design.same || ridge || s.T == 0 || s.n == 0 || !load_design(task_input(s, 0), task) ||
        !load_penalty(a.penalty, 0, task) || (s.loss == kSquared && !task.sparse))
      return;
    design.gram = gram_.reserve((s.M + Simd<Real>::kTile) * task.ld);
    gram_columns(task.A.get(), s.n, task.stride, 0, s.M, gram_.get(), task.ld);
  }

 private:
  Buffer<Real> gram_;
};

template <typename Real>
void fit_heads(const HeadsArgs<Real>& a, ParallelFor run) {
  const SamplesArgs<Real>& s = a.samples;
  const Common<Real> common(a);
  const bool ridge = s.loss == kSquared && only_ridge(a.penalty);
  LaneDesign<Real> design;
  // Of one task a row of ridges may be its own or everyone's: only a number is surely the latter.
  if (ridge && common.design.same && !a.penalty.ridge.data && s.T * s.C > 0 &&
      load_lane_design(task_input(s, 0), a.penalty, design)) {
    fit_lane_design(a, design, common.design, task_size(s), run);
    return;
  }
  if (ridge && !common.design.same && may_fit_lanes(s)) {
    fit_ridge_lanes(a, task_size(s), run);
    return;
  }
  if (!common.design.same && may_fit_lanes(s) && takes_penalised_lanes(a)) {
    s.loss == kSquared ? fit_penalised_lanes<SparseLanes<Real>>(a, task_size(s), run)
                       : fit_penalised_lanes<CurvedLaneSolve<Real>>(a, task_size(s), run);
    return;
  }
  for_each_task<HeadWork<Real>>(run, s.T, task_size(s), [&](int64_t t, HeadWork<Real>& work) {
    fit_head(a, t, common.design, work);
  });
}

// Sums over tasks that share a design go through a fixed number of partial sums, in a fixed order,
// so that they do not depend on the number of threads.
constexpr int64_t kPartialSums = 16;

template <typename Real>
struct SharedGradient {
  const int64_t z_size, weight_size;
  Buffer<double> z, weight;

  explicit SharedGradient(const HeadsBackwardArgs<Real>& a)
      : z_size(shared_samples(a)), weight_size(shared_weights(a)) {
    std::fill_n(z.reserve(kPartialSums * z_size), kPartialSums * z_size, 0.0);
    std::fill_n(weight.reserve(kPartialSums * weight_size), kPartialSums * weight_size, 0.0);
  }

  void point(int64_t part, HeadGradient<Real>& out) const {
    if (z_size) out.z_sum = z.get() + part * z_size;
    if (weight_size) out.weight_sum = weight.get() + part * weight_size;
  }

  static void total(const Buffer<double>& parts, int64_t size, Real* grad) {
    for (int64_t i = 0; i < size; ++i) {
      double sum = 0;
      for (int64_t part = 0; part < kPartialSums; ++part) sum += parts.get()[part * size + i];
      grad[i] = static_cast<Real>(sum);
    }
  }
};

// Calls body(t, gradient of t, work) for every task, then adds up what tasks share.
template <typename Real, typename F>
void for_each_gradient(const HeadsBackwardArgs<Real>& a, ParallelFor run, F body) {
  using Work = HeadBackwardWork<Real>;
  const int64_t T = a.samples.T;
  if (!a.samples.one_design) {
    for_each_task<Work>(run, T, task_size(a.samples),
                        [&](int64_t t, Work& work) { body(t, head_gradient(a, t), work); });
    return;
  }
  const SharedGradient<Real> shared(a);
  for_each_task<Work>(run, kPartialSums, T * task_size(a.samples) / kPartialSums,
                      [&](int64_t part, Work& work) {
                        for (int64_t t = part; t < T; t += kPartialSums) {
                          HeadGradient<Real> out = head_gradient(a, t);
                          shared.point(part, out);
                          body(t, out, work);
                        }
                      });
  shared.total(shared.z, shared.z_size, a.grad_z);
  shared.total(shared.weight, shared.weight_size, a.grad_sample_weight);
}

template <typename Real>
void fit_heads_backward(const HeadsBackwardArgs<Real>& a, ParallelFor run) {
  using Work = HeadBackwardWork<Real>;
  const SamplesArgs<Real>& s = a.samples;
  if (a.grad_shared) std::fill_n(a.grad_shared, s.M, Real(0));
  if (!s.one_design && s.T > 0 && may_fit_lanes(s) &&
      is_plain_ridge(static_cast<Loss>(s.loss), a.penalty, head_gradient(a, 0))) {
    fit_ridge_lanes_backward(a, task_size(s), run);
    return;
  }
  for_each_gradient(a, run, [&](int64_t t, const HeadGradient<Real>& out, Work& work) {
    fit_head_backward(task_input(a.samples, t), a.penalty, t, out, work);
  });
}

// What the reports of a task need.
template <typename Real>
struct ReportWork {
  Task<Real> task;
  Curved<Real> curved;
  Scores<double> scores;
  BiasSystem system;
  Buffer<Real> W;
  Buffer<double> R, g;
};

// g = A'R at W = 0, in work.g.
template <typename Real>
void pull_at_zero(const TaskInput<Real>& in, ReportWork<Real>& work) {
  Task<Real>& task = work.task;
  double* g = work.g.reserve(task.C * task.ld);
  if (task.loss == kSquared) {
    multiply(task.B.get(), task.C, task.lds, task.n, task.A.get(), task.stride, task.ld, g,
             task.ld);
    return;
  }
  load_curved(in, task, work.curved);
  evaluate_zero(task, in.fit_intercept, work.curved, work.scores, work.system);
  pull_all(task, work.scores, g);
}

// The factor of the penalty at which W = 0 becomes optimal: the largest dual norm of A'R there.
template <typename Real>
void lambda_max(const HeadsReportArgs<Real>& a, ParallelFor run) {
  using Work = ReportWork<Real>;
  const SamplesArgs<Real>& s = a.samples;
  for_each_task<Work>(run, s.T, task_size(s), [&](int64_t t, Work& work) {
    Task<Real>& task = work.task;
    a.value[t] = std::numeric_limits<Real>::quiet_NaN();
    if (!load_task(task_input(s, t), task) || !load_penalty(a.penalty, t, task)) return;
    pull_at_zero(task_input(s, t), work);
    double largest = 0;
    for (int64_t j = 0; j < task.M; ++j)
      largest = std::max(largest, dual_norm(work.g.get() + j, task.C, task.ld, task.penalty.l1[j],
                                            task.penalty.group[j], task.penalty.nonneg));
    a.value[t] = static_cast<Real>(largest);
  });
}

// The relative gap of W (C, task.ld) of a task that is not empty, from the data.
template <typename Real>
double gap_of(const TaskInput<Real>& in, const Real* W, ReportWork<Real>& work) {
  Task<Real>& task = work.task;
  double* g = work.g.reserve(task.C * task.ld);
  if (task.loss == kSquared) {
    if (task.target2 == 0) return 0;
    double* R = work.R.reserve(task.C * task.lds);
    residual(task.A.get(), task.B.get(), W, task.n, task.stride, task.C, task.ld, task.lds, R);
    return full_gap(task, W, R, g);
  }
  load_curved(in, task, work.curved);
  evaluate_zero(task, in.fit_intercept, work.curved, work.scores, work.system);
  if (work.curved.zero == 0) return 0;
  evaluate_all(task, in.fit_intercept, work.curved, W, task.ld, work.scores, work.system);
  pull_all(task, work.scores, g);
  return curved_gap(task.penalty, task.loss, work.curved, work.scores, W, g, task.M, task.ld, 1.0);
}

template <typename Real>
void duality_gap(const HeadsReportArgs<Real>& a, ParallelFor run) {
  using Work = ReportWork<Real>;
  const SamplesArgs<Real>& s = a.samples;
  for_each_task<Work>(run, s.T, task_size(s), [&](int64_t t, Work& work) {
    Task<Real>& task = work.task;
    const Real* weight = a.weight + t * s.M * s.C;
    a.value[t] = std::numeric_limits<Real>::quiet_NaN();
    if (!load_task(task_input(s, t), task) || !load_penalty(a.penalty, t, task) ||
        !all_finite(weight, s.M * s.C))
      return;
    Real* W = work.W.reserve(task.C * task.ld);
    std::fill_n(W, task.C * task.ld, Real(0));
    for (int64_t j = 0; j < s.M; ++j)
      for (int64_t c = 0; c < s.C; ++c) W[c * task.ld + j] = weight[j * s.C + c];
    a.value[t] = static_cast<Real>(task.empty() ? 0.0 : gap_of(task_input(s, t), W, work));
  });
}

SPARSEDIS_END
