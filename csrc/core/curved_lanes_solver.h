// Heads of several small tasks under a loss that is not squared, side by side in the lanes of
// vectors: passes over quadratic models of the loss find the supports, Newton steps converge, and a
// gap is certified in double, as in curved_solver.h. What takes many rounds is left to it.
#pragma once

#include "curved_lanes_newton.h"
#include "curved_solver.h"

SPARSEDIS_BEGIN

constexpr int64_t kFirstModels = 3;                  // passes before the first Newton step
constexpr int64_t kCurvedRounds = 8;                 // at most
constexpr int64_t kCurvedSteps = kCurvedPasses + 1;  // of a round
constexpr int64_t kFirstSteps = kFirstModels * kCurvedPasses;
constexpr double kGapShare = 0.1;  // of the gap now, which the next may be expected not to reach
constexpr int kLaneHalvings = 3;   // of a Newton step

template <typename Real>
struct CurvedLaneSolve : CurvedLanes<Real> {
  using CurvedLanes<Real>::kLanes;

  LaneNewton<Real> newton;
  Lanes<Real> stiffness;
  double objective[kLanes], before[kLanes];  // now, and at `remember`
  LaneBuffer<Real> before_W, before_pull;
  LaneScores<Real> before_scores;
};

// Calls body(now, then, number of vectors) for all that `go_back` goes back to.
template <typename Real, typename F>
inline void for_each_memory(CurvedLaneSolve<Real>& g, F body) {
  LaneScores<Real>&now = g.scores, &then = g.before_scores;
  const int64_t C = g.C, size = (g.M + 1) * C;
  then.shape(g.rows, C, CurvedLaneSolve<Real>::kLanes);
  body(now.S.get(), then.S.get(), g.n * C), body(now.P.get(), then.P.get(), g.n * C);
  body(now.top.get(), then.top.get(), g.n), body(now.sum.get(), then.sum.get(), g.n);
  body(now.bias.get(), then.bias.get(), C);
  g.before_W.reserve(size), g.before_pull.reserve(size);
  body(g.all.W.values(), g.before_W.values(), size);
  body(g.all.pull.values(), g.before_pull.values(), size);
}

template <typename Real>
inline void remember(CurvedLaneSolve<Real>& g) {
  constexpr int64_t lanes = CurvedLaneSolve<Real>::kLanes;
  for_each_memory(
      g, [](const Real* now, Real* then, int64_t size) { std::copy_n(now, size * lanes, then); });
  std::copy_n(g.objective, lanes, g.before);
}

// The lanes of `back` are as they were.
template <typename Real>
inline void go_back(const LaneMask<Real>& back, CurvedLaneSolve<Real>& g) {
  constexpr int64_t lanes = CurvedLaneSolve<Real>::kLanes;
  for_each_memory(g, [&](Real* now, const Real* then, int64_t size) {
    for (int64_t k = 0; k < size * lanes; k += lanes)
      lanes_at(now + k) = back ? lanes_at(then + k) : lanes_at(now + k);
  });
  for (int64_t t = 0; t < lanes; ++t)
    if (back[t]) g.objective[t] = g.before[t];
}

// Which of some lanes have not fallen by `promised` since `remember`, up to rounding.
template <typename Real, typename F>
inline LaneMask<Real> risen(const LaneMask<Real>& lanes, const CurvedLaneSolve<Real>& g,
                            F promised) {
  LaneMask<Real> some = lanes;
  for (int64_t t = 0; t < CurvedLaneSolve<Real>::kLanes; ++t) {
    const double rounding = kFallRounding<Real> * g.zero[t];
    if (g.objective[t] <= g.before[t] - promised(t) + rounding) some[t] = 0;
  }
  return some;
}

template <typename Real>
inline void evaluate(const LaneMask<Real>& moves, CurvedLaneSolve<Real>& g) {
  evaluate(moves, g, g.scores, g.all.pull.values());
  objective(g, g.scores, g.objective);
}

// Passes over a model whose Hessian is the Gram matrix times the mean curvature of the loss, as
// those of curved_solver.h.
template <typename Real>
inline void curved_passes(const LaneMask<Real>& live, CurvedLaneSolve<Real>& g) {
  using Vector = Lanes<Real>;
  LaneSet<Real>& s = g.all;
  const Real bound = static_cast<Real>(loss_curvature(g.loss));
  Vector mean[kLaneOutputs], sum{}, *W = s.W.get(), *step = s.step.get();
  mean_curvatures(g, mean);
  for (int64_t c = 0; c < g.C; ++c) sum += mean[c];
  const Vector wanted = g.stiffness * sum / g.outputs;
  const Vector bend = wanted < bound ? wanted : Vector{} + bound;
  remember(g);
  descend(live, kCurvedPasses, true, s, Vector(1 / bend));
  for (int64_t k = 0; k < s.size * g.C; ++k) W[k] += step[k], step[k] = Vector{};
  g.moved = true;
  evaluate(live, g);
  const LaneMask<Real> back = risen(live, g, [](int64_t) { return 0.0; }) & (bend < bound);
  if (!any_lane(back)) return;
  g.stiffness = back ? 2 * g.stiffness : g.stiffness;
  go_back(back, g);
}

