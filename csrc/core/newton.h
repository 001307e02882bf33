// One damped Newton step on the support of a working set, with an exact line search.
#pragma once

#include "support_system.h"
#include "working_set.h"

SPARSEDIS_BEGIN

// How a Newton system is solved.
struct NewtonRule {
  bool direct;  // exactly, else by conjugate gradients
  double gap;   // the current relative gap, which sets the damping and the most steps of the latter
};

// Most steps of conjugate gradients at a relative gap. They are few while the support is still to
// be found: what turns to zero on the way cuts a step short, however well its system was solved.
inline int64_t most_cg_steps(double gap) { return gap > 2e-4 ? 12 : 40; }

constexpr int64_t kDirectRows = 512;  // larger supports go by conjugate gradients
constexpr double kRadialCap = 3e3;    // largest d_j, in units of the largest column norm
constexpr double kFlip = 0.02;        // a row that keeps less than this of itself goes to zero

template <typename Real>
struct NewtonWork {
  SupportSystem<Real> system;
  Buffer<Real> W, q, ridge, l1, group, next, delta, G_delta;
  Buffer<double> square, cross, stride;  // of each row: ||W||^2, <W, x>, ||x||^2

  void shape(int64_t C, int64_t ld) {
    for (Buffer<Real>* v : {&W, &q, &next, &delta, &G_delta})
      std::fill_n(v->reserve(C * ld), C * ld, Real(0));
    for (Buffer<Real>* v : {&ridge, &l1, &group}) std::fill_n(v->reserve(ld), ld, Real(0));
  }
};

template <typename Real>
inline int64_t support_rows(const WorkingSet<Real>& ws, int64_t* rows) {
  int64_t S = 0;
  for (int64_t k = 0; k < ws.size; ++k) {
    bool any = !ws.held;
    for (int64_t c = 0; c < ws.C; ++c) any |= ws.W.get()[c * ws.ld + k] != 0;
    if (any) rows[S++] = k;
  }
  return S;
}

// Copies W, q and the strengths of S rows of the set.
template <typename Real>
inline void gather_support(const WorkingSet<Real>& ws, int64_t S, NewtonWork<Real>& work) {
  SupportSystem<Real>& s = work.system;
  work.shape(s.C, s.ld);
  for (int64_t a = 0; a < S; ++a) {
    const int64_t k = s.row.get()[a];
    for (int64_t c = 0; c < s.C; ++c) {
      work.W.get()[c * s.ld + a] = ws.W.get()[c * ws.ld + k];
      work.q.get()[c * s.ld + a] = ws.q.get()[c * ws.ld + k];
    }
    work.ridge.get()[a] = ws.ridge.get()[k];
    work.l1.get()[a] = static_cast<Real>(ws.scale * ws.l1.get()[k]);
    work.group.get()[a] = static_cast<Real>(ws.scale * ws.group.get()[k]);
  }
}

template <typename Real>
inline void gather_gram(const WorkingSet<Real>& ws, SupportSystem<Real>& s) {
  for (int64_t a = 0; a < s.S; ++a) {
    const Real* from = ws.G.get() + s.row.get()[a] * ws.ld;
    Real* row = s.G.get() + a * s.ld;
    for (int64_t b = 0; b <= a; ++b) row[b] = from[s.row.get()[b]];
    std::fill(row + s.S, row + s.ld, Real(0));
  }
  mirror(0, s.S, s.G.get(), s.ld);
}

// r = -gradient on the live entries.
template <typename Real>
inline void descent_rhs(NewtonWork<Real>& work) {
  SupportSystem<Real>& s = work.system;
  for (int64_t c = 0; c < s.C; ++c)
    for (int64_t j = 0; j < s.S; ++j) {
      const int64_t i = c * s.ld + j;
      const Real w = work.W.get()[i], sign = w > 0 ? Real(1) : (w < 0 ? Real(-1) : Real(0));
      const Real r = work.q.get()[i] - work.ridge.get()[j] * w - work.l1.get()[j] * sign -
                     work.group.get()[j] * s.unit.get()[i];
      s.r.get()[i] = s.live.get()[i] ? r : Real(0);
    }
}

