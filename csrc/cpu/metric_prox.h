// The prox in a metric d, group by group: with u = ST(d v, l1) and D = d + ridge,
// x = u r / (D r + group), where r = ||x|| is the root of a secular equation (core/secular.h);
// without a group level x = u / D.
//
// Short groups are solved as many at a time as a vector has lanes, long ones with their entries
// across lanes. Sums and roots are in `Real`, except where rounding may decide or squares may leave
// its range: such groups are solved by core/prox.h in double.
#pragma once

#include "../core/prox.h"
#include "group_columns.h"
#include "uniform_prox.h"

SPARSEDIS_BEGIN

// A step that moves a root by less has cubed that relative error: nothing is left to do.
template <typename Real>
constexpr Real kLastStep = sizeof(Real) == 4 ? Real(2e-3) : Real(4e-6);

// The roots of as many groups as a vector has lanes.
template <typename Real>
struct Roots {
  using Vector = Lanes<Real>;
  using Mask = LaneMask<Real>;
  Vector level, r, least;  // no root is below the least
  Mask open, irregular;    // it can be found, or takes doubles
  bool any;                // something is left to do

  // From ||u||^2, sum u^2 D and the largest D. Without a level r is 1, which makes x = u / D; where
  // the group is zero it is 0.
  void start(const Vector& square, const Vector& weighted, const Vector& largest) {
    constexpr Real most = kMostSquare<Real>;
    const Vector zero{}, near = kNear<Real> * level;
    Vector norm = square;
    take_root(norm);
    const Vector excess = norm - level;
    const Mask safe = level > kLeastStrength<Real>;
    const Mask some = (level != zero) & ~(safe & (excess <= -near));
    const Mask regular = safe & in_range<Real>(square) & (square < most * level * level) &
                         (excess > zero) & (excess >= near);
    open = some & regular, irregular = some & ~regular;
    least = excess / largest;
    r = level == zero ? zero + 1 : zero;
    r = open ? excess * square / weighted : r;
  }
  // The same from the columns u of groups of C entries, and D of column c.
  template <typename F>
  void start(const Vector* u, int64_t C, F D) {
    Vector square{}, weighted{}, largest{};
    for (int64_t c = 0; c < C; ++c) {
      const Vector q = u[c] * u[c], d = D(c);
      square += q, weighted += q * d;
      largest = largest < d ? d : largest;
    }
    start(square, weighted, largest);
  }
  // A step of Halley's iteration for 1 / sqrt(t) = 1, from t = sum q, s = sum q x and curve =
  // sum q x^2, where e = 1 / (D r + level), q = (u e)^2 and x = D r e; false when none is left.
  // Newton's slope is `square`, and far from the root no other is more than half as far off. A
  // root that has been found stays, whatever the other lanes do.
  bool step(const Vector& t, const Vector& s, const Vector& curve) {
    Vector root = t;
    take_root(root);
    const Vector inverse = 1 / t, mean = s * inverse, square = mean * mean, off = root - 1;
    Vector slope = square - Real(1.5) * off * (curve * inverse - square);
    slope = slope < Real(0.5) * square ? Real(0.5) * square : slope;
    slope = slope > Real(1.5) * square ? Real(1.5) * square : slope;
    Vector next = r + r * (off * mean / slope);
    next = next < least ? least : next;
    next = open ? next : r;
    const Vector move = next > r ? next - r : r - next;
    open = move > kLastStep<Real> * r;
    r = next;
    return any_lane(open);
  }
  template <typename F>
  bool step(const Vector* u, int64_t C, F D) {
    Vector t{}, s{}, curve{};
    for (int64_t c = 0; c < C; ++c) {
      const Vector scaled = D(c) * r, e = 1 / (scaled + level), y = u[c] * e, x = scaled * e,
                   q = y * y, qx = q * x;
      t += q, s += qx, curve += qx * x;
    }
    return step(t, s, curve);
  }
};

// The k-th group as core/prox.h takes it.
template <typename Real>
Group<Real> group_of(const Levels<Real>& at, int64_t k, const Real* v, const Real* metric,
                     int64_t C) {
  return {v, metric, at.l1[k], at.group[k], at.ridge[k], C, at.low[k] < -at.l1[k]};
}

template <typename Real>
void solve_irregular(const Levels<Real>& at, int64_t k, const Real* v, const Real* metric,
                     int64_t C, Real* x) {
  const Group<Real> g = group_of(at, k, v, metric, C);
  solve_group(g, threshold_group(g, x), 1.0, 0.0, x);
}

