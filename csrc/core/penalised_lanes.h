// Heads of small tasks in the lanes of vectors: their penalties and weights, and of what gaps are.
#pragma once

#include "descent_lanes.h"
#include "dual_norm.h"
#include "task_lanes.h"

SPARSEDIS_BEGIN

template <typename Real>
struct PenalisedLanes : TaskLanes<Real> {
  using TaskLanes<Real>::kLanes;

  int64_t C, rows;                                            // rows: n in whole tiles
  bool moved;                                                 // not all weights are zero
  LaneBuffer<Real> A;                                         // (rows, all.ld)
  typename TaskLanes<Real>::template Each<const Real*> init;  // (M, C) or null
  LaneSet<Real> all;                                          // all features
  LaneMask<Real> live;                                        // what is not solved
  LaneReport<Real> report;

  // Takes the tasks of some works, which start at start(i), or at zero where it is null.
  template <typename Work, typename F>
  void take(Work* const* works, int64_t number, int64_t outputs, F start) {
    this->take_tasks(works, number);
    C = outputs, rows = whole_tiles(this->n);
    for (int64_t t = 0; t < kLanes; ++t) init[t] = start(t < number ? t : 0);
  }
};

// The samples and strengths of the tasks of `g`, whose features are shaped, and W = 0 or `init`.
template <typename Real>
inline void load_penalised(PenalisedLanes<Real>& g) {
  constexpr int64_t lanes = PenalisedLanes<Real>::kLanes;
  LaneSet<Real>& all = g.all;
  Lanes<Real>* A = g.A.reserve(g.rows * all.ld);
  for (int64_t i = 0; i < g.rows; ++i) g.load_sample(i, all.ld, A + i * all.ld);
  g.load_strengths([](const TaskPenalty<Real>& p) { return p.l1; }, all.l1.get());
  g.load_strengths([](const TaskPenalty<Real>& p) { return p.group; }, all.group.get());
  g.load_strengths([](const TaskPenalty<Real>& p) { return p.ridge; }, all.ridge.get());
  all.nonneg = g.task[0]->penalty.nonneg;
  for (auto* rows : {&all.W, &all.step}) std::fill_n(rows->get(), all.ld * g.C, Lanes<Real>{});
  for (int64_t t = 0; t < lanes; ++t)
    for (int64_t k = 0; k < g.M * g.C && g.init[t]; ++k)
      all.W.values()[k * lanes + t] = g.init[t][k];
}

// Numbers in double of as many lanes as its vectors have: those from lane `from` on. They are
// vectors throughout, since of a loop over lanes the compiler may round some in another way.
using Wide = Lanes<double>;

template <typename Value>
inline Wide wide(const Value* row, int64_t from) {
  return load_vector<double>(row + from);
}

// ||ST(pull_j, nu l1)||^2
template <typename Sum, typename Real>
inline Wide thresholded_norm2(const LaneSet<Real>& s, const Sum* pull, int64_t j, const Wide& nu,
                              int64_t from) {
  constexpr int64_t lanes = Simd<Real>::kLanes;
  const Wide high = nu * wide(s.l1.values() + j * lanes, from);
  const Wide low = s.nonneg ? Wide{} - std::numeric_limits<double>::infinity() : -high;
  Wide norm2{};
  for (int64_t c = 0; c < s.C; ++c) {
    Wide u = wide(pull + (j * s.C + c) * lanes, from);
    shrink(u, low, high);
    norm2 += u * u;
  }
  return norm2;
}

// The dual norm of feature j where it has one strength, l1 or group, and the square of its norm.
template <typename Sum, typename Real>
inline Wide plain_dual_norm(const LaneSet<Real>& s, const Sum* pull, int64_t j, const Wide& norm2,
                            int64_t from) {
  constexpr int64_t lanes = Simd<Real>::kLanes;
  const Wide l1 = wide(s.l1.values() + j * lanes, from);
  Wide norm = norm2, largest{};
  take_root(norm);
  for (int64_t c = 0; c < s.C; ++c) {
    Wide u = wide(pull + (j * s.C + c) * lanes, from);
    if (!s.nonneg) absolute(u);
    largest = u > largest ? u : largest;
  }
  return l1 > 0 ? largest / l1 : norm / wide(s.group.values() + j * lanes, from);
}

