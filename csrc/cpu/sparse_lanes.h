// Sparse heads of small tasks, as many at once as a vector has lanes.
#pragma once

#include "../core/sparse_lanes.h"
#include "lane_groups.h"

SPARSEDIS_BEGIN

// Whether lanes take the tasks of a batch that have few enough samples.
template <typename Real>
bool takes_sparse_lanes(const HeadsArgs<Real>& a) {
  const SamplesArgs<Real>& s = a.samples;
  return s.loss == kSquared && !only_ridge(a.penalty) && !present(a.penalty.shared) &&
         s.M <= kLaneUnknowns && s.C <= kLaneOutputs && a.max_iter > kFirstPasses + kRoundSteps;
}

template <typename Real>
using SparseFitGroup = LaneGroup<SparseLanes<Real>, LaneFitWork<Real>, HeadWork<Real>>;

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

// Fits tasks whose work is loaded.
template <typename Real>
void fit_sparse_group(const HeadsArgs<Real>& a, const int64_t* tasks, LaneFitWork<Real>** works,
                      int64_t count, SparseFitGroup<Real>& group) {
  SparseLanes<Real>& g = group.lanes;
  const int64_t C = a.samples.C, M = a.samples.M, ld = padded<Real>(M);
  g.take(works, count, C, [&](int64_t i) { return head_start(a, tasks[i]); });
  solve_sparse(a.tol, a.max_iter, g);
  for (int64_t i = 0; i < count; ++i) works[i]->W.reserve(C * ld);
  for (int64_t c = 0; c < C; ++c)  // past `count` the first task's again
    deinterleave<Real>(g.all.W.get() + c, C, M,
                       [&](int64_t t) { return works[t < count ? t : 0]->W.get() + c * ld; });
  for (int64_t i = 0; i < count; ++i) {
    const HeadOutput<Real> out = head_output(a, tasks[i]);
    write_head(works[i]->task, works[i]->W.get(), out);
    write_report(g.report.reached[i], g.report.steps[i], a.tol, out);
    if (!(g.report.reached[i] <= a.tol)) finish_alone(a, tasks[i], g.report.steps[i], group.alone);
  }
}

template <typename Real>
void fit_sparse_lanes(const HeadsArgs<Real>& a, int64_t size, ParallelFor run) {
  using Group = SparseFitGroup<Real>;
  for_each_group<Group>(run, a.samples, size, [&](Group& group) {
    const auto load = [&](int64_t t, LaneFitWork<Real>& work) {
      return load_or_fit(a, t, true, work, group.alone) ? LaneSystem::kFeatures : LaneSystem::kNone;
    };
    group.run(load, [&](auto* tasks, auto** works, int64_t count) {
      fit_sparse_group(a, tasks, works, count, group);
    });
  });
}

SPARSEDIS_END
