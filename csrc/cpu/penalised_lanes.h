// Sparse heads of small tasks, and heads under losses that are not squared, as many at once as a
// vector has lanes.
#pragma once

#include "../core/curved_lanes_solver.h"
#include "../core/sparse_lanes.h"
#include "lane_groups.h"

SPARSEDIS_BEGIN

// Whether lanes take the tasks of a batch that have few enough samples.
template <typename Real>
bool takes_penalised_lanes(const HeadsArgs<Real>& a) {
  const SamplesArgs<Real>& s = a.samples;
  const int64_t least =
      s.loss == kSquared ? kFirstPasses + kRoundSteps : kFirstSteps + kCurvedSteps;
  return !(s.loss == kSquared && only_ridge(a.penalty)) && !present(a.penalty.shared) &&
         s.M <= kLaneUnknowns && s.C <= kLaneOutputs && a.max_iter > least;
}

template <typename Real>
struct PenalisedWork : LaneFitWork<Real> {
  Curved<Real> curved;
};

template <typename Heads, typename Real>
using PenalisedGroup = LaneGroup<Heads, PenalisedWork<Real>, HeadWork<Real>>;

template <typename Real>
LaneSystem load_penalised(const HeadsArgs<Real>& a, int64_t t, PenalisedWork<Real>& work,
                          HeadWork<Real>& alone) {
  if (!load_or_fit(a, t, true, work, alone)) return LaneSystem::kNone;
  if (a.samples.loss != kSquared) load_curved(task_input(a.samples, t), work.task, work.curved);
  return LaneSystem::kFeatures;
}

// Goes on from the weights that a lane has left, alone.
template <typename Real>
void finish_alone(const HeadsArgs<Real>& a, int64_t t, int64_t steps, HeadWork<Real>& alone) {
  const HeadOutput<Real> out = head_output(a, t);
  HeadsArgs<Real> rest = a;
  if (all_finite(out.weight, a.samples.M * a.samples.C)) rest.init = a.weight;
  rest.max_iter -= steps;
  fit_head(rest, t, SharedDesign<Real>(), alone);
  *out.n_iter += static_cast<int32_t>(steps);
}

// The intercept that lane i has found, where the loss is not squared.
template <typename Real>
void write_bias(const TaskInput<Real>&, const PenalisedWork<Real>&, const SparseLanes<Real>&,
                int64_t, Real*) {}
template <typename Real>
void write_bias(const TaskInput<Real>& in, const PenalisedWork<Real>& work,
                const CurvedLaneSolve<Real>& g, int64_t i, Real* bias) {
  double centred[kLaneOutputs];
  for (int64_t c = 0; c < g.C; ++c) centred[c] = g.exact.bias.get()[c * g.kLanes + i];
  write_curved_bias(in, work.task.zbar.get(), work.W.get(), work.task.ld, centred,
                    work.curved.limit.get(), bias);
}

// Fits tasks whose work is loaded.
template <typename Heads, typename Real>
void fit_penalised_group(const HeadsArgs<Real>& a, const int64_t* tasks,
                         PenalisedWork<Real>** works, int64_t count,
                         PenalisedGroup<Heads, Real>& group) {
  Heads& g = group.lanes;
  const int64_t C = a.samples.C, M = a.samples.M, ld = padded<Real>(M);
  g.take(works, count, C, [&](int64_t i) { return head_start(a, tasks[i]); });
  solve_penalised(a.tol, a.max_iter, g);
  for (int64_t i = 0; i < count; ++i) works[i]->W.reserve(C * ld);
  for (int64_t c = 0; c < C; ++c)  // past `count` the first task's again
    deinterleave<Real>(g.all.W.get() + c, C, M,
                       [&](int64_t t) { return works[t < count ? t : 0]->W.get() + c * ld; });
  for (int64_t i = 0; i < count; ++i) {
    const HeadOutput<Real> out = head_output(a, tasks[i]);
    write_head(works[i]->task, works[i]->W.get(), out);
    write_bias(task_input(a.samples, tasks[i]), *works[i], g, i, out.bias);
    write_report(g.report.reached[i], g.report.steps[i], a.tol, out);
    if (!(g.report.reached[i] <= a.tol)) finish_alone(a, tasks[i], g.report.steps[i], group.alone);
  }
}

template <typename Heads, typename Real>
void fit_penalised_lanes(const HeadsArgs<Real>& a, int64_t size, ParallelFor run) {
  using Group = PenalisedGroup<Heads, Real>;
  for_each_group<Group>(run, a.samples, size, [&](Group& group) {
    const auto load = [&](int64_t t, PenalisedWork<Real>& work) {
      return load_penalised(a, t, work, group.alone);
    };
    group.run(load, [&](auto* tasks, auto** works, int64_t count) {
      fit_penalised_group<Heads>(a, tasks, works, count, group);
    });
  });
}

SPARSEDIS_END