// W + length x of the lanes that move, as `clip_step` has it.
template <typename Real>
inline void clip_step(const LaneMask<Real>& moves, Real length, CurvedLaneSolve<Real>& g) {
  using Vector = Lanes<Real>;
  LaneSet<Real>& s = g.all;
  const int64_t C = g.C;
  const Vector zero{}, *before = g.before_W.get(), *x = g.newton.x.get();
  Vector* W = s.W.get();
  for (int64_t j = 0; j < s.size; ++j) {
    const auto signs = (s.l1.get()[j] > zero) | (s.nonneg ? -1 : 0);
    Vector kept{}, norm2{};
    for (int64_t k = j * C; k < (j + 1) * C; ++k) {
      kept += before[k] * (before[k] + length * x[k]);
      norm2 += before[k] * before[k];
    }
    const auto flips = (signs | (s.group.get()[j] > zero)) & (kept <= Real(kFlip) * norm2);
    for (int64_t k = j * C; k < (j + 1) * C; ++k) {
      const Vector moved = before[k] + length * x[k];
      const auto turned = flips | (signs & (moved * before[k] <= zero));
      W[k] = moves ? (turned ? zero : moved) : W[k];
    }
  }
  Vector* bias = &lanes_at(g.scores.bias.get());
  const Vector* from = &lanes_at(g.before_scores.bias.get());
  for (int64_t c = 0; c < C; ++c) bias[c] = moves ? from[c] + length * x[s.size * C + c] : bias[c];
}

// A Newton step of the live lanes, halved where the objective does not fall.
template <typename Real>
inline void curved_step(const LaneMask<Real>& live, const double* gap, CurvedLaneSolve<Real>& g) {
  curved_direction(live, g, gap, g.newton);
  remember(g);
  LaneMask<Real> moves = live;
  double length = 1;
  g.moved = true;
  for (int halving = 0; halving < kLaneHalvings && any_lane(moves); ++halving, length /= 2) {
    clip_step(moves, static_cast<Real>(length), g);
    evaluate(moves, g);
    moves = risen(moves, g, [&](int64_t t) { return kDescent * length * g.newton.slope[t]; });
  }
  if (any_lane(moves)) go_back(moves, g);
}

// How well biases are fitted: until what they still cost is little of the gap, or of what is asked.
template <typename Real>
inline void ease_bias(double tol, CurvedLaneSolve<Real>& g) {
  const double rounding = sizeof(Real) == 4 ? 1e-11 : small_decrement<double>();
  for (int64_t t = 0; t < CurvedLaneSolve<Real>::kLanes; ++t) {
    const double least = kBiasShare * std::max(tol, kGapShare * g.report.reached[t]) * g.zero[t];
    g.enough[t] = std::max(least * least, rounding);
  }
}

// Starts from `init`, or from zero; -1 for lanes that do the latter.
template <typename Real>
inline LaneMask<Real> start_curved(double tol, CurvedLaneSolve<Real>& g) {
  constexpr int64_t lanes = CurvedLaneSolve<Real>::kLanes;
  load_lanes(g);
  evaluate_zero(g);
  const LaneMask<Real> warm = warm_lanes(g);
  g.moved = any_lane(warm), g.live = LaneMask<Real>{} - 1;
  g.stiffness = Lanes<Real>{} + Real(kStiff);
  ease_bias(tol, g);
  for (int64_t t = 0; t < lanes; ++t)
    if (g.zero[t] == 0) g.live[t] = 0;
  Lanes<Real>* W = g.all.W.get();
  for (int64_t k = 0; k < g.M * g.C; ++k) {
    const auto kept =
        g.live & (g.finite.get()[k % g.C] > 0) & ((W[k] >= 0) | (g.all.nonneg ? 0 : -1));
    W[k] = kept ? W[k] : Lanes<Real>{};
  }
  evaluate(g.live, g);
  return ~warm;
}

// The gaps of the weights, certified in double.
template <typename Real>
inline void certify(CurvedLaneSolve<Real>& g) {
  constexpr int64_t lanes = CurvedLaneSolve<Real>::kLanes;
  std::fill_n(g.enough, lanes, small_decrement<double>());
  std::copy_n(g.scores.bias.get(), g.C * lanes, g.exact.bias.get());
  evaluate(LaneMask<Real>{} - 1, g, g.exact, g.pull.get());
  relative_gap(g, g.exact, g.pull.get(), g.report.reached);
  for (int64_t t = 0; t < lanes; ++t)
    if (g.zero[t] == 0) g.report.reached[t] = 0;
}

// Solves the tasks that are taken, in fewer than `max_steps`: W of shape (M, C) in all.W, the bias
// in exact.bias, the certified gaps in the report.
template <typename Real>
inline void solve_penalised(double tol, int64_t max_steps, CurvedLaneSolve<Real>& g) {
  constexpr int64_t lanes = CurvedLaneSolve<Real>::kLanes;
  using Mask = LaneMask<Real>;
  double* gap = g.report.reached;
  std::fill_n(g.report.steps, lanes, 0), std::fill_n(gap, lanes, 0.0);
  const auto look = [&] {
    relative_gap(g, g.scores, g.all.pull.values(), gap);
    ease_bias(tol, g);
    for (int64_t t = 0; t < lanes; ++t) g.live[t] &= gap[t] <= kInnerShare * tol ? 0 : -1;
  };
  const auto pass = [&](const Mask& some) {
    if (!any_lane(some)) return;
    curved_passes(some, g);
    count_steps(some, kCurvedPasses, g);
  };
  const Mask cold = start_curved(tol, g);
  look();
  for (int64_t model = 0; model < kFirstModels; ++model) pass(g.live & cold & g.sparse);
  int64_t rounds = std::min(kCurvedRounds, (max_steps - 1 - kFirstSteps) / kCurvedSteps);
  for (; rounds > 0 && any_lane(g.live); --rounds) {
    if (any_lane(g.live & g.sparse)) {
      pass(g.live & g.sparse);
      look();
      if (!any_lane(g.live)) break;
    }
    curved_step(g.live, gap, g);
    count_steps(g.live, 1, g);
    look();
  }
  certify(g);
}

SPARSEDIS_END
