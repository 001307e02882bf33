// The Newton system on the support under a loss that is not squared, with the bias eliminated, and
// the direction of a damped Newton step.
#pragma once

#include "curved.h"
#include "newton.h"

SPARSEDIS_BEGIN

constexpr double kFar = 1e-3;     // a gap above which Newton's systems are solved loosely
constexpr double kPromise = 0.2;  // share of the gap up to which a model with kinks is believed

// The loss's part of the Hessian at means P: V -> A_S' sqrt(p) Q(sqrt(p)^-1 A_S V + b), Q the
// Hessian of the rows, and b the bias that answers V. Its products are two thin matrix products.
template <typename Real>
struct CurvedTerm {
  Loss loss;
  bool fit_intercept;
  int64_t n, S, C, rows, ld;     // `rows` apart along features, `ld` along samples
  const Real *P, *root;          // (C, ld), (ld)
  Buffer<Real> A, At, T, shift;  // (n, rows), (S, ld), (C, ld) twice
  Buffer<Real> along, squares, diagonals;
  Buffer<int64_t> gathered;  // the support whose columns these are
  int64_t gathered_size = 0;
  BiasSystem system;  // its factor
  Buffer<double> answer;

  Real diagonal(int64_t c, int64_t j) const { return diagonals.get()[c * rows + j]; }
  void apply(const Real* V, Real* out);
};

// Room for a support of S features.
template <typename Real>
inline void shape_term(CurvedTerm<Real>& term, int64_t n, int64_t S, int64_t C, int64_t rows,
                       int64_t ld) {
  term.n = n, term.S = S, term.C = C, term.rows = rows, term.ld = ld;
  term.A.reserve(n * rows), term.At.reserve(S * ld);
  for (Buffer<Real>* wide : {&term.T, &term.shift}) wide->reserve(C * ld);
  term.along.reserve(ld), term.diagonals.reserve(C * rows), term.answer.reserve(padded<double>(C));
}

// b = H_b^-1 (pull - sum_i sqrt(p_i) T_i), in `answer`; pull (C) may be null.
template <typename Real>
inline void answer_bias(CurvedTerm<Real>& term, const double* pull) {
  double* b = term.answer.get();
  for (int64_t c = 0; c < term.C; ++c)
    b[c] = (pull ? pull[c] : 0.0) - dot<double>(term.root, term.T.get() + c * term.ld, term.ld);
  const int64_t ld = padded<double>(term.C);
  cholesky_solve(term.system.H.get(), term.C, ld, b, 1, ld, term.system.room.reserve(ld));
}

// T += sqrt(p) Q b
template <typename Real>
inline void add_answer(CurvedTerm<Real>& term) {
  Real *shift = term.shift.get(), *T = term.T.get();
  for (int64_t c = 0; c < term.C; ++c)
    std::fill_n(shift + c * term.ld, term.ld, static_cast<Real>(term.answer.get()[c]));
  curve(term.loss, term.P, term.C, term.ld, shift, term.along.get());
  for (int64_t c = 0; c < term.C; ++c)
#pragma omp simd
    for (int64_t i = 0; i < term.ld; ++i)
      T[c * term.ld + i] += term.root[i] * shift[c * term.ld + i];
}

template <typename Real>
inline void CurvedTerm<Real>::apply(const Real* V, Real* out) {
  multiply(V, C, rows, S, At.get(), ld, n, T.get(), ld);
  curve(loss, P, C, ld, T.get(), along.get());
  if (fit_intercept) {
    answer_bias<Real>(*this, nullptr);
    add_answer(*this);
  }
  multiply(T.get(), C, ld, n, A.get(), rows, S, out, rows);
}

// The factor of the bias's Hessian and the diagonal of the term (with the bias held), from P and A.
template <typename Real, typename Sum>
inline void load_term(const Curved<Real>& data, const Scores<Sum>& m, CurvedTerm<Real>& term) {
  term.P = m.P.get(), term.root = data.root.get();
  if (term.fit_intercept) {
    bias_system(term.loss, data, m, term.system);
    cholesky(term.system.H.get(), term.C, padded<double>(term.C));
  }
  const Real *P = term.P, *A = term.A.get();
  Real *bend = term.shift.get(), *squares = term.squares.reserve(term.n * term.rows);
#pragma omp simd
  for (int64_t i = 0; i < term.C * term.ld; ++i) bend[i] = P[i] * (1 - P[i]);
#pragma omp simd
  for (int64_t i = 0; i < term.n * term.rows; ++i) squares[i] = A[i] * A[i];
  multiply(bend, term.C, term.ld, term.n, squares, term.rows, term.S, term.diagonals.get(),
           term.rows);
}

// The support's columns of the set's A and their transpose; past them sqrt(p), the bias's column.
template <typename Real>
inline void gather_term(const WorkingSet<Real>& ws, const int64_t* support, int64_t S,
                        const Curved<Real>& data, CurvedTerm<Real>& term) {
  Real *At = term.At.get(), *A = term.A.get();
  const int64_t* before = term.gathered.get();
  if (S == term.gathered_size && std::equal(support, support + S, before)) return;
  term.gathered_size = S;
  std::copy_n(support, S, term.gathered.reserve(S));
  for (int64_t a = 0; a < S; ++a)
    std::copy_n(ws.Zt.get() + support[a] * term.ld, term.ld, At + a * term.ld);
  for (int64_t a = S; a < term.S; ++a) std::copy_n(data.root.get(), term.ld, At + a * term.ld);
  transpose(At, term.ld, term.S, term.n, A, term.rows);
  for (int64_t i = 0; i < term.n; ++i)
    std::fill(A + i * term.rows + term.S, A + (i + 1) * term.rows, Real(0));
}

// The share of the residual that conjugate gradients leave: the more, the farther the solution.
inline double left_share(double gap) { return std::min(0.3, std::sqrt(gap)); }

// The step's direction on the support of the set, and on the bias in a row after it: truncated
// conjugate gradients, the looser the farther the solution; r is the descent at the start of it.
// Returns the size of the support.
template <typename Real>
inline int64_t curved_direction(const WorkingSet<Real>& ws, const Curved<Real>& data,
                                const Scores<Real>& m, bool fit_intercept, double gap,
                                NewtonWork<Real>& newton, CurvedTerm<Real>& term) {
  SupportSystem<Real>& s = newton.system;
  const int64_t S = support_rows(ws, s.row.reserve(ws.size + 1));
  if (S == 0) return 0;
  s.shape(S + fit_intercept, ws.C);
  shape_term(term, term.n, s.S, ws.C, s.ld, data.ld);
  std::fill_n(term.T.get(), term.C * term.ld, Real(0));
  gather_support(ws, S, newton);
  gather_term(ws, s.row.get(), S, data, term);
  load_term(data, m, term);
  Real largest = 0;
  for (int64_t c = 0; c < s.C; ++c) {
    const Real* row = term.diagonals.get() + c * s.ld;
    largest = std::max(largest, *std::max_element(row, row + s.S));
  }
  damp(newton, largest, ws.held ? S : 0, {false, gap});
  descent_rhs(newton);
  const double eta = left_share(gap);
  // No step gains the gap: far away, a model with kinks that promises as much holds no farther.
  const bool far = gap > kFar;
  const double most =
      far && ws.held ? kPromise * gap * data.zero : std::numeric_limits<double>::infinity();
  solve_by_cg(s, term, eta, far ? 40 : 200, most);
  descent_rhs(newton);  // which solving took
  return S;
}

SPARSEDIS_END
