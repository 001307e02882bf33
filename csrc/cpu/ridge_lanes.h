// Ridge heads of small tasks and their gradients, for as many tasks at once as a vector has lanes.
// A task that lanes do not take, or whose system they do not solve, is solved alone.
#pragma once

#include "../core/design_lanes.h"
#include "../core/heads_backward.h"
#include "lane_groups.h"

SPARSEDIS_BEGIN

inline LaneSystem smaller_side(int64_t n, int64_t M) {
  return takes_samples(n, M) ? LaneSystem::kSamples : LaneSystem::kFeatures;
}

template <typename Real>
using RidgeFitGroup = LaneGroup<RidgeLanes<Real>, LaneFitWork<Real>, HeadWork<Real>>;

// Fits tasks whose work is loaded, all with the system of samples or none of them.
template <typename Real>
void fit_ridge_side(const HeadsArgs<Real>& a, const int64_t* tasks, LaneFitWork<Real>** works,
                    int64_t count, RidgeFitGroup<Real>& group) {
  RidgeLanes<Real>& g = group.lanes;
  g.take(works, count, a.samples.C);
  for (int64_t i = 0; i < g.kLanes; ++i) g.report.target[i] = a.tol * 0.5 * g.task[i]->target2;
  g.dual ? solve_ridge_dual(g) : solve_ridge_primal(g);
  for (int64_t i = 0; i < count; ++i) {
    const Task<Real>& task = *g.task[i];
    const double zero = 0.5 * task.target2;
    if (!(g.report.reached[i] <= g.report.target[i])) {
      fit_head(a, tasks[i], SharedDesign<Real>(), group.alone);
      continue;
    }
    const Real* W = g.right[i];
    if (g.dual) {
      write_dual_heads(task, g.right[i], g.ldr, works[i]->W.reserve(task.C * task.ld));
      W = works[i]->W.get();
    }
    write_head(task, W, head_output(a, tasks[i]));
    write_report(g.report.reached[i] / zero, g.report.steps[i], a.tol, head_output(a, tasks[i]));
  }
}

template <typename Real>
void fit_ridge_lanes(const HeadsArgs<Real>& a, int64_t size, ParallelFor run) {
  using Group = RidgeFitGroup<Real>;
  for_each_group<Group>(run, a.samples, size, [&](Group& group) {
    const auto load = [&](int64_t t, LaneFitWork<Real>& work) {
      const bool ready = load_or_fit(a, t, false, work, group.alone);
      return ready ? smaller_side(work.task.n, work.task.M) : LaneSystem::kNone;
    };
    group.run(load, [&](auto* tasks, auto** works, int64_t count) {
      fit_ridge_side(a, tasks, works, count, group);
    });
  });
}

// Heads of tasks on one design, whose lanes hold as many of them.
template <typename Real>
struct LaneHeadsWork {
  LaneHeads<Real> heads;
  HeadWork<Real> alone;
};

// Tasks [first, first + count) on a design that they share.
template <typename Real>
void fit_design_group(const HeadsArgs<Real>& a, const LaneDesign<Real>& design,
                      const SharedDesign<Real>& common, int64_t first, int64_t count,
                      LaneHeadsWork<Real>& work) {
  constexpr int64_t lanes = Simd<Real>::kLanes;
  const int64_t C = a.samples.C, size = a.samples.M * C, whole = size / lanes * lanes;
  LaneHeads<Real>& h = work.heads;
  const auto task = [=](int64_t t) { return first + (t < count ? t : 0); };
  const auto weight = [&](int64_t t) { return head_output(a, task(t)).weight; };
  load_lane_targets(design.task, C, [&](int64_t t) { return task_input(a.samples, task(t)).y; }, h);
  for (int64_t t = 0; t < lanes; ++t) h.report.target[t] = a.tol * 0.5 * h.target2[t];
  solve_lane_heads(design, C, h);
  const LaneBuffer<Real>& W = finish_lane_heads(design, C, h);
  deinterleave<Real>(W.get(), 1, whole, weight);
  for (int64_t t = 0; t < count; ++t) {
    const HeadOutput<Real> out = head_output(a, task(t));
    const Real* init = head_start(a, task(t));
    const bool solved = h.target2[t] > 0 && h.report.reached[t] <= h.report.target[t];
    if (!solved || (init && !all_finite(init, size))) {
      fit_head(a, task(t), common, work.alone);
      continue;
    }
    for (int64_t k = whole; k < size; ++k) out.weight[k] = W.values()[k * lanes + t];
    for (int64_t c = 0; c < C; ++c) out.bias[c] = static_cast<Real>(h.bias.get()[c * lanes + t]);
    write_report(h.report.reached[t] / (0.5 * h.target2[t]), h.report.steps[t], a.tol, out);
  }
}

template <typename Real>
void fit_lane_design(const HeadsArgs<Real>& a, const LaneDesign<Real>& design,
                     const SharedDesign<Real>& common, int64_t size, ParallelFor run) {
  constexpr int64_t lanes = Simd<Real>::kLanes;
  const int64_t T = a.samples.T;
  using Work = LaneHeadsWork<Real>;
  for_each_task<Work>(run, (T + lanes - 1) / lanes, size * lanes, [&](int64_t g, Work& work) {
    fit_design_group(a, design, common, g * lanes, std::min(lanes, T - g * lanes), work);
  });
}

template <typename Real>
using RidgeBackwardGroup =
    LaneGroup<RidgeLanes<Real>, RidgeBackwardWork<Real>, HeadBackwardWork<Real>>;

template <typename Real>
void fit_ridge_side_backward(const HeadsBackwardArgs<Real>& a, const int64_t* tasks,
                             RidgeBackwardWork<Real>** works, int64_t count,
                             RidgeBackwardGroup<Real>& group) {
  RidgeLanes<Real>& g = group.lanes;
  const bool dual = takes_samples(works[0]->task.n, works[0]->task.M);
  g.take(works, count, (dual ? 2 : 1) * a.samples.C);
  dual ? solve_dual_adjoint(works, g) : solve_primal_adjoint(works, g);
  for (int64_t i = 0; i < count; ++i) {
    const HeadGradient<Real> out = head_gradient(a, tasks[i]);
    if (is_trusted(i, g))
      write_ridge_gradients(static_cast<Real>(a.penalty.ridge.scale), out, *works[i]);
    else
      fit_head_backward(task_input(a.samples, tasks[i]), a.penalty, tasks[i], out, group.alone);
  }
}

template <typename Real>
void fit_ridge_lanes_backward(const HeadsBackwardArgs<Real>& a, int64_t size, ParallelFor run) {
  using Group = RidgeBackwardGroup<Real>;
  for_each_group<Group>(run, a.samples, size, [&](Group& group) {
    const auto load = [&](int64_t t, RidgeBackwardWork<Real>& work) {
      const TaskInput<Real> in = task_input(a.samples, t);
      const HeadGradient<Real> out = head_gradient(a, t);
      const RidgeGradient rest = fits_lanes<Real>(in.n, in.M)
                                     ? load_ridge_gradient(in, a.penalty, t, out, work)
                                     : RidgeGradient::kAnyHeads;
      if (rest == RidgeGradient::kAnyHeads) fit_head_backward(in, a.penalty, t, out, group.alone);
      return rest == RidgeGradient::kSystem ? smaller_side(in.n, in.M) : LaneSystem::kNone;
    };
    group.run(load, [&](auto* tasks, auto** works, int64_t count) {
      fit_ridge_side_backward(a, tasks, works, count, group);
    });
  });
}

SPARSEDIS_END
