// Sparse heads of several small tasks, side by side in the lanes of vectors.
//
// Block coordinate descent as in descent.h, every lane on a feature of its own task: first over all
// features, then over those that have a weight or are pulled from zero, and a gap certified on all
// of them in double sums. One output has Newton steps, too. A feature that one task would wait for,
// or half fill a vector with, takes no longer for all. Lanes that are solved wait for the others;
// what takes many passes is left to sparse_solver.h.
#pragma once

#include "sparse_solver.h"
#include "task_lanes.h"

SPARSEDIS_BEGIN

constexpr int64_t kLaneOutputs = 5;   // at most: more sums than registers hold
constexpr int64_t kFirstPasses = 6;   // over all features, of a cold start
constexpr int64_t kRoundPasses = 12;  // over a set, before the gap is looked at
constexpr int64_t kLaneRounds = 6;    // at most
constexpr int64_t kLaneSteps = kFirstPasses + (kRoundPasses + 1) * kLaneRounds;

// Whether lanes take the tasks of a batch that have few enough samples. With four lanes a task
// alone is as fast.
template <typename Real>
inline bool takes_sparse_lanes(const HeadsArgs<Real>& a) {
  const SamplesArgs<Real>& s = a.samples;
  return Simd<Real>::kLanes >= 8 && s.loss == kSquared && !only_ridge(a.penalty) &&
         !present(a.penalty.shared) && s.M <= kLaneUnknowns && s.C <= kLaneOutputs &&
         a.max_iter > kLaneSteps;
}

// Features of every lane; where it has fewer than others, zeros stand after its last. What moves is
// `step`: weights are W + step, and `pull` is A'R at W.
template <typename Real>
struct LaneSet {
  int64_t size, ld, C;
  LaneMatrix<Real, false> gram;          // (ld, ld), left of the diagonal's tiles and on them
  LaneBuffer<Real> l1, group, ridge;     // (ld)
  LaneBuffer<Real> W, pull, step, base;  // (ld, C); base: pull + G_jj W_j
  LaneBuffer<Real> inverse, low, high, level, held, taken;  // (ld), as in `PassWork`

  void shape(int64_t features, int64_t outputs) {
    gram.shape(features), size = features, ld = gram.ld, C = outputs;
    for (auto* rows : {&W, &pull, &step, &base}) rows->reserve(ld * C);
    for (auto* row : {&l1, &group, &ridge, &inverse, &low, &high, &level, &held, &taken})
      row->reserve(ld);
  }
};

template <typename Real>
struct SparseLanes : TaskLanes<Real> {
  using TaskLanes<Real>::kLanes;
  template <typename T>
  using Each = std::array<T, kLanes>;
  using Index = std::conditional_t<sizeof(Real) == 4, int32_t, int64_t>;
  typedef Index Mask __attribute__((vector_size(kVectorBytes)));

  int64_t C, rows;                 // rows: n in whole tiles
  bool nonneg, any_ridge, moved;   // moved: not all weights are zero
  Each<const Real*> init;          // (M, C) or null
  LaneSet<Real> all, set;          // all features, and those that move
  LaneBuffer<Real> A, B, R;        // (rows, all.ld), (rows, C) twice
  Buffer<double> product, pull;    // (rows, C), (all.ld, C): A W, A'R in double
  Each<double> fitted, residual2;  // <R, A W>, ||R||^2
  Mask live;                       // what is not solved
  Each<int64_t> sizes;             // of the sets
  Buffer<int32_t> index;           // (M + 1, lanes): their features
  LaneReport<Real> report;
  LaneMatrix<Real, false> system;  // of Newton steps
  LaneSides<Real> sides;

  // Takes the tasks of some works, which start at start(i), or at zero where it is null.
  template <typename Work, typename F>
  void take(Work* const* works, int64_t number, int64_t outputs, F start) {
    this->take_tasks(works, number);
    C = outputs, rows = (this->n + kLaneRows - 1) / kLaneRows * kLaneRows;
    for (int64_t t = 0; t < kLanes; ++t) init[t] = start(t < number ? t : 0);
  }
};

