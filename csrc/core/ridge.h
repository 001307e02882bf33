// Ridge heads: one factor of the smaller side, with refinement where float32 needs it.
#pragma once

#include "factor.h"
#include "task.h"

SPARSEDIS_BEGIN

constexpr int kRefinements = 5;

// A symmetric positive definite system of N unknowns and C right sides, each contiguous.
template <typename Real>
struct SpdSystem {
  int64_t N, C, ld;
  Buffer<Real> K, U, rhs, x, e;  // (N, ld) twice, (C, N) three times
  Buffer<Real> At;               // rows as columns, of the dual

  void shape(int64_t unknowns, int64_t outputs) {
    N = unknowns, C = outputs, ld = padded<Real>(unknowns);
    K.reserve((N + Simd<Real>::kTile) * ld);
    U.reserve(N * ld);
    rhs.reserve(C * N), x.reserve(C * N), e.reserve(C * N);
  }
};

// Factors K into U. A matrix that rounding made indefinite is lifted by a growing multiple of its
// largest diagonal entry; refinement then corrects the solution.
template <typename Real>
inline void factor(SpdSystem<Real>& s) {
  Real largest = 0;
  for (int64_t i = 0; i < s.N; ++i) largest = std::max(largest, s.K.get()[i * s.ld + i]);
  Real lift = 0;
  for (int attempt = 0; attempt < 12; ++attempt) {
    std::copy_n(s.K.get(), s.N * s.ld, s.U.get());
    for (int64_t i = 0; i < s.N; ++i) s.U.get()[i * s.ld + i] += lift;
    if (cholesky(s.U.get(), s.N, s.ld)) return;
    lift = lift == 0 ? largest * std::numeric_limits<Real>::epsilon() : lift * 8;
  }
}

// e = rhs - K x, in double sums.
template <typename Real>
inline void system_residual(SpdSystem<Real>& s) {
  for (int64_t c = 0; c < s.C; ++c)
    for (int64_t i = 0; i < s.N; ++i)
      s.e.get()[c * s.N + i] = static_cast<Real>(
          s.rhs.get()[c * s.N + i] - dot<double>(s.K.get() + i * s.ld, s.x.get() + c * s.N, s.N));
}

// Solves to gap(e) <= target, where `gap` measures a residual; returns the gap reached.
template <typename Real, typename Gap>
inline double solve_system(SpdSystem<Real>& s, double target, Gap gap, int64_t* steps) {
  factor(s);
  std::fill_n(s.x.get(), s.C * s.N, Real(0));
  std::copy_n(s.rhs.get(), s.C * s.N, s.e.get());
  double reached = std::numeric_limits<double>::infinity();
  for (*steps = 1; *steps <= kRefinements; ++*steps) {
    for (int64_t c = 0; c < s.C; ++c) {
      cholesky_solve(s.U.get(), s.N, s.ld, s.e.get() + c * s.N);
      axpy(Real(1), s.e.get() + c * s.N, s.x.get() + c * s.N, s.N);
    }
    system_residual(s);
    const double previous = reached;
    reached = gap(s.e.get());
    if (reached <= target || !(reached < previous / 4)) break;
  }
  return reached;
}

// K = A A' for the first `columns` columns of A (n, ld), n the unknowns.
template <typename Real>
inline void gram_of_rows(const Real* A, int64_t n, int64_t ld, int64_t columns,
                         SpdSystem<Real>& s) {
  Real* At = s.At.reserve(columns * s.ld);
  transpose(A, n, ld, columns, At, s.ld);
  gram_columns(At, columns, s.ld, 0, n, s.K.get(), s.ld);
}

// (A'A + D) W = A'B. The gap is sum_j ||e_j||^2 / (2 ridge_j), e the residual of this system.
template <typename Real>
inline double solve_ridge_primal(Task<Real>& task, SpdSystem<Real>& s, double target, Real* W,
                                 int64_t* steps) {
  const int64_t M = task.M, C = task.C;
  const Real* ridge = task.penalty.ridge;
  s.shape(M, C);
  gram_columns(task.A.get(), task.n, task.ld, 0, M, s.K.get(), s.ld);
  for (int64_t j = 0; j < M; ++j) s.K.get()[j * s.ld + j] += ridge[j];
  multiply(task.B.get(), C, task.lds, task.n, task.A.get(), task.ld, task.ld, W, task.ld);
  for (int64_t c = 0; c < C; ++c) std::copy_n(W + c * task.ld, M, s.rhs.get() + c * M);
  const auto gap = [&](const Real* e) {
    double sum = 0;
    for (int64_t c = 0; c < C; ++c)
      for (int64_t j = 0; j < M; ++j)
        sum += static_cast<double>(e[c * M + j]) * e[c * M + j] / (2.0 * ridge[j]);
    return sum;
  };
  const double reached = solve_system(s, target, gap, steps);
  for (int64_t c = 0; c < C; ++c) std::copy_n(s.x.get() + c * M, M, W + c * task.ld);
  return reached;
}

// W = D^-1 A' a with (A D^-1 A' + I) a = B: no M x M matrix. The gap is ||D^-1/2 A' e||^2 / 2.
// Overwrites A with A D^-1/2.
template <typename Real>
inline double solve_ridge_dual(Task<Real>& task, SpdSystem<Real>& s, double target, Real* W,
                               int64_t* steps) {
  const int64_t n = task.n, C = task.C;
  Real *A = task.A.get(), *root = task.ridge.get();
  for (int64_t j = 0; j < task.M; ++j) root[j] = 1 / std::sqrt(root[j]);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < task.M; ++j) A[i * task.ld + j] *= root[j];
  s.shape(n, C);
  gram_of_rows(A, n, task.ld, task.M, s);
  for (int64_t i = 0; i < n; ++i) s.K.get()[i * s.ld + i] += 1;
  for (int64_t c = 0; c < C; ++c) std::copy_n(task.B.get() + c * task.lds, n, s.rhs.get() + c * n);
  const auto gap = [&](const Real* e) {
    double sum = 0;
    for (int64_t c = 0; c < C; ++c)
      for (int64_t i = 0; i < n; ++i) {
        const Real* row = e + c * n;
        sum += row[i] * (dot<double>(s.K.get() + i * s.ld, row, n) - row[i]);
      }
    return std::max(0.0, 0.5 * sum);
  };
  const double reached = solve_system(s, target, gap, steps);
  for (int64_t c = 0; c < C; ++c) {
    Real* w = W + c * task.ld;
    std::fill_n(w, task.ld, Real(0));
    for (int64_t i = 0; i < n; ++i) axpy(s.x.get()[c * n + i], A + i * task.ld, w, task.ld);
    for (int64_t j = 0; j < task.M; ++j) w[j] *= root[j];
  }
  return reached;
}

SPARSEDIS_END