// Of every row, what ||W_j + alpha x_j||^2 is made of.
template <typename Real>
inline void load_line(NewtonWork<Real>& work) {
  const SupportSystem<Real>& s = work.system;
  double* const parts[] = {work.square.reserve(s.ld), work.cross.reserve(s.ld),
                           work.stride.reserve(s.ld)};
  for (double* part : parts) std::fill_n(part, s.ld, 0.0);
  for (int64_t c = 0; c < s.C; ++c) {
    const Real *x = s.x.get() + c * s.ld, *W = work.W.get() + c * s.ld;
#pragma omp simd
    for (int64_t j = 0; j < s.S; ++j) {
      parts[0][j] += static_cast<double>(W[j]) * W[j];
      parts[1][j] += static_cast<double>(W[j]) * x[j];
      parts[2][j] += static_cast<double>(x[j]) * x[j];
    }
  }
}

// d/d alpha of the penalty at W + alpha x, which is convex in alpha; after `load_line`.
template <typename Real>
inline double penalty_slope(const NewtonWork<Real>& work, double alpha) {
  const SupportSystem<Real>& s = work.system;
  const double *square = work.square.get(), *cross = work.cross.get(), *stride = work.stride.get();
  const Real *ridge = work.ridge.get(), *group = work.group.get(), *l1 = work.l1.get();
  double slope = 0;
#pragma omp simd reduction(+ : slope)
  for (int64_t j = 0; j < s.S; ++j) {
    const double w_x = cross[j] + alpha * stride[j];
    const double norm2 = square[j] + alpha * (cross[j] + w_x);
    slope += ridge[j] * w_x + (norm2 > 0 ? group[j] * w_x / std::sqrt(norm2) : 0.0);
  }
  for (int64_t c = 0; c < s.C; ++c) {
    const Real *x = s.x.get() + c * s.ld, *W = work.W.get() + c * s.ld;
#pragma omp simd reduction(+ : slope)
    for (int64_t j = 0; j < s.S; ++j) {
      const double step = x[j], moved = W[j] + alpha * step;
      slope += l1[j] * (moved > 0 ? step : (moved < 0 ? -step : 0.0));
    }
  }
  return slope;
}

// The same of the objective with a squared loss, as a function of alpha.
template <typename Real>
inline auto squared_slope(const NewtonWork<Real>& work) {
  const SupportSystem<Real>& s = work.system;
  const double curvature = inner(s, s.x.get(), work.G_delta.get());
  const double pull = inner(s, s.x.get(), work.q.get());
  return [=, &work](double alpha) { return alpha * curvature - pull + penalty_slope(work, alpha); };
}