template <typename Real>
inline void load_samples(SparseLanes<Real>& g) {
  const int64_t ld = g.all.ld, C = g.C;
  Lanes<Real>*A = g.A.reserve(g.rows * ld), *B = g.B.reserve(g.rows * C);
  for (int64_t i = 0; i < g.rows; ++i) g.load_sample(i, ld, A + i * ld);
  for (int64_t c = 0; c < C; ++c)
    interleave<Real>(
        [&](int64_t t, int64_t i) {
          const Task<Real>& task = *g.task[t];
          return i < task.lds ? load_vector<Real>(task.B.get() + c * task.lds + i) : Lanes<Real>{};
        },
        g.n, B + c, C);
  std::fill(B + g.n * C, B + g.rows * C, Lanes<Real>{});
}

// What the tasks of `g` are solved on, from W = 0 or `init`.
template <typename Real>
inline void load_lanes(SparseLanes<Real>& g) {
  constexpr int64_t lanes = SparseLanes<Real>::kLanes;
  LaneSet<Real>& all = g.all;
  all.shape(g.M, g.C), g.set.shape(g.M, g.C);
  load_samples(g);
  gram_lanes(g.A.get(), g.n, true, all.gram);
  g.load_strengths([](const TaskPenalty<Real>& p) { return p.l1; }, all.l1.get());
  g.load_strengths([](const TaskPenalty<Real>& p) { return p.group; }, all.group.get());
  g.load_strengths([](const TaskPenalty<Real>& p) { return p.ridge; }, all.ridge.get());
  g.nonneg = g.task[0]->penalty.nonneg;
  const Real* ridge = all.ridge.values();
  g.any_ridge = std::any_of(ridge, ridge + g.M * lanes, [](Real r) { return r > 0; });
  for (auto* rows : {&all.W, &all.step}) std::fill_n(rows->get(), all.ld * g.C, Lanes<Real>{});
  for (int64_t t = 0; t < lanes; ++t)
    for (int64_t k = 0; k < g.M * g.C && g.init[t]; ++k)
      all.W.values()[k * lanes + t] = g.init[t][k];
  g.R.reserve(g.rows * g.C);
  g.index.reserve((g.M + 1) * lanes);
  g.product.reserve(g.rows * g.C * lanes), g.pull.reserve(all.ld * g.C * lanes);
}

// Numbers in double of as many lanes as its vectors have: those from lane `from` on. They are
// vectors throughout, since of a loop over lanes the compiler may round some in another way.
using Wide = Lanes<double>;

template <typename Mask>
inline bool any_lane(const Mask& mask) {
  int64_t some = 0;
#pragma omp simd reduction(| : some)
  for (size_t t = 0; t < sizeof(Mask) / sizeof(mask[0]); ++t) some |= mask[t];
  return some != 0;
}

template <typename Value>
inline Wide wide(const Value* row, int64_t from) {
  return load_vector<double>(row + from);
}

// ||ST(pull_j, nu l1)||^2
template <typename Sum, typename Real>
inline Wide thresholded_norm2(const SparseLanes<Real>& g, const Sum* pull, int64_t j,
                              const Wide& nu, int64_t from) {
  constexpr int64_t lanes = SparseLanes<Real>::kLanes;
  const Wide high = nu * wide(g.all.l1.values() + j * lanes, from);
  const Wide low = g.nonneg ? Wide{} - std::numeric_limits<double>::infinity() : -high;
  Wide norm2{};
  for (int64_t c = 0; c < g.C; ++c) {
    Wide u = wide(pull + (j * g.C + c) * lanes, from);
    shrink(u, low, high);
    norm2 += u * u;
  }
  return norm2;
}