// The largest dual norm of a feature without ridge, at least 1.
template <typename Sum, typename Real>
inline Wide largest_dual_norm(const LaneSet<Real>& s, const Sum* pull, int64_t from) {
  constexpr int64_t lanes = Simd<Real>::kLanes;
  Wide largest = Wide{} + 1;
  for (int64_t j = 0; j < s.size; ++j) {
    const Real *l1 = s.l1.values() + j * lanes, *group = s.group.values() + j * lanes;
    const Wide norm2 = thresholded_norm2(s, pull, j, largest, from);
    const Wide held = largest * wide(group, from);
    auto above = (norm2 > held * held) & (wide(s.ridge.values() + j * lanes, from) <= Wide{});
    if (!any_lane(above)) continue;
    const auto plain = above & ((wide(l1, from) <= Wide{}) | (wide(group, from) <= Wide{}));
    const Wide one = plain_dual_norm(s, pull, j, norm2, from);
    largest = plain & (one > largest) ? one : largest;
    above &= ~plain;
    for (int64_t t = 0; t < Simd<double>::kLanes && any_lane(above); ++t) {
      if (!above[t]) continue;
      const Sum* own = pull + j * s.C * lanes + from + t;
      const double norm = dual_norm(own, s.C, lanes, l1[from + t], group[from + t], s.nonneg);
      largest[t] = std::max(largest[t], norm);
    }
  }
  return largest;
}

// The penalty of W: infinite where a bound at 0 is broken.
template <typename Real>
inline Wide penalty_of(const LaneSet<Real>& s, int64_t from) {
  constexpr int64_t lanes = Simd<Real>::kLanes;
  Wide value{}, least{};
  for (int64_t j = 0; j < s.size; ++j) {
    Wide norm2{}, size{};
    for (int64_t c = 0; c < s.C; ++c) {
      Wide w = wide(s.W.values() + (j * s.C + c) * lanes, from);
      least = w < least ? w : least;
      norm2 += w * w;
      absolute(w);
      size += w;
    }
    Wide norm = norm2;
    take_root(norm);
    value += wide(s.l1.values() + j * lanes, from) * size;
    value += wide(s.group.values() + j * lanes, from) * norm;
    value += 0.5 * wide(s.ridge.values() + j * lanes, from) * norm2;
  }
  const Wide none = Wide{} + std::numeric_limits<double>::infinity();
  return s.nonneg ? (least < 0 ? none : value) : value;
}

// The penalty's conjugate at pull / largest, of features with ridge.
template <typename Sum, typename Real>
inline Wide conjugate_of(const LaneSet<Real>& s, const Sum* pull, const Wide& largest,
                         int64_t from) {
  constexpr int64_t lanes = Simd<Real>::kLanes;
  const Wide zero{};
  Wide value{};
  for (int64_t j = 0; j < s.size; ++j) {
    const Wide ridge = wide(s.ridge.values() + j * lanes, from);
    if (!any_lane(ridge > zero)) continue;
    Wide norm = thresholded_norm2(s, pull, j, largest, from);
    take_root(norm);
    const Wide excess = norm / largest - wide(s.group.values() + j * lanes, from);
    const Wide part = excess * excess / (2.0 * ridge);
    value += (excess > zero) & (ridge > zero) ? part : zero;
  }
  return value;
}

template <typename Real>
inline void count_steps(const LaneMask<Real>& moved, int64_t steps, PenalisedLanes<Real>& g) {
  for (int64_t t = 0; t < PenalisedLanes<Real>::kLanes; ++t)
    g.report.steps[t] += moved[t] ? steps : 0;
}

// -1 for lanes that do not start at zero.
template <typename Real>
inline LaneMask<Real> warm_lanes(const PenalisedLanes<Real>& g) {
  LaneMask<Real> warm{};
  for (int64_t t = 0; t < PenalisedLanes<Real>::kLanes; ++t)
    warm[t] = g.init[t] && sum_of_squares(g.init[t], g.M * g.C) > 0 ? -1 : 0;
  return warm;
}

SPARSEDIS_END
