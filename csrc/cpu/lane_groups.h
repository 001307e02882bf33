// Small tasks in groups of as many as a vector has lanes. A task that lanes do not take, or do not
// solve, is solved alone.
#pragma once

#include <numeric>
#include <vector>

#include "../core/heads.h"
#include "../core/task_lanes.h"
#include "parallel.h"

SPARSEDIS_BEGIN

// Whether lanes take the tasks of a batch, or, where their samples differ in number, perhaps some.
template <typename Real>
bool may_fit_lanes(const SamplesArgs<Real>& s) {
  return s.offsets || fits_lanes<Real>(s.n, s.M);
}

// What a task's fit needs in the lanes.
template <typename Real>
struct LaneFitWork {
  Task<Real> task;
  Buffer<Real> W;  // (C, padded(M))
};

// Loads task t for lanes that solve `sparse` heads or ridge heads, or any of another loss; false
// where they do not take it, and it is solved alone.
template <typename Real>
bool load_or_fit(const HeadsArgs<Real>& a, int64_t t, bool sparse, LaneFitWork<Real>& work,
                 HeadWork<Real>& alone) {
  const TaskInput<Real> in = task_input(a.samples, t);
  Task<Real>& task = work.task;
  const bool ready = fits_lanes<Real>(in.n, in.M) && load_task(in, task) && load_fit(a, t, task) &&
                     !task.empty() &&
                     (in.loss != kSquared || (task.target2 > 0 && task.sparse == sparse));
  if (!ready) fit_head(a, t, SharedDesign<Real>(), alone);
  return ready;
}

// What is left of a task for the lanes: a system of its features or of its samples.
enum class LaneSystem { kNone, kFeatures, kSamples };

// Tasks side by side in the `Group`: `Work` is what one task needs, `Alone` what it needs outside
// the lanes.
template <typename Group, typename Work, typename Alone>
struct LaneGroup {
  static constexpr int64_t kLanes = Group::kLanes;
  int64_t task[kLanes], count;  // the group's
  Work work[kLanes];
  Group lanes;
  Alone alone;

  // Calls load(t, work) for every task, which says what is left to solve, then
  // solve(tasks, works, number) for those with one kind of system, and for those with the other.
  template <typename Load, typename Solve>
  void run(Load load, Solve solve) {
    LaneSystem system[kLanes];
    for (int64_t k = 0; k < count; ++k) system[k] = load(task[k], work[k]);
    for (const LaneSystem kind : {LaneSystem::kFeatures, LaneSystem::kSamples}) {
      int64_t tasks[kLanes], number = 0;
      Work* works[kLanes];
      for (int64_t k = 0; k < count; ++k)
        if (system[k] == kind) tasks[number] = task[k], works[number++] = &work[k];
      if (number > 0) solve(tasks, works, number);
    }
  }
};

// Runs body(group) for groups of tasks. A group costs what its largest task does, so that tasks of
// different sizes go by their number of samples, and those too large for lanes each by itself.
template <typename Group, typename Real, typename F>
void for_each_group(ParallelFor run, const SamplesArgs<Real>& s, int64_t size, F body) {
  constexpr int64_t lanes = Group::kLanes;
  std::vector<int64_t> order(s.offsets ? s.T : 0);
  const auto samples = [&](int64_t t) { return s.offsets[t + 1] - s.offsets[t]; };
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return samples(a) < samples(b); });
  const auto too_large = std::find_if(order.begin(), order.end(), [&](int64_t t) {
    return samples(t) > 0 && !fits_lanes<Real>(samples(t), s.M);
  });
  const int64_t small = s.offsets ? too_large - order.begin() : s.T;
  const int64_t groups = (small + lanes - 1) / lanes, units = groups + s.T - small;
  // Groups have about as many tasks each, so that threads that take as many groups end together.
  const auto first = [=](int64_t unit) {
    return unit < groups ? unit * small / groups : small + unit - groups;
  };
  for_each_task<Group>(run, units, size * s.T / std::max<int64_t>(units, 1),
                       [&](int64_t unit, Group& group) {
                         group.count = first(unit + 1) - first(unit);
                         for (int64_t k = 0; k < group.count; ++k)
                           group.task[k] = s.offsets ? order[first(unit) + k] : first(unit) + k;
                         body(group);
                       });
}

SPARSEDIS_END
