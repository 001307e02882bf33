// The prox in a metric d, group by group: with u = ST(d v, l1) and D = d + ridge,
// x = u r / (D r + group), where r = ||x|| is the root of a secular equation (core/secular.h);
// without a group level x = u / D.
//
// Short groups are solved by eights, one in each lane, long ones with their entries across lanes.
// Sums and roots are in `Real`, except where rounding may decide or squares may leave its range:
// such groups are solved by core/prox.h in double.
#pragma once

#include "../core/prox.h"
#include "uniform_prox.h"

SPARSEDIS_BEGIN

// A Newton step that moves a root by less has squared that relative error: nothing is left to do.
template <typename Real>
constexpr Real kLastStep = sizeof(Real) == 4 ? Real(1e-4) : Real(4e-9);

// Squares beyond these, of norms or of their ratio to a level, may leave the range of `Real`.
template <typename Real>
constexpr Real kLeastSquare = sizeof(Real) == 4 ? Real(1e-26) : Real(1e-240);
template <typename Real>
constexpr Real kMostSquare = sizeof(Real) == 4 ? Real(1e26) : Real(1e240);

// The roots of eight groups.
template <typename Real>
struct Roots {
  using E = Eight<Real>;
  using Vector = typename E::Vector;
  using Mask = typename E::Mask;
  Vector level, r, least;  // no root is below the least
  Mask open, irregular;    // it can be found, or takes doubles

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
    const Mask regular = safe & (square > kLeastSquare<Real>)&(square < most) &
                         (square < most * level * level) & (excess > zero) & (excess >= near);
    open = some & regular, irregular = some & ~regular;
    least = excess / largest;
    r = level == zero ? zero + 1 : zero;
    r = open ? excess * square / weighted : r;
  }
  // One reciprocal Newton step from t = sum q and s = sum q D e, with e = 1 / (D r + level) and
  // q = (u e)^2; false when none is left. Wherever it starts, what follows is below the root.
  bool step(const Vector& t, const Vector& s) {
    Vector root = t;
    take_root(root);
    Vector next = r + t * (root - 1) / s;
    next = next < least ? least : next;
    next = open ? next : r;
    const Vector move = next > r ? next - r : r - next;
    const Mask moved = move > kLastStep<Real> * r;
    r = next;
    return any_lane(moved);
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

// The first entry of `count` groups of C; a constant number of lanes is not filled through memory.
template <typename Real>
void gather(const Real* x, int64_t C, int64_t count, typename Eight<Real>::Vector& out) {
  if (count == 8)
    for (int k = 0; k < 8; ++k) out[k] = x[k * C];
  else
    for (int64_t k = 0; k < count; ++k) out[k] = x[k * C];
}

// Eight groups as columns: entry c of group k at [8 c + k].
template <typename Real>
struct Columns {
  using E = Eight<Real>;
  using Vector = typename E::Vector;
  int64_t C;
  Buffer<Real> storage{16 * C};
  Real *u = storage.get(), *curvature = u + 8 * C;

  // Calls body(first) for blocks of eight columns, of which the last may overlap.
  template <typename F>
  void over_blocks(F body) const {
    for (int64_t c = 0; c < C; c += 8) body(std::min(c, C - 8));
  }
  // The columns of `count` groups at x.
  void take(const Real* x, int64_t count, Real* columns) const {
    if (count < 8 || C < 8) {
      for (int64_t c = 0; c < C; ++c) {
        Vector column = E::at(columns + 8 * c);
        gather(x + c, C, count, column);
        E::at(columns + 8 * c) = column;
      }
    } else {
      over_blocks([&](int64_t first) {
        Vector block[8];
        for (int k = 0; k < 8; ++k) block[k] = E::at(x + k * C + first);
        E::transpose(block);
        for (int k = 0; k < 8; ++k) E::at(columns + 8 * (first + k)) = block[k];
      });
    }
  }
  // Groups beyond `count` are of zeros. Without a metric d is 1.
  void load(const Real* v, const Real* metric, int64_t count, const Levels<Real>& at, int64_t k0) {
    const Vector low = E::at(at.low + k0), high = E::at(at.l1 + k0), ridge = E::at(at.ridge + k0);
    if (count < 8) std::fill_n(u, 8 * C, Real(0));
    if (count < 8 || !metric) std::fill_n(curvature, 8 * C, Real(1));
    take(v, count, u);
    if (metric) take(metric, count, curvature);
    for (int64_t c = 0; c < C; ++c) {
      const Vector d = E::at(curvature + 8 * c);
      Vector w = E::at(u + 8 * c);
      w *= d;
      shrink(w, low, high);
      E::at(u + 8 * c) = w;
      E::at(curvature + 8 * c) = d + ridge;
    }
  }
  // ||u||^2, sum u^2 D and the largest D.
  void measure(Vector& square, Vector& weighted, Vector& largest) const {
    square = weighted = largest = Vector{};
    for (int64_t c = 0; c < C; ++c) {
      const Vector w = E::at(u + 8 * c), D = E::at(curvature + 8 * c), q = w * w;
      square += q, weighted += q * D;
      largest = largest < D ? D : largest;
    }
  }
  // t and s of a Newton step.
  void sums(const Vector& r, const Vector& level, Vector& t, Vector& s) const {
    t = s = Vector{};
    for (int64_t c = 0; c < C; ++c) {
      const Vector D = E::at(curvature + 8 * c), e = 1 / (D * r + level), w = E::at(u + 8 * c) * e,
                   q = w * w;
      t += q, s += q * (D * e);
    }
  }
  // The solution takes the place of u.
  void solve(const Vector& r, const Vector& level) {
    for (int64_t c = 0; c < C; ++c) E::at(u + 8 * c) *= r / (E::at(curvature + 8 * c) * r + level);
  }
  // The groups k of x for which `wanted(k)`.
  template <typename F>
  void store(Real* x, F wanted) const {
    if (C < 8) {
      for (int64_t k = 0; k < 8; ++k)
        for (int64_t c = 0; c < C && wanted(k); ++c) x[k * C + c] = u[8 * c + k];
    } else {
      over_blocks([&](int64_t first) {
        Vector block[8];
        for (int k = 0; k < 8; ++k) block[k] = E::at(u + 8 * (first + k));
        E::transpose(block);
        for (int k = 0; k < 8; ++k)
          if (wanted(k)) E::at(x + k * C + first) = block[k];
      });
    }
  }
};

// The solutions take the place of u; irregular groups are left to the caller.
template <typename Real>
void solve_columns(Columns<Real>& columns, Roots<Real>& roots) {
  typename Eight<Real>::Vector square, weighted, largest, t, s;
  columns.measure(square, weighted, largest);
  roots.start(square, weighted, largest);
  bool any = any_lane(roots.open);
  for (int step = 0; step < kSecularSteps && any; ++step) {
    columns.sums(roots.r, roots.level, t, s);
    any = roots.step(t, s);
  }
  columns.solve(roots.r, roots.level);
}

template <typename Real>
void solve_eight(const Real* v, const Real* metric, int64_t count, const Levels<Real>& at,
                 int64_t k0, Columns<Real>& columns, Real* x) {
  Roots<Real> roots;
  roots.level = Eight<Real>::at(at.group + k0);
  columns.load(v, metric, count, at, k0);
  solve_columns(columns, roots);
  columns.store(x, [&](int64_t k) { return k < count && !roots.irregular[k]; });
  for (int64_t k = 0; k < count; ++k) {
    const int64_t at_k = k * columns.C;
    if (roots.irregular[k])
      solve_irregular(at, k0 + k, v + at_k, metric + at_k, columns.C, x + at_k);
  }
}

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
  // ||u||^2 and sum u^2 D into `sums`, the largest D.
  Real measure(double (&sums)[2]) const {
    Real most = 0;
#pragma omp simd reduction(max : most)
    for (int64_t c = 0; c < C; ++c) most = std::max(most, metric[c]);
    sum_blocks<Real>(C, sums, [this](int64_t c, Real(&q)[2]) {
      Real u, D;
      load(c, u, D);
      q[0] = u * u, q[1] = q[0] * D;
    });
    return most + ridge;
  }
  // t and s of a Newton step into `sums`.
  void slope(Real r, Real level, double (&sums)[2]) const {
    sum_blocks<Real>(C, sums, [=](int64_t c, Real(&q)[2]) {
      Real u, D;
      load(c, u, D);
      const Real e = 1 / (D * r + level), x = u * e;
      q[0] = x * x, q[1] = q[0] * (D * e);
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
  using Vector = typename Eight<Real>::Vector;
  double sums[2];
  Roots<Real> roots;  // the same in all lanes
  roots.level = Vector{} + level;
  const Real largest = g.measure(sums);
  roots.start(Vector{} + Real(sums[0]), Vector{} + Real(sums[1]), Vector{} + largest);
  if (roots.irregular[0]) return solve_irregular(at, k, v, metric, C, x);
  bool any = roots.open[0];
  for (int step = 0; step < kSecularSteps && any; ++step) {
    g.slope(roots.r[0], level, sums);
    any = roots.step(Vector{} + Real(sums[0]), Vector{} + Real(sums[1]));
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
void solve_groups(const Real* v, const Real* metric, int64_t groups, const Levels<Real>& at,
                  Columns<Real>& columns, Real* x) {
  const int64_t C = columns.C;
  if (C == 1 || (at.same && !at.groups)) return solve_entries(v, metric, groups, C, at, x);
  if (C >= kLongGroup) {
    for (int64_t k = 0; k < groups; ++k) solve_long(v + k * C, metric + k * C, C, at, k, x + k * C);
    return;
  }
  for (int64_t k = 0; k < groups; k += 8)
    solve_eight(v + k * C, metric + k * C, std::min<int64_t>(8, groups - k), at, k, columns,
                x + k * C);
}

SPARSEDIS_END