// The largest dual norm of a feature without ridge, at least 1.
template <typename Sum, typename Real>
inline Wide largest_dual_norm(const SparseLanes<Real>& g, const Sum* pull, int64_t from) {
  constexpr int64_t lanes = SparseLanes<Real>::kLanes;
  Wide largest = Wide{} + 1;
  for (int64_t j = 0; j < g.M; ++j) {
    const Real *l1 = g.all.l1.values() + j * lanes, *group = g.all.group.values() + j * lanes;
    const Wide norm2 = thresholded_norm2(g, pull, j, largest, from);
    const Wide held = largest * wide(group, from);
    const auto above =
        (norm2 > held * held) & (wide(g.all.ridge.values() + j * lanes, from) <= Wide{});
    for (int64_t t = 0; t < Simd<double>::kLanes && any_lane(above); ++t) {
      if (!above[t]) continue;
      const Sum* own = pull + j * g.C * lanes + from + t;
      const double norm = dual_norm(own, g.C, lanes, l1[from + t], group[from + t], g.nonneg);
      largest[t] = std::max(largest[t], norm);
    }
  }
  return largest;
}

// product (rows, C) = X Y, summed in its own type: row i of X is at i * row, its entries `step`
// apart, and rows are whole tiles.
template <typename Sum, typename Real>
inline void multiply_rows(const Lanes<Real>* X, int64_t row, int64_t step, int64_t rows,
                          int64_t count, const Lanes<Real>* Y, int64_t C, Sum* product) {
  constexpr int64_t lanes = Simd<Real>::kLanes, part = Simd<Sum>::kLanes;
  for_each_sides(C, [&](int64_t first, auto outputs) {
    LaneTile<decltype(outputs)::value, Sum> sum;
    for (int64_t i = 0; i < rows; i += kLaneRows)
      for (int64_t from = 0; from < lanes; from += part) {
        sum.clear();
        for (int64_t k = 0; k < count; ++k)
          sum.template add_product<Real>(X + i * row + k * step, row, Y + k * C + first, from);
        sum.store_part(product + (i * C + first) * lanes + from, C, lanes);
      }
  });
}

// R = B - A W and pull = A'R, summed in `Sum`. R itself is rounded, and so is the point whose gap
// is taken; the gap is that point's all the same.
template <typename Sum, typename Real>
inline void correlate(SparseLanes<Real>& g, Sum* product, Sum* pull) {
  constexpr int64_t lanes = SparseLanes<Real>::kLanes;
  const Lanes<Real>* A = g.A.get();
  const int64_t ld = g.all.ld, C = g.C;
  multiply_rows<Sum, Real>(A, ld, 1, g.rows, g.moved ? g.M : 0, g.all.W.get(), C, product);
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
  multiply_rows<Sum, Real>(A, 1, ld, ld, g.n, g.R.get(), C, pull);
}

// The penalty of W: infinite where a bound at 0 is broken.
template <typename Real>
inline Wide penalty_of(const SparseLanes<Real>& g, int64_t from) {
  constexpr int64_t lanes = SparseLanes<Real>::kLanes;
  Wide value{}, least{};
  for (int64_t j = 0; j < g.M; ++j) {
    Wide norm2{}, size{};
    for (int64_t c = 0; c < g.C; ++c) {
      Wide w = wide(g.all.W.values() + (j * g.C + c) * lanes, from);
      least = w < least ? w : least;
      norm2 += w * w;
      absolute(w);
      size += w;
    }
    Wide norm = norm2;
    take_root(norm);
    value += wide(g.all.l1.values() + j * lanes, from) * size;
    value += wide(g.all.group.values() + j * lanes, from) * norm;
    value += 0.5 * wide(g.all.ridge.values() + j * lanes, from) * norm2;
  }
  const Wide none = Wide{} + std::numeric_limits<double>::infinity();
  return g.nonneg ? (least < 0 ? none : value) : value;
}

// The penalty's conjugate at pull / largest, of features with ridge.
template <typename Sum, typename Real>
inline Wide conjugate_of(const SparseLanes<Real>& g, const Sum* pull, const Wide& largest,
                         int64_t from) {
  constexpr int64_t lanes = SparseLanes<Real>::kLanes;
  const Wide zero{};
  Wide value{};
  for (int64_t j = 0; j < g.M && g.any_ridge; ++j) {
    const Wide norm2 = thresholded_norm2(g, pull, j, largest, from);
    const Wide ridge = wide(g.all.ridge.values() + j * lanes, from);
    Wide norm = norm2;
    take_root(norm);
    const Wide excess = norm / largest - wide(g.all.group.values() + j * lanes, from);
    const Wide part = excess * excess / (2.0 * ridge);
    value += (excess > zero) & (ridge > zero) ? part : zero;
  }
  return value;
}

