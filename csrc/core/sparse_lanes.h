// Sparse heads of several small tasks, side by side in the lanes of vectors.
//
// Block coordinate descent as in descent.h, every lane on a feature of its own task: first over all
// features, then over those that have a weight or are pulled from zero, and a gap certified on all
// of them in double sums. One output has Newton steps, too. A feature that one task would wait for,
// or half fill a vector with, takes no longer for all. Lanes that are solved wait for the others;
// what takes many passes is left to sparse_solver.h.
#pragma once

#include "penalised_lanes.h"
#include "sparse_solver.h"

SPARSEDIS_BEGIN

constexpr int64_t kFirstPasses = 6;                // over all features, of a cold start
constexpr int64_t kRoundPasses = 12;               // over a set, before the gap is looked at
constexpr int64_t kLaneRounds = 6;                 // at most
constexpr int64_t kRoundSteps = kRoundPasses + 1;  // with a Newton step

template <typename Real>
struct SparseLanes : PenalisedLanes<Real> {
  using PenalisedLanes<Real>::kLanes;
  template <typename T>
  using Each = std::array<T, kLanes>;

  LaneSet<Real> set;               // the features that move
  LaneBuffer<Real> B, R;           // (rows, C)
  Buffer<double> product, pull;    // (rows, C), (all.ld, C): A W, A'R in double
  Each<double> fitted, residual2;  // <R, A W>, ||R||^2
  Each<int64_t> sizes;             // of the sets
  Buffer<int32_t> index;           // (M + 1, lanes): their features
  LaneMatrix<Real, false> system;  // of Newton steps
  LaneSides<Real> sides;
};

// What the tasks of `g` are solved on, from W = 0 or `init`.
template <typename Real>
inline void load_lanes(SparseLanes<Real>& g) {
  constexpr int64_t lanes = SparseLanes<Real>::kLanes;
  const int64_t C = g.C, size = g.rows * C;
  g.all.shape(g.M, C), g.set.shape(g.M, C);
  load_penalised(g);
  g.set.nonneg = g.all.nonneg;
  gram_lanes(g.A.get(), g.n, true, g.all.gram);
  Lanes<Real>* B = g.B.reserve(size);
  for (int64_t c = 0; c < C; ++c)
    g.load_of_samples([&](int64_t t) { return g.task[t]->B.get() + c * g.task[t]->lds; }, B + c, C);
  std::fill(B + g.n * C, B + size, Lanes<Real>{});
  g.R.reserve(size);
  g.index.reserve((g.M + 1) * lanes);
  g.product.reserve(size * lanes), g.pull.reserve(g.all.ld * C * lanes);
}

// R = B - A W and pull = A'R, summed in `Sum`. R itself is rounded, and so is the point whose gap
// is taken; the gap is that point's all the same.
template <typename Sum, typename Real>
inline void correlate(SparseLanes<Real>& g, Sum* product, Sum* pull) {
  constexpr int64_t lanes = SparseLanes<Real>::kLanes;
  const Lanes<Real>* A = g.A.get();
  const int64_t ld = g.all.ld, C = g.C;
  multiply_rows<Real>(A, ld, 1, g.rows, g.moved ? g.M : 0, g.all.W.get(), C, product);
  for (int64_t from = 0; from < lanes; from += Simd<double>::kLanes) {
    Wide fitted{}, residual2{};
    for (int64_t i = from; i < g.rows * C * lanes; i += lanes) {
      const Wide score = wide(product, i), left = wide(g.B.values(), i) - score;
      for (int64_t t = 0; t < Simd<double>::kLanes; ++t)
        g.R.values()[i + t] = static_cast<Real>(left[t]);
      const Wide rounded = wide(g.R.values(), i);
      fitted += rounded * score, residual2 += rounded * rounded;
    }
    *reinterpret_cast<Wide*>(g.fitted.data() + from) = fitted;
    *reinterpret_cast<Wide*>(g.residual2.data() + from) = residual2;
  }
  multiply_rows<Real>(A, 1, ld, ld, g.n, g.R.get(), C, pull);
}

// As that of sparse_solver.h, of every lane.
template <typename Sum, typename Real>
inline void relative_gap(const SparseLanes<Real>& g, const Sum* pull, double* gap) {
  constexpr int64_t lanes = SparseLanes<Real>::kLanes, part = Simd<double>::kLanes;
  for (int64_t from = 0; from < lanes; from += part) {
    const Wide largest = largest_dual_norm(g.all, pull, from), s = 1.0 / largest;
    Wide value = penalty_of(g.all, from) + conjugate_of(g.all, pull, largest, from);
    value += 0.5 * (1.0 - s) * (1.0 - s) * wide(g.residual2.data(), from);
    value -= s * wide(g.fitted.data(), from);
    for (int64_t t = 0; t < part; ++t)
      gap[from + t] = at_least_zero(value[t]) / (0.5 * g.task[from + t]->target2);
  }
}

