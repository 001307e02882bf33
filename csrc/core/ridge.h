// Ridge heads: one factor of the smaller side, with refinement where float32 needs it.
#pragma once

#include "factor.h"
#include "task.h"

SPARSEDIS_BEGIN

constexpr int kRefinements = 5;

// Whether the system is that of samples: of features as many or more are left to it.
constexpr bool takes_samples(int64_t n, int64_t M) { return n <= M; }

// A symmetric positive definite system of N unknowns and C right sides.
template <typename Real>
struct SpdSystem {
  int64_t N, C, ld;
  Buffer<Real> K, U;                // (N, ld)
  Buffer<Real> rhs, x, e, product;  // (C, ld)
  Buffer<double> product64;
  Buffer<Real> At;        // rows as columns, of the dual
  bool factored = false;  // K and U are those of the next system, too

  void shape(int64_t unknowns, int64_t outputs) {
    N = unknowns, C = outputs, ld = padded<Real>(unknowns);
    K.reserve((N + Simd<Real>::kTile) * ld);
    U.reserve(N * ld);
    for (Buffer<Real>* rows : {&rhs, &x, &e, &product}) rows->reserve(C * ld);
    product64.reserve(C * ld);
  }
};

template <typename Real>
inline Real largest_diagonal(const SpdSystem<Real>& s) {
  Real largest = 0;
  for (int64_t i = 0; i < s.N; ++i) largest = std::max(largest, s.K.get()[i * s.ld + i]);
  return largest;
}

// Factors K into U. A matrix that rounding made indefinite is lifted by a growing multiple of its
// largest diagonal entry; refinement then corrects the solution.
template <typename Real>
inline void factor(SpdSystem<Real>& s) {
  const Real largest = largest_diagonal(s);
  Real lift = 0;
  for (int attempt = 0; attempt < 12; ++attempt) {
    std::copy_n(s.K.get(), s.N * s.ld, s.U.get());
    for (int64_t i = 0; i < s.N; ++i) s.U.get()[i * s.ld + i] += lift;
    if (cholesky(s.U.get(), s.N, s.ld)) return;
    lift = lift == 0 ? largest * std::numeric_limits<Real>::epsilon() : lift * 8;
  }
}

// Beyond this a float32 system has lost four digits or more: its condition is some fifty times the
// ratio of its largest diagonal entry to the least square of a pivot.
constexpr double kTrustedRange = 100;

// Whether a solution is as good as its type, of a system that is factored.
template <typename Real>
inline bool is_trusted(const SpdSystem<Real>& s) {
  if (sizeof(Real) == 8) return true;
  Real least = std::numeric_limits<Real>::infinity();
  for (int64_t i = 0; i < s.N; ++i) least = std::min(least, s.U.get()[i * s.ld + i]);
  return largest_diagonal(s) <= kTrustedRange * least * least;
}

// e = rhs - K x, in double sums.
template <typename Real>
inline void system_residual(SpdSystem<Real>& s) {
  double* product = s.product64.get();
  multiply(s.x.get(), s.C, s.ld, s.N, s.K.get(), s.ld, s.ld, product, s.ld);
  for (int64_t c = 0; c < s.C; ++c)
#pragma omp simd
    for (int64_t i = c * s.ld; i < c * s.ld + s.N; ++i)
      s.e.get()[i] = static_cast<Real>(s.rhs.get()[i] - product[i]);
}

// Solves to gap(e) <= target, where `gap` measures a residual; returns the gap reached.
template <typename Real, typename Gap>
inline double solve_system(SpdSystem<Real>& s, double target, Gap gap, int64_t* steps) {
  if (!s.factored) factor(s);
  std::fill_n(s.x.get(), s.C * s.ld, Real(0));
  std::copy_n(s.rhs.get(), s.C * s.ld, s.e.get());
  double reached = std::numeric_limits<double>::infinity();
  for (*steps = 1; *steps <= kRefinements; ++*steps) {
    cholesky_solve(s.U.get(), s.N, s.ld, s.e.get(), s.C, s.ld, s.product.get());
    for (int64_t c = 0; c < s.C; ++c)
      axpy(Real(1), s.e.get() + c * s.ld, s.x.get() + c * s.ld, s.N);
    system_residual(s);
    const double previous = reached;
    reached = gap(s.e.get());
    if (reached <= target || !(reached < previous / 4)) break;
  }
  return reached;
}

// K = A A' for the first `columns` columns of A (n, ld), each times `scale`, n the unknowns.
// Columns become rows of At few at a time, which are summed up while they are in the first cache.
template <typename Real>
inline void gram_of_rows(const Real* A, int64_t n, int64_t ld, int64_t columns, const Real* scale,
                         SpdSystem<Real>& s) {
  Real* At = s.At.reserve(columns * s.ld);
  for (int64_t first = 0; first < columns; first += kGramBlock) {
    const int64_t count = std::min(kGramBlock, columns - first);
    Real* block = At + first * s.ld;
    transpose(A + first, ld, n, count, block, s.ld, scale + first);
    for (int64_t j = 0; j < count; ++j)
      std::fill(block + j * s.ld + n, block + (j + 1) * s.ld, Real(0));
    gram_block(block, count, s.ld, 0, n, first == 0, s.K.get(), s.ld);
  }
  mirror(0, n, s.K.get(), s.ld);
}