// As that of sparse_solver.h, of every lane.
template <typename Sum, typename Real>
inline void relative_gap(const SparseLanes<Real>& g, const Sum* pull, double* gap) {
  constexpr int64_t lanes = SparseLanes<Real>::kLanes, part = Simd<double>::kLanes;
  for (int64_t from = 0; from < lanes; from += part) {
    const Wide largest = largest_dual_norm(g, pull, from), s = 1.0 / largest;
    Wide value = penalty_of(g, from) + conjugate_of(g, pull, largest, from);
    value += 0.5 * (1.0 - s) * (1.0 - s) * wide(g.residual2.data(), from);
    value -= s * wide(g.fitted.data(), from);
    for (int64_t t = 0; t < part; ++t)
      gap[from + t] = at_least_zero(value[t]) / (0.5 * g.task[from + t]->target2);
  }
}

// The features of every live lane's set: those that have a weight, and, in lanes that are `warm`,
// those that the pull moves from zero.
template <typename Real>
inline void choose_features(const typename SparseLanes<Real>::Mask& warm, SparseLanes<Real>& g) {
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
      const Wide norm2 = thresholded_norm2(g, g.all.pull.values(), j, Wide{} + 1, from);
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

// As that of descent.h.
template <typename Real>
inline bool load_thresholds(bool nonneg, LaneSet<Real>& s) {
  const Lanes<Real> zero{}, one = zero + 1, smallest = zero + std::numeric_limits<Real>::min();
  const bool grouped = s.C > 1;
  Lanes<Real> any{};
  for (int64_t k = 0; k < s.size; ++k) {
    const Lanes<Real> group = s.group.get()[k], l1 = s.l1.get()[k] + (grouped ? zero : group);
    const Lanes<Real> own = s.gram.K.get()[k * (s.ld + 1)], curvature = own + s.ridge.get()[k];
    const Lanes<Real> inverse = curvature > zero ? one / curvature : zero;
    const auto held = group >= smallest;
    s.inverse.get()[k] = inverse, s.high.get()[k] = l1;
    s.low.get()[k] = nonneg ? zero - std::numeric_limits<Real>::infinity() : -l1;
    s.level.get()[k] = held ? one / group : one;
    s.held.get()[k] = held ? one : zero;
    s.taken.get()[k] = held ? inverse : zero;
    any += l1;
    for (int64_t c = k * s.C; c < (k + 1) * s.C; ++c)
      s.base.get()[c] = s.pull.get()[c] + own * s.W.get()[c];
  }
  bool thresholded = nonneg || !grouped;
  for (int64_t t = 0; t < Simd<Real>::kLanes; ++t) thresholded |= any[t] > 0;
  return thresholded;
}

// Adds sum_k row[k * stride] step[k] to `sums`, of which several run side by side: which one a
// feature goes to does not depend on how many there are.
template <int outputs, int sides, typename Real>
inline void add_steps(const Lanes<Real>* row, int64_t stride, const Lanes<Real>* step,
                      int64_t count, Lanes<Real> (&sums)[sides][outputs]) {
  const auto add = [&](int64_t k, int side) __attribute__((always_inline)) {
    const Lanes<Real> factor = row[k * stride];
#pragma GCC unroll 8
    for (int c = 0; c < outputs; ++c) sums[side][c] += factor * step[k * outputs + c];
  };
  int64_t k = 0;
  for (; k + sides <= count; k += sides)
#pragma GCC unroll 8
    for (int side = 0; side < sides; ++side) add(k + side, side);
#pragma GCC unroll 8
  for (int side = 0; side + 1 < sides; ++side)
    if (k + side < count) add(k + side, side);
}

// u = A_j'R as the weights are now, without those of feature j itself.
template <int outputs, typename Real>
__attribute__((always_inline)) inline void pull_without(int64_t j, const LaneSet<Real>& s,
                                                        Lanes<Real> (&u)[outputs]) {
  constexpr int sides = outputs <= 2 ? 4 : 2;
  const Lanes<Real>*G = s.gram.K.get(), *step = s.step.get();
  Lanes<Real> sums[sides][outputs] = {};
  add_steps<outputs, sides, Real>(G + (j + 1) * s.ld + j, s.ld, step + (j + 1) * outputs,
                                  s.size - j - 1, sums);
  add_steps<outputs, sides, Real>(G + j * s.ld, 1, step, j, sums);
#pragma GCC unroll 8
  for (int c = 0; c < outputs; ++c) {
    for (int side = 1; side < sides; ++side) sums[0][c] += sums[side][c];
    u[c] = s.base.get()[j * outputs + c] - sums[0][c];
  }
}

// Moves feature j of every live lane to its minimum.
template <int outputs, bool thresholded, typename Real>
__attribute__((always_inline)) inline void descend_one(const typename SparseLanes<Real>::Mask& live,
                                                       int64_t j, LaneSet<Real>& s) {
  using Vector = Lanes<Real>;
  Vector *own = s.step.get() + j * outputs, x[outputs], norm2[2] = {};
  pull_without(j, s, x);
#pragma GCC unroll 8
  for (int c = 0; c < outputs; ++c) {
    if constexpr (thresholded) shrink(x[c], s.low.get()[j], s.high.get()[j]);
    const Vector part = x[c] * s.level.get()[j];
    norm2[c % 2] += part * part;
  }
  Vector factor = s.inverse.get()[j];
  if constexpr (outputs > 1) {  // the l1 and group strengths of one output are one
    const Vector most = Vector{} + std::numeric_limits<Real>::max();
    const Vector all = norm2[0] + norm2[1];
    Vector root = all < most ? all : most;
    take_root(root);
    factor = all > s.held.get()[j] ? factor - s.taken.get()[j] / root : Vector{};
  }
#pragma GCC unroll 8
  for (int c = 0; c < outputs; ++c)
    own[c] = live ? x[c] * factor - s.W.get()[j * outputs + c] : own[c];
}

template <int outputs, bool thresholded, typename Real>
inline void descend_rows(const typename SparseLanes<Real>::Mask& live, int64_t passes,
                         LaneSet<Real>& s) {
  for (int64_t i = 0; i < passes; ++i)
    for (int64_t j = 0; j < s.size; ++j) descend_one<outputs, thresholded>(live, j, s);
}

// Cyclic passes over the features of a set, of the lanes that are live.
template <typename Real>
inline void descend(const typename SparseLanes<Real>::Mask& live, bool nonneg, int64_t passes,
                    LaneSet<Real>& s) {
  const bool thresholded = load_thresholds(nonneg, s);
  const auto rows = [&](auto outputs) {
    constexpr int count = decltype(outputs)::value;
    thresholded ? descend_rows<count, true>(live, passes, s)
                : descend_rows<count, false>(live, passes, s);
  };
  switch (s.C) {
    case 1:
      return rows(std::integral_constant<int, 1>());
    case 2:
      return rows(std::integral_constant<int, 2>());
    case 3:
      return rows(std::integral_constant<int, 3>());
    case 4:
      return rows(std::integral_constant<int, 4>());
    default:
      return rows(std::integral_constant<int, kLaneOutputs>());
  }
}

// The system of a Newton step with one output: K d = e over weights that are not zero, with K = G +
// ridge and e what pulls them less what the penalty takes; d is 0 elsewhere.
template <typename Real>
inline void load_newton(const LaneSet<Real>& s, LaneMatrix<Real, false>& system,
                        LaneSides<Real>& sides) {
  using Vector = Lanes<Real>;
  const Vector zero{}, *G = s.gram.K.get(), *step = s.step.get(), *W = s.W.get();
  system.shape(s.size), sides.shape(system.ld, 1);
  std::fill_n(system.K.get(), system.ld * system.ld, zero);
  std::fill_n(sides.e.get(), system.ld, zero);
  for (int64_t a = s.size; a < system.ld; ++a) system.K.get()[a * (system.ld + 1)] = zero + 1;
  for (int64_t a = 0; a < s.size; ++a) {
    const Vector w = W[a] + step[a], curvature = G[a * (s.ld + 1)] + s.ridge.get()[a];
    const auto live = w != zero;
    Vector* row = system.K.get() + a * system.ld;
    for (int64_t b = 0; b < a; ++b)
      row[b] = live & (W[b] + step[b] != zero) ? G[a * s.ld + b] : zero;
    Vector pull[1];
    pull_without(a, s, pull);
    const Vector high = s.high.get()[a], rest = pull[0] - curvature * w - (w < zero ? -high : high);
    row[a] = live ? curvature : zero + 1;
    sides.e.get()[a] = live ? rest : zero;
  }
}

// Moves the weights of every live lane to their minimum with these signs, or as far as the first
// that would change its own, which becomes zero. Where K is singular they stay.
template <typename Real>
inline void newton_step(const typename SparseLanes<Real>::Mask& live,
                        LaneMatrix<Real, false>& system, LaneSides<Real>& sides, LaneSet<Real>& s) {
  using Vector = Lanes<Real>;
  load_newton(s, system, sides);
  factor_lanes(system);
  solve_lanes(system, sides);
  const Vector zero{}, never = zero + 2, *d = sides.e.get();
  const auto share = [&](int64_t a, const Vector& w) {  // of d, after which a sign changes
    const Vector to = w + d[a], part = w / (w - to);
    return (w * to < zero) & (s.low.get()[a] < zero) ? part : never;
  };
  Vector part = zero + 1, poison{};
  for (int64_t a = 0; a < s.size; ++a) {
    const Vector first = share(a, s.W.get()[a] + s.step.get()[a]);
    part = first < part ? first : part;
    poison += d[a] * zero;
  }
  const auto moves = live & (poison == zero);
  for (int64_t a = 0; a < s.size; ++a) {
    const Vector w = s.W.get()[a] + s.step.get()[a];
    const Vector to = share(a, w) <= part ? zero : w + part * d[a];
    s.step.get()[a] = moves ? to - s.W.get()[a] : s.step.get()[a];
  }
}

// -1 for lanes that do not start at zero.
template <typename Real>
inline typename SparseLanes<Real>::Mask warm_lanes(const SparseLanes<Real>& g) {
  typename SparseLanes<Real>::Mask warm{};
  for (int64_t t = 0; t < SparseLanes<Real>::kLanes; ++t)
    warm[t] = g.init[t] && sum_of_squares(g.init[t], g.M * g.C) > 0 ? -1 : 0;
  return warm;
}

// Solves the tasks that are taken: W of shape (M, C) in all.W, the certified gaps in the report.
template <typename Real>
inline void solve_sparse(double tol, SparseLanes<Real>& g) {
  constexpr int64_t lanes = SparseLanes<Real>::kLanes;
  using Mask = typename SparseLanes<Real>::Mask;
  load_lanes(g);
  Real *product = reinterpret_cast<Real*>(g.product.get()), *pull = g.all.pull.values();
  Mask warm = warm_lanes(g);
  g.live = Mask{} - 1, g.moved = any_lane(warm);
  std::fill_n(g.report.steps, lanes, 0);
  for (int64_t round = 0; round < kLaneRounds; ++round) {
    double gap[lanes];
    correlate(g, product, pull);
    relative_gap(g, pull, gap);
    for (int64_t t = 0; t < lanes; ++t) g.live[t] &= gap[t] <= kInnerShare * tol ? 0 : -1;
    if (!any_lane(g.live)) break;
    const Mask cold = g.live & ~warm;
    if (any_lane(cold)) descend(cold, g.nonneg, kFirstPasses, g.all);
    choose_features(warm, g);
    gather_sets(g);
    descend(g.live, g.nonneg, kRoundPasses, g.set);
    if (g.C == 1) newton_step(g.live, g.system, g.sides, g.set);
    scatter_weights(g);
    g.moved = true;
    const int64_t steps = kRoundPasses + (g.C == 1);
    for (int64_t t = 0; t < lanes; ++t)
      g.report.steps[t] += (cold[t] ? kFirstPasses : 0) + (g.live[t] ? steps : 0);
    warm = Mask{} - 1;
  }
  correlate(g, g.product.get(), g.pull.get());
  relative_gap(g, g.pull.get(), g.report.reached);
}

SPARSEDIS_END