// The features of every live lane's set: those that have a weight, and, in lanes that are `warm`,
// those that the pull moves from zero.
template <typename Real>
inline void choose_features(const LaneMask<Real>& warm, SparseLanes<Real>& g) {
  constexpr int64_t lanes = SparseLanes<Real>::kLanes;
  g.sizes.fill(0);
  for (int64_t j = 0; j < g.M; ++j) {
    Lanes<Real> size{};
    for (int64_t c = 0; c < g.C; ++c) {
      Lanes<Real> w = g.all.W.get()[j * g.C + c] + g.all.step.get()[j * g.C + c];
      absolute(w);
      size += w;
    }
    bool chosen[lanes];
    for (int64_t from = 0; from < lanes; from += Simd<double>::kLanes) {
      const Wide norm2 = thresholded_norm2(g.all, g.all.pull.values(), j, Wide{} + 1, from);
      const Wide held = wide(g.all.group.values() + j * lanes, from);
      const auto pulled = norm2 > held * held;
      for (int64_t t = 0; t < Simd<double>::kLanes; ++t) {
        const int64_t lane = from + t;
        chosen[lane] = ((size[lane] > 0) | (pulled[t] & warm[lane])) & (g.live[lane] != 0);
      }
    }
    for (int64_t t = 0; t < lanes; ++t) {
      g.index.get()[g.sizes[t] * lanes + t] = static_cast<int32_t>(j);
      g.sizes[t] += chosen[t];
    }
  }
  g.set.size = *std::max_element(g.sizes.begin(), g.sizes.end());
}

// Copies feature k of lane t's set from all features.
template <typename Real>
inline void gather_feature(int64_t t, int64_t k, SparseLanes<Real>& g) {
  constexpr int64_t lanes = SparseLanes<Real>::kLanes;
  LaneSet<Real>&all = g.all, &set = g.set;
  const int32_t* index = g.index.get() + t;
  const int64_t j = index[k * lanes];
  const Real* from = all.gram.K.values() + j * all.ld * lanes + t;
  Real* to = set.gram.K.values() + k * set.ld * lanes + t;
  for (int64_t b = 0; b <= k; ++b) to[b * lanes] = from[index[b * lanes] * lanes];
  for (auto row : {&LaneSet<Real>::l1, &LaneSet<Real>::group, &LaneSet<Real>::ridge})
    (set.*row).values()[k * lanes + t] = (all.*row).values()[j * lanes + t];
  for (auto rows : {&LaneSet<Real>::W, &LaneSet<Real>::pull, &LaneSet<Real>::step})
    for (int64_t c = 0; c < g.C; ++c)
      (set.*rows).values()[(k * g.C + c) * lanes + t] =
          (all.*rows).values()[(j * g.C + c) * lanes + t];
}

template <typename Real>
inline void gather_sets(SparseLanes<Real>& g) {
  LaneSet<Real>& set = g.set;
  for (int64_t k = 0; k < set.size; ++k) {
    std::fill_n(set.gram.K.get() + k * set.ld, k + 1, Lanes<Real>{});
    for (auto* row : {&set.l1, &set.group, &set.ridge}) row->get()[k] = Lanes<Real>{};
    for (auto* rows : {&set.W, &set.pull, &set.step})
      std::fill_n(rows->get() + k * g.C, g.C, Lanes<Real>{});
    for (int64_t t = 0; t < SparseLanes<Real>::kLanes; ++t)
      if (k < g.sizes[t]) gather_feature(t, k, g);
  }
}

// Back: W of all features, which have taken their steps.
template <typename Real>
inline void scatter_weights(SparseLanes<Real>& g) {
  constexpr int64_t lanes = SparseLanes<Real>::kLanes;
  const int32_t C = static_cast<int32_t>(g.C);
  Real *W = g.all.W.values(), *step = g.all.step.values();
  for (int64_t k = 0; k < g.set.size; ++k)
    for (int32_t c = 0; c < C; ++c) {
      const Lanes<Real> moved = g.set.W.get()[k * C + c] + g.set.step.get()[k * C + c];
      for (int32_t t = 0; t < lanes; ++t) {
        if (k >= g.sizes[t]) continue;
        const int64_t to = (g.index.get()[k * lanes + t] * C + c) * lanes + t;
        W[to] = moved[t], step[to] = 0;
      }
    }
}

// Solves the tasks that are taken, in fewer than `max_steps`: W of shape (M, C) in all.W, the
// certified gaps in the report.
template <typename Real>
inline void solve_penalised(double tol, int64_t max_steps, SparseLanes<Real>& g) {
  constexpr int64_t lanes = SparseLanes<Real>::kLanes;
  using Mask = LaneMask<Real>;
  load_lanes(g);
  Real *product = reinterpret_cast<Real*>(g.product.get()), *pull = g.all.pull.values();
  Mask warm = warm_lanes(g);
  g.live = Mask{} - 1, g.moved = any_lane(warm);
  std::fill_n(g.report.steps, lanes, 0);
  const int64_t rounds = std::min(kLaneRounds, (max_steps - 1 - kFirstPasses) / kRoundSteps);
  for (int64_t round = 0;; ++round) {
    double* gap = g.report.reached;
    correlate(g, product, pull);
    relative_gap(g, pull, gap);
    for (int64_t t = 0; t < lanes; ++t) g.live[t] &= gap[t] <= kInnerShare * tol ? 0 : -1;
    if (round == rounds || !any_lane(g.live)) break;
    const Mask cold = g.live & ~warm;
    if (any_lane(cold)) descend(cold, kFirstPasses, true, g.all);
    choose_features(warm, g);
    gather_sets(g);
    descend(g.live, kRoundPasses, false, g.set);
    if (g.C == 1) newton_step(g.live, g.system, g.sides, g.set);
    scatter_weights(g);
    g.moved = true;
    const int64_t steps = g.C == 1 ? kRoundSteps : kRoundPasses;
    count_steps(cold, kFirstPasses, g), count_steps(g.live, steps, g);
    warm = Mask{} - 1;
  }
  if (sizeof(Real) == 8) return;
  correlate(g, g.product.get(), g.pull.get());
  relative_gap(g, g.pull.get(), g.report.reached);
}

SPARSEDIS_END