// alpha in (0, 1]: 1 where the slope there is small, else a bisected root of the slope.
template <typename Slope>
inline double line_search(Slope slope) {
  if (slope(1.0) <= 0.3 * std::fabs(slope(0.0))) return 1.0;
  double low = 0, high = 1;
  for (int step = 0; step < 12; ++step) {
    const double middle = 0.5 * (low + high);
    (slope(middle) <= 0 ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

// next = W + alpha x, after `load_line`; rows that turn away from themselves, and entries that l1
// or the bound at 0 hold to their sign and that change it, go to exactly 0.
template <typename Real>
inline void clip_step(NewtonWork<Real>& work, double alpha, bool nonneg) {
  SupportSystem<Real>& s = work.system;
  const double *square = work.square.get(), *cross = work.cross.get();
  const Real *l1 = work.l1.get(), *group = work.group.get(), bound = nonneg;
  Real* kept = s.y.get();
  for (int64_t j = 0; j < s.S; ++j) {
    const bool flips = square[j] + alpha * cross[j] <= kFlip * square[j];
    kept[j] = flips && l1[j] + group[j] + bound > 0 ? Real(0) : Real(1);
  }
  for (int64_t c = 0; c < s.C; ++c) {
    const Real *W = work.W.get() + c * s.ld, *x = s.x.get() + c * s.ld;
    Real *next = work.next.get() + c * s.ld, *delta = work.delta.get() + c * s.ld;
#pragma omp simd
    for (int64_t j = 0; j < s.S; ++j) {
      const double moved = W[j] + alpha * x[j];
      const bool turns = (l1[j] + bound > 0) & (moved * W[j] <= 0);
      next[j] = turns ? Real(0) : kept[j] * static_cast<Real>(moved);
      delta[j] = next[j] - W[j];
    }
  }
}

// Objective at `next` minus objective at W.
template <typename Real>
inline double objective_change(const NewtonWork<Real>& work, bool nonneg) {
  const SupportSystem<Real>& s = work.system;
  const TaskPenalty<Real> p{work.l1.get(), work.group.get(), work.ridge.get(), nonneg};
  return 0.5 * inner(s, work.delta.get(), work.G_delta.get()) -
         inner(s, work.delta.get(), work.q.get()) +
         penalty_of(p, work.next.get(), s.S, s.C, s.ld, 1.0) -
         penalty_of(p, work.W.get(), s.S, s.C, s.ld, 1.0);
}

// Damping as a share of the largest curvature: without it conjugate gradients diverge where the
// support outgrows the samples.
template <typename Real>
inline double damping_share(const NewtonRule& rule) {
  const double least = sizeof(Real) == 4 ? (rule.direct ? 2e-6 : 1e-5) : 1e-10;
  return std::max(least, (rule.direct ? 1e-2 : 1e-3) * std::min(rule.gap, 1.0));
}

// Damps by a share of the `largest` curvature. The first `held` rows are held at zero by the
// penalty.
template <typename Real>
inline void damp(NewtonWork<Real>& work, Real largest, int64_t held, const NewtonRule& rule) {
  SupportSystem<Real>& s = work.system;
  const double damping = damping_share<Real>(rule) * largest;
  for (int64_t j = 0; j < s.S; ++j) s.e.get()[j] = work.ridge.get()[j] + static_cast<Real>(damping);
  linearise(s, work.W.get(), work.group.get(), static_cast<Real>(kRadialCap * largest),
            [&](int64_t j) { return j < held; });
}

// One step; false where it would not lower the objective, and then nothing has changed.
template <typename Real>
inline bool newton_step(WorkingSet<Real>& ws, NewtonWork<Real>& work, NewtonRule rule) {
  SupportSystem<Real>& s = work.system;
  s.row.reserve(ws.size);
  const int64_t S = support_rows(ws, s.row.get());
  if (S == 0) return false;
  s.shape(S, ws.C);
  rule.direct = (rule.direct || ws.C == 1) && S <= kDirectRows;
  gather_support(ws, S, work);
  gather_gram(ws, s);
  Real largest = 0;
  for (int64_t j = 0; j < S; ++j) largest = std::max(largest, s.G.get()[j * s.ld + j]);
  damp(work, largest, ws.held ? S : 0, rule);
  descent_rhs(work);
  if (!rule.direct || !solve_directly(s)) {
    descent_rhs(work);
    solve_by_cg(s, GramTerm<Real>{s}, 0.3, most_cg_steps(rule.gap));
  }
  times(s, s.G, s.x.get(), work.G_delta.get());
  load_line(work);
  clip_step(work, line_search(squared_slope(work)), ws.nonneg);
  times(s, s.G, work.delta.get(), work.G_delta.get());
  if (!(objective_change(work, ws.nonneg) < 0)) return false;
  for (int64_t a = 0; a < S; ++a)
    for (int64_t c = 0; c < ws.C; ++c)
      ws.W.get()[c * ws.ld + s.row.get()[a]] = work.next.get()[c * s.ld + a];
  follow(ws, s.row.get(), S, work.delta.get(), 1, s.ld);
  return true;
}

SPARSEDIS_END