// Consecutive groups, as many side by side as a vector has lanes: a block of C columns for each. A
// step to the root waits for the one before; those of other blocks fill the time.
template <typename Real>
class Columns {
 public:
  using Vector = Lanes<Real>;
  static constexpr int64_t kLanes = Simd<Real>::kLanes;

  Columns(int64_t C, int64_t most) : C(C), transposed_(C), roots_(blocks_of(most)) {
    storage_.reserve(2 * C * blocks_of(most));
  }

  ReadAhead<Real> ahead;  // of what follows the groups

  // u and D of groups whose strengths are `levels`; lanes beyond them have zeros.
  void load(const Real* v, const Real* metric, int64_t groups, const Levels<Real>& levels) {
    groups_ = groups, blocks_ = blocks_of(groups);
    ahead.in_parts(5 * blocks_);  // about as often a block is gone through
    for (int64_t b = 0; b < blocks_; ++b) {
      const int64_t k = b * kLanes, count = std::min(kLanes, groups - k);
      const Vector low = lanes_at(levels.low + k), high = lanes_at(levels.l1 + k);
      Vector *w = u(b), *D = curvature(b);
      ahead.some();
      transposed_.take(v + k * C, count, 0, w);
      transposed_.take(metric + k * C, count, 1, D);
      for (int64_t c = 0; c < C; ++c) {
        w[c] *= D[c];
        shrink(w[c], low, high);
        D[c] += lanes_at(levels.ridge + k);
      }
      roots(b).level = lanes_at(levels.group + k);
    }
  }
  // The solutions take the place of u; irregular ones are left to the caller.
  void solve() {
    bool any = false;
    for (int64_t b = 0; b < blocks_; ++b) {
      ahead.some();
      roots(b).start(u(b), C, [D = curvature(b)](int64_t c) { return D[c]; });
      any |= roots(b).any = any_lane(roots(b).open);
    }
    for (int step = 0; step < kSecularSteps && any; ++step) any = approach();
    for (int64_t b = 0; b < blocks_; ++b) {
      Vector *w = u(b), *D = curvature(b);
      const Vector r = roots(b).r, level = roots(b).level;
      for (int64_t c = 0; c < C; ++c) w[c] *= r / (D[c] * r + level);
    }
  }
  // Calls body(k, set) for the irregular groups k; set(x) sets what stands for their solution.
  template <typename F>
  void for_each_irregular(F body) {
    for (int64_t b = 0; b < blocks_; ++b) {
      if (!any_lane(roots(b).irregular)) continue;
      for (int64_t k = 0; k < kLanes && b * kLanes + k < groups_; ++k)
        if (roots(b).irregular[k])
          body(b * kLanes + k, [&](const Real* x) {
            for (int64_t c = 0; c < C; ++c) u(b)[c][k] = x[c];
          });
    }
  }
  void store(Real* x) {
    for (int64_t b = 0; b < blocks_; ++b) {
      const int64_t k = b * kLanes;
      ahead.some();
      transposed_.put(u(b), std::min(kLanes, groups_ - k), x + k * C);
    }
  }

 private:
  const int64_t C;
  GroupColumns<Real> transposed_;
  LaneBuffer<Real> storage_;
  Buffer<Roots<Real>> roots_;
  int64_t groups_ = 0, blocks_ = 0;

  static int64_t blocks_of(int64_t groups) { return (groups + kLanes - 1) / kLanes; }
  Vector* u(int64_t block) { return storage_.get() + 2 * C * block; }
  Vector* curvature(int64_t block) { return u(block) + C; }
  Roots<Real>& roots(int64_t block) { return roots_.get()[block]; }

  // One step of every root; false when none is left.
  bool approach() {
    bool any = false;
    for (int64_t b = 0; b < blocks_; ++b) {
      if (!roots(b).any) continue;
      ahead.some();
      any |= roots(b).any = roots(b).step(u(b), C, [D = curvature(b)](int64_t c) { return D[c]; });
    }
    return any;
  }
};

// One group whose entries lie across lanes.
template <typename Real>
struct LongGroup {
  const Real *v, *metric;
  int64_t C;
  Real low, high, ridge;

