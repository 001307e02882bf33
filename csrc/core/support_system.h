// The Newton system on the support of a sparse solution, for the solver and for its gradient.
//
// On the live entries: H V = G V + e V + d_j (V_j - wh_j <wh_j, V_j>), with wh_j = W_j/||W_j||,
// d_j = group_j/||W_j|| and e the ridge (and damping). Arrays are compact: S rows (features) by C
// outputs, stored (C, ld). Where the loss is not squared, another term takes the place of G.
#pragma once

#include "factor.h"

SPARSEDIS_BEGIN

template <typename Real>
struct SupportSystem {
  int64_t S = 0, C = 0, ld = 0;
  Buffer<int64_t> row;                 // position of each support row in the caller's arrays
  Buffer<Real> G, e, d;                // (S, ld), (S), (S)
  Buffer<Real> unit;                   // wh, (C, ld)
  Buffer<Real> live;                   // 1 or 0, (C, ld)
  Buffer<Real> x, r, p, Hp, z, scale;  // of conjugate gradients, (C, ld)
  Buffer<Real> inverse, compact, P, cap, y;
  Buffer<double> norm;
  bool all_live = true;  // every entry of every row
  bool curved = false;   // some d_j > 0

  void shape(int64_t rows, int64_t outputs) {
    S = rows, C = outputs, ld = padded<Real>(rows);
    row.reserve(S);
    // gram_columns writes whole tiles.
    G.reserve((S + Simd<Real>::kTile) * ld);
    for (Buffer<Real>* v : {&e, &d, &y}) v->reserve(ld);
    for (Buffer<Real>* v : {&unit, &live, &x, &r, &p, &Hp, &z, &scale}) v->reserve(C * ld);
  }
};

// Sets wh, d and the live entries from the weights W (C, ld) of the support. An entry that is zero
// inside a live row moves only where nothing holds it at zero.
template <typename Real, typename Held>
inline void linearise(SupportSystem<Real>& s, const Real* W, const Real* group, Real cap,
                      Held held_at_zero) {
  double* inverse = s.norm.reserve(s.ld);
  Real *held = s.z.get(), *d = s.d.get();
  std::fill_n(inverse, s.ld, 0.0);
  for (int64_t j = 0; j < s.S; ++j) held[j] = held_at_zero(j);
  Real dead = 0, curvature = 0;
  for (int64_t c = 0; c < s.C; ++c) {
    const Real* w = W + c * s.ld;
    Real* live = s.live.get() + c * s.ld;
#pragma omp simd reduction(+ : dead)
    for (int64_t j = 0; j < s.S; ++j) {
      inverse[j] += static_cast<double>(w[j]) * w[j];
      live[j] = w[j] != 0 ? Real(1) : 1 - held[j];
      dead += 1 - live[j];
    }
  }
#pragma omp simd reduction(max : curvature)
  for (int64_t j = 0; j < s.S; ++j) {
    inverse[j] = inverse[j] > 0 ? 1 / std::sqrt(inverse[j]) : 0.0;
    d[j] = static_cast<Real>(std::min(group[j] * inverse[j], static_cast<double>(cap)));
    curvature = std::max(curvature, d[j]);
  }
  for (int64_t c = 0; c < s.C; ++c) {
    const Real* w = W + c * s.ld;
    Real* unit = s.unit.get() + c * s.ld;
#pragma omp simd
    for (int64_t j = 0; j < s.S; ++j) unit[j] = static_cast<Real>(w[j] * inverse[j]);
  }
  s.all_live = dead == 0, s.curved = curvature > 0;
}

// <wh_j, V_j>
template <typename Real>
inline Real along(const SupportSystem<Real>& s, const Real* V, int64_t j) {
  Real sum = 0;
  for (int64_t c = 0; c < s.C; ++c) sum += s.unit.get()[c * s.ld + j] * V[c * s.ld + j];
  return sum;
}