// Adds largest_diagonal u u' to K = A D^-1 A' + I, u = sqrt(p). Centred samples and targets have no
// part along u, so that the solution stays, while K's eigenvalue there, 1, would be its least and
// the measure of what rounding does.
template <typename Real>
inline void raise_mean(const Task<Real>& task, SpdSystem<Real>& s) {
  if (!task.centred) return;
  const Real largest = largest_diagonal(s);
  Real *K = s.K.get(), *u = s.e.get();
  const double scale = std::sqrt(static_cast<double>(largest));
  for (int64_t i = 0; i < s.N; ++i) u[i] = static_cast<Real>(scale * task.root.get()[i]);
  for (int64_t i = 0; i < s.N; ++i) axpy(u[i], u, K + i * s.ld, s.N);
}

// K = A'A + D
template <typename Real>
inline void load_primal(const Task<Real>& task, SpdSystem<Real>& s) {
  gram_columns(task.A.get(), task.n, task.stride, 0, task.M, s.K.get(), s.ld);
  for (int64_t j = 0; j < task.M; ++j) s.K.get()[j * s.ld + j] += task.penalty.ridge[j];
}

// K = A D^-1 A' + I, raised, once the ridge is inverted.
template <typename Real>
inline void load_dual(const Task<Real>& task, SpdSystem<Real>& s) {
  gram_of_rows(task.A.get(), task.n, task.stride, task.M, task.ridge.get(), s);
  for (int64_t i = 0; i < task.n; ++i) s.K.get()[i * s.ld + i] += 1;
  raise_mean(task, s);
}

// (A'A + D) W = A'B. The gap is sum_j ||e_j||^2 / (2 ridge_j), e the residual of this system.
template <typename Real>
inline double solve_ridge_primal(Task<Real>& task, SpdSystem<Real>& s, double target, Real* W,
                                 int64_t* steps) {
  const int64_t M = task.M, C = task.C;
  const Real* ridge = task.penalty.ridge;
  s.shape(M, C);
  if (!s.factored) load_primal(task, s);
  multiply(task.B.get(), C, task.lds, task.n, task.A.get(), task.stride, task.ld, s.rhs.get(),
           s.ld);
  const auto gap = [&](const Real* e) {
    double sum = 0;
    for (int64_t c = 0; c < C; ++c)
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < M; ++j) {
        const double square = static_cast<double>(e[c * s.ld + j]) * e[c * s.ld + j];
        sum += square / (2.0 * ridge[j]);
      }
    return sum;
  };
  const double reached = solve_system(s, target, gap, steps);
  std::copy_n(s.x.get(), C * s.ld, W);
  return reached;
}

// The ridge of every feature becomes D^-1/2 in its place.
template <typename Real>
inline void invert_ridge(Task<Real>& task) {
  Real* scale = task.ridge.get();
  for (int64_t j = 0; j < task.M; ++j) scale[j] = 1 / std::sqrt(scale[j]);
}

// W = D^-1 A' a for rows of outputs a (C, ld), once the ridge is inverted.
template <typename Real>
inline void write_dual_heads(const Task<Real>& task, const Real* a, int64_t ld, Real* W) {
  const Real* scale = task.ridge.get();
  multiply(a, task.C, ld, task.n, task.A.get(), task.stride, task.ld, W, task.ld);
  for (int64_t c = 0; c < task.C; ++c)
#pragma omp simd
    for (int64_t j = 0; j < task.M; ++j) W[c * task.ld + j] *= scale[j] * scale[j];
}

// W = D^-1 A' a with (A D^-1 A' + I) a = B: no M x M matrix. The gap is ||D^-1/2 A' e||^2 / 2.
template <typename Real>
inline double solve_ridge_dual(Task<Real>& task, SpdSystem<Real>& s, double target, Real* W,
                               int64_t* steps) {
  const int64_t n = task.n, C = task.C;
  invert_ridge(task);
  s.shape(n, C);
  if (!s.factored) load_dual(task, s);
  for (int64_t c = 0; c < C; ++c)
    std::copy_n(task.B.get() + c * task.lds, n, s.rhs.get() + c * s.ld);
  const auto gap = [&](const Real* e) {
    Real* Ke = s.product.get();
    multiply(e, C, s.ld, n, s.K.get(), s.ld, s.ld, Ke, s.ld);
    double sum = 0;
    for (int64_t c = 0; c < C; ++c)
#pragma omp simd reduction(+ : sum)
      for (int64_t i = c * s.ld; i < c * s.ld + n; ++i)
        sum += static_cast<double>(e[i]) * (static_cast<double>(Ke[i]) - e[i]);
    return at_least_zero(0.5 * sum);
  };
  const double reached = solve_system(s, target, gap, steps);
  write_dual_heads(task, s.x.get(), s.ld, W);
  return reached;
}

// The gap relative to that of W = 0, which it reaches by the smaller side.
template <typename Real>
inline double solve_ridge(Task<Real>& task, SpdSystem<Real>& s, double tol, Real* W,
                          int64_t* steps) {
  const auto solve =
      takes_samples(task.n, task.M) ? solve_ridge_dual<Real> : solve_ridge_primal<Real>;
  const double zero = 0.5 * task.target2;
  return solve(task, s, tol * zero, W, steps) / zero;
}

SPARSEDIS_END