  void load(int64_t c, Real& u, Real& D) const {
    u = shrunk<true>(metric[c] * v[c], low, high);
    D = metric[c] + ridge;
  }
  // The largest D, in several vectors, as one number would wait for each comparison.
  Real largest() const {
    constexpr int64_t lanes = Simd<Real>::kLanes, block = 4 * lanes;
    static_assert(block <= kLongGroup);
    Lanes<Real> most[4] = {};
    for (int64_t c = 0; c < C; c += block)
      for (int64_t i = 0; i < 4; ++i) {
        const Lanes<Real>& next = lanes_at(metric + std::min(c, C - block) + i * lanes);
        most[i] = most[i] < next ? next : most[i];
      }
    Real* all = reinterpret_cast<Real*>(most);
#pragma GCC unroll 8
    for (int64_t half = block / 2; half > 0; half /= 2)
      for (int64_t i = 0; i < half; ++i) all[i] = all[i] < all[i + half] ? all[i + half] : all[i];
    return all[0] + ridge;
  }
  // ||u||^2 and sum u^2 D into `sums`.
  void measure(double (&sums)[2]) const {
    sum_blocks<Real>(C, sums, [this](int64_t c, Real(&q)[2]) {
      Real u, D;
      load(c, u, D);
      q[0] = u * u, q[1] = q[0] * D;
    });
  }
  // What a step to the root takes, into `sums`.
  void slope(Real r, Real level, double (&sums)[3]) const {
    sum_blocks<Real>(C, sums, [=](int64_t c, Real(&q)[3]) {
      Real u, D;
      load(c, u, D);
      const Real scaled = D * r, e = 1 / (scaled + level), w = u * e, x = scaled * e;
      q[0] = w * w, q[1] = q[0] * x, q[2] = q[1] * x;
    });
  }
  void solve(Real r, Real level, Real* x) const {
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) {
      Real u, D;
      load(c, u, D);
      x[c] = u * (r / (D * r + level));
    }
  }
};

template <typename Real>
void solve_long(const Real* v, const Real* metric, int64_t C, const Levels<Real>& at, int64_t k,
                Real* x) {
  const LongGroup<Real> g{v, metric, C, at.low[k], at.l1[k], at.ridge[k]};
  const Real level = at.group[k];
  if (level == 0) return g.solve(1, 0, x);
  using Vector = Lanes<Real>;
  double sums[3], squares[2];
  Roots<Real> roots;  // the same in all lanes
  roots.level = Vector{} + level;
  g.measure(squares);
  roots.start(Vector{} + Real(squares[0]), Vector{} + Real(squares[1]), Vector{} + g.largest());
  if (roots.irregular[0]) return solve_irregular(at, k, v, metric, C, x);
  bool any = roots.open[0];
  for (int step = 0; step < kSecularSteps && any; ++step) {
    g.slope(roots.r[0], level, sums);
    any = roots.step(Vector{} + Real(sums[0]), Vector{} + Real(sums[1]), Vector{} + Real(sums[2]));
  }
  g.solve(roots.r[0], level, x);
}

// What no group level couples, entry by entry.
template <typename Real>
void solve_entries(const Real* v, const Real* metric, int64_t groups, int64_t C,
                   const Levels<Real>& at, Real* x) {
  const auto over = [&](int64_t count, auto level) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const int64_t k = level(i);
      x[i] = shrunk<true>(metric[i] * v[i], at.low[k], at.l1[k]) / (metric[i] + at.ridge[k]);
    }
  };
  C == 1 ? over(groups, [](int64_t i) { return i; })
         : over(groups * C, [](int64_t) { return int64_t{0}; });
}

// Consecutive groups whose strengths are `at`; x may be v.
template <typename Real>
void solve_groups(const Real* v, const Real* metric, int64_t groups, int64_t C,
                  const Levels<Real>& at, Columns<Real>& columns, Real* x) {
  if (C == 1 || (at.same && !at.groups)) return solve_entries(v, metric, groups, C, at, x);
  if (C >= kLongGroup) {
    for (int64_t k = 0; k < groups; ++k) solve_long(v + k * C, metric + k * C, C, at, k, x + k * C);
    return;
  }
  columns.load(v, metric, groups, at);
  columns.solve();
  columns.for_each_irregular([&](int64_t k, auto set) {
    Buffer<Real> solved(C);
    solve_irregular(at, k, v + k * C, metric + k * C, C, solved.get());
    set(solved.get());
  });
  columns.store(x);
}

SPARSEDIS_END