// K V for a symmetric K (S, ld) and V (C, ld).
template <typename Real>
inline void times(const SupportSystem<Real>& s, const Buffer<Real>& K, const Real* V, Real* out) {
  multiply(V, s.C, s.ld, s.S, K.get(), s.ld, s.ld, out, s.ld);
}

// The loss's part of H, for squares.
template <typename Real>
struct GramTerm {
  const SupportSystem<Real>& s;

  void apply(const Real* V, Real* out) { times(s, s.G, V, out); }
  Real diagonal(int64_t, int64_t j) const { return s.G.get()[j * s.ld + j]; }
};

// H V; V is 0 past the support.
template <typename Real, typename Term>
inline void apply(const SupportSystem<Real>& s, Term& term, const Real* V, Real* out) {
  term.apply(V, out);
  const Real *e = s.e.get(), *d = s.d.get();
  Real* radial = s.y.get();
  std::fill_n(radial, s.ld, Real(0));
  for (int64_t c = 0; c < s.C; ++c)
#pragma omp simd
    for (int64_t j = 0; j < s.ld; ++j) radial[j] += s.unit.get()[c * s.ld + j] * V[c * s.ld + j];
  for (int64_t c = 0; c < s.C; ++c) {
    const Real *unit = s.unit.get() + c * s.ld, *live = s.live.get() + c * s.ld;
    const Real* v = V + c * s.ld;
    Real* row = out + c * s.ld;
#pragma omp simd
    for (int64_t j = 0; j < s.ld; ++j)
      row[j] = live[j] == 0 ? Real(0) : row[j] + (e[j] + d[j]) * v[j] - d[j] * radial[j] * unit[j];
  }
}

template <typename Real>
inline double inner(const SupportSystem<Real>& s, const Real* a, const Real* b) {
  double sum = 0;
  for (int64_t c = 0; c < s.C; ++c) sum += dot<double>(a + c * s.ld, b + c * s.ld, s.S);
  return sum;
}

// Makes features that do not move of what lies past the support: loops then take whole rows.
template <typename Real>
inline void clear_past(SupportSystem<Real>& s) {
  for (Buffer<Real>* row : {&s.e, &s.d}) std::fill(row->get() + s.S, row->get() + s.ld, Real(0));
  for (Buffer<Real>* rows : {&s.unit, &s.live, &s.r, &s.scale})
    for (int64_t c = 0; c < s.C; ++c)
      std::fill(rows->get() + c * s.ld + s.S, rows->get() + (c + 1) * s.ld, Real(0));
}

// scale = 1 / diag(H)
template <typename Real, typename Term>
inline void load_preconditioner(SupportSystem<Real>& s, const Term& term) {
  for (int64_t c = 0; c < s.C; ++c)
    for (int64_t j = 0; j < s.S; ++j) {
      const int64_t i = c * s.ld + j;
      const Real u = s.unit.get()[i];
      const Real diagonal = term.diagonal(c, j) + s.e.get()[j] + s.d.get()[j] * (1 - u * u);
      s.scale.get()[i] = diagonal > 0 ? 1 / diagonal : Real(0);
    }
}

// z = scale r; returns <r, z>.
template <typename Real>
inline double precondition(SupportSystem<Real>& s) {
  const Real *r = s.r.get(), *scale = s.scale.get();
  Real* z = s.z.get();
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < s.C * s.ld; ++i) {
    z[i] = scale[i] * r[i];
    sum += static_cast<double>(r[i]) * z[i];
  }
  return sum;
}

// Preconditioned conjugate gradients from 0 on the live entries: x, with r = rhs on entry. Stops at
// ||residual|| <= eta ||rhs|| in the preconditioned norm, or where the quadratic model has fallen
// by `most`.
template <typename Real, typename Term>
inline void solve_by_cg(SupportSystem<Real>& s, Term&& term, double eta, int64_t max_steps,
                        double most = std::numeric_limits<double>::infinity()) {
  const int64_t size = s.C * s.ld;
  Real *x = s.x.get(), *r = s.r.get(), *p = s.p.get(), *Hp = s.Hp.get(), *z = s.z.get();
  std::fill_n(x, size, Real(0));
  clear_past(s);
  load_preconditioner(s, term);
  double rz = precondition(s);
  std::copy_n(z, size, p);
  const double target = eta * eta * rz;
  double fallen = 0;
  for (int64_t step = 0; step < max_steps && rz > target && fallen < most; ++step) {
    apply(s, term, p, Hp);
    const double curvature = dot<double>(p, Hp, size);
    if (!(curvature > 0)) break;
    fallen += 0.5 * rz * rz / curvature;
    axpy(static_cast<Real>(rz / curvature), p, x, size);
    axpy(static_cast<Real>(-rz / curvature), Hp, r, size);
    const double next = precondition(s);
    const Real ratio = static_cast<Real>(next / rz);
    rz = next;
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) p[i] = z[i] + ratio * p[i];
  }
}

// P = G + the diagonal that `own` gives, right of it, on the live rows of output c, which are
// listed in `kept`; how many.
template <typename Real, typename Own>
inline int64_t load_live(const SupportSystem<Real>& s, int64_t c, Own own, int64_t* kept, Real* P) {
  int64_t k = 0;
  for (int64_t j = 0; j < s.S; ++j)
    if (s.live.get()[c * s.ld + j]) kept[k++] = j;
  for (int64_t a = 0; a < k; ++a) {
    const Real* row = s.G.get() + kept[a] * s.ld;
    if (k == s.S)
      std::copy(row + a, row + k, P + a * s.ld + a);
    else
      for (int64_t b = a; b < k; ++b) P[a * s.ld + b] = row[kept[b]];
    P[a * s.ld + a] += own(kept[a]);
  }
  return k;
}

// Without curvature the outputs are independent: one Cholesky factor for each set of live rows.
template <typename Real>
inline bool solve_by_output(SupportSystem<Real>& s) {
  Buffer<int64_t> kept(s.S);
  Real* U = s.P.reserve(s.S * s.ld);
  Real *rhs = s.y.get(), *room = s.Hp.get();
  int64_t k = 0;
  for (int64_t c = 0; c < s.C; ++c) {
    if (c == 0 || !s.all_live) {  // all outputs share one factor when every entry is live
      k = load_live(s, c, [&](int64_t j) { return s.e.get()[j]; }, kept.get(), U);
      if (!cholesky(U, k, s.ld)) return false;
    }
    for (int64_t a = 0; a < k; ++a) rhs[a] = s.r.get()[c * s.ld + kept.get()[a]];
    cholesky_solve(U, k, s.ld, rhs, 1, s.ld, room);
    std::fill_n(s.x.get() + c * s.ld, s.ld, Real(0));
    for (int64_t a = 0; a < k; ++a) s.x.get()[c * s.ld + kept.get()[a]] = rhs[a];
  }
  return true;
}

// Room for the inverse of `solve_by_woodbury`, of output c where their live rows differ.
template <typename Real>
inline Real* inverse_of(const SupportSystem<Real>& s, int64_t c) {
  return s.inverse.get() + (s.all_live ? 0 : c) * (s.S + Simd<Real>::kTile) * s.ld;
}

// The inverse of P = G + diag(e + d) on the live rows of output c, through its Cholesky factor;
// zeros elsewhere.
template <typename Real>
inline bool invert_rows(SupportSystem<Real>& s, int64_t c) {
  const int64_t S = s.S, ld = s.ld, room = (S + Simd<Real>::kTile) * ld;
  Buffer<int64_t> kept(S);
  Real *P = s.P.reserve(room), *work = s.cap.reserve(room), *inverse = inverse_of(s, c);
  const auto own = [&](int64_t j) { return s.e.get()[j] + s.d.get()[j]; };
  const int64_t k = load_live(s, c, own, kept.get(), P);
  if (!cholesky(P, k, ld)) return false;
  if (k == S) {
    invert(P, k, ld, work, inverse);
    return true;
  }
  Real* compact = s.compact.reserve(room);
  invert(P, k, ld, work, compact);
  std::fill_n(inverse, S * ld, Real(0));
  for (int64_t a = 0; a < k; ++a)
    for (int64_t b = 0; b < k; ++b)
      inverse[kept.get()[a] * ld + kept.get()[b]] = compact[a * ld + b];
  return true;
}

// The inverses applied to V (C, ld).
template <typename Real>
inline void apply_inverses(const SupportSystem<Real>& s, const Real* V, Real* out) {
  if (s.all_live) return multiply(V, s.C, s.ld, s.S, inverse_of(s, 0), s.ld, s.ld, out, s.ld);
  for (int64_t c = 0; c < s.C; ++c)
    multiply(V + c * s.ld, 1, s.ld, s.S, inverse_of(s, c), s.ld, s.ld, out + c * s.ld, s.ld);
}

// The matrix Cap of `solve_by_woodbury`, right of its diagonal. Without a group strength a row has
// no rank-one term: its unknown stays 0.
template <typename Real>
inline void load_cap(const SupportSystem<Real>& s, Real* cap) {
  const Real* d = s.d.get();
  for (int64_t a = 0; a < s.S; ++a) {
    Real* row = cap + a * s.ld;
    std::fill_n(row, s.ld, Real(0));
    row[a] = d[a] > 0 ? 1 / d[a] : Real(1);
    for (int64_t c = 0; c < s.C && d[a] > 0; ++c) {
      const Real *inverse = inverse_of(s, c) + a * s.ld, *unit = s.unit.get() + c * s.ld;
      const Real own = unit[a];
#pragma omp simd
      for (int64_t b = a; b < s.S; ++b) row[b] -= d[b] > 0 ? own * unit[b] * inverse[b] : Real(0);
    }
  }
}

// Direct solve of outputs that the rows' rank-one terms couple. H = P - U D U', where P has a block
// G + diag(e + d) on the live rows of every output, and U = [e_j (x) wh_j], so that (Woodbury) with
// Pi = P^-1, X = Pi rhs and the S x S matrix Cap = diag(1/d) - U' Pi U: y = Cap^-1 <wh_j, X_j>,
// x = X + Pi (wh y). Exact, at the cost of S x S factors instead of SC x SC ones: of one where
// every entry is live, else of one for every output.
template <typename Real>
inline bool solve_by_woodbury(SupportSystem<Real>& s) {
  const int64_t S = s.S, ld = s.ld, inverses = s.all_live ? 1 : s.C;
  s.inverse.reserve(inverses * (S + Simd<Real>::kTile) * ld);
  for (int64_t c = 0; c < inverses; ++c)
    if (!invert_rows(s, c)) return false;
  Real *x = s.x.get(), *y = s.y.get(), *cap = s.cap.reserve(S * ld), *work = s.Hp.get();
  const Real* unit = s.unit.get();
  apply_inverses(s, s.r.get(), x);
  for (int64_t a = 0; a < S; ++a) y[a] = s.d.get()[a] > 0 ? along(s, x, a) : Real(0);
  load_cap(s, cap);
  if (!cholesky(cap, S, ld)) return false;
  cholesky_solve(cap, S, ld, y, 1, ld, work);
  for (int64_t c = 0; c < s.C; ++c)
    for (int64_t j = 0; j < S; ++j) work[c * ld + j] = unit[c * ld + j] * y[j];
  apply_inverses(s, work, s.p.get());
  for (int64_t c = 0; c < s.C; ++c) axpy(Real(1), s.p.get() + c * ld, x + c * ld, S);
  return true;
}

// x = H^-1 r by the direct method that applies; false where none does or it fails. `each`: where
// live rows differ between outputs, with a factor for each of them.
template <typename Real>
inline bool solve_directly(SupportSystem<Real>& s, bool each = false) {
  // With one output the projector I - wh wh' is zero, whatever d.
  if (!s.curved || s.C == 1) return solve_by_output(s);
  return (s.all_live || each) && solve_by_woodbury(s);
}

SPARSEDIS_END
