// The gradient of ridge heads that nothing else penalises, in the type of the data.
//
// With U = (A'A + D)^-1 G, G = grad_weight - zbar grad_bias', R = B - A W and V = A U, all rows of
// outputs: grad_z_i = sqrt(p_i) R_i U - (sqrt(p_i) V_i + p_i grad_bias) W, grad_y_i = sqrt(p_i) V_i
// + p_i grad_bias, grad_ridge_j = -<W_j, U_j>. With no more samples than features R and V come from
// the n x n system itself, K = A D^-1 A' + I: K R = B and K V = A D^-1 G, where differences of
// products would cancel under a small ridge.
#pragma once

#include "head_gradient.h"
#include "heads.h"

SPARSEDIS_BEGIN

// What a task's gradient is written from.
template <typename Real>
struct RidgeBackwardWork {
  Task<Real> task;
  SpdSystem<Real> system;
  Buffer<Real> heads, scores;  // [U; W] (2 C, ld), [R; V] (2 C, lds)
  Buffer<Real> rows;           // of grad_z, before they are stored
  Buffer<Real> grad_bias;      // (C)
};

// [G; W] into the rows of `heads`; the scores are none yet.
template <typename Real>
inline void load_heads(const Real* weight, const Real* grad_weight, RidgeBackwardWork<Real>& work) {
  const Task<Real>& task = work.task;
  const int64_t C = task.C, ld = task.ld;
  const Real* grad_bias = work.grad_bias.get();
  Real* heads = work.heads.reserve(2 * C * ld);
  std::fill_n(heads, 2 * C * ld, Real(0));
  std::fill_n(work.scores.reserve(2 * C * task.lds), 2 * C * task.lds, Real(0));
  transpose(grad_weight, C, task.M, C, heads, ld);
  transpose(weight, C, task.M, C, heads + C * ld, ld);
  for (int64_t c = 0; c < C; ++c)
    for (int64_t j = 0; j < task.M && grad_bias[c] != 0; ++j)
      heads[c * ld + j] -= static_cast<Real>(task.zbar.get()[j] * grad_bias[c]);
}

// Solves for the rows in system.rhs until their residual is that of rounding.
template <typename Real>
inline void solve_rows(SpdSystem<Real>& s) {
  constexpr double near = 16.0 * std::numeric_limits<Real>::epsilon();
  const auto norm2 = [&](const Real* rows) {
    double sum = 0;
    for (int64_t c = 0; c < s.C; ++c) sum += sum_of_squares(rows + c * s.ld, s.N);
    return sum;
  };
  int64_t steps;
  solve_system(s, near * near * norm2(s.rhs.get()), norm2, &steps);
}

// R and V from U, which `heads` hold.
template <typename Real>
inline void score_heads(RidgeBackwardWork<Real>& work) {
  const Task<Real>& task = work.task;
  const int64_t C = task.C, lds = task.lds;
  Real *At = work.system.At.reserve(task.M * lds), *scores = work.scores.get();
  std::fill_n(At, task.M * lds, Real(0));
  transpose(task.A.get(), task.stride, task.n, task.M, At, lds);
  multiply(work.heads.get() + C * task.ld, C, task.ld, task.M, At, lds, lds, scores, lds);
  multiply(work.heads.get(), C, task.ld, task.M, At, lds, lds, scores + C * lds, lds);
  for (int64_t i = 0; i < C * lds; ++i) scores[i] = task.B.get()[i] - scores[i];
}

// U, R and V by the M x M system.
template <typename Real>
inline void solve_primal_adjoint(RidgeBackwardWork<Real>& work) {
  const Task<Real>& task = work.task;
  SpdSystem<Real>& s = work.system;
  const int64_t C = task.C;
  s.shape(task.M, C);
  load_primal(task, s);
  std::copy_n(work.heads.get(), C * s.ld, s.rhs.get());
  solve_rows(s);
  std::copy_n(s.x.get(), C * s.ld, work.heads.get());
  score_heads(work);
}

// D^-1/2 G in the place of G, and D^-1/2 in that of the ridge.
template <typename Real>
inline void scale_heads(RidgeBackwardWork<Real>& work) {
  Task<Real>& task = work.task;
  invert_ridge(task);
  const Real* scale = task.ridge.get();
  for (int64_t c = 0; c < task.C; ++c)
#pragma omp simd
    for (int64_t j = 0; j < task.M; ++j) work.heads.get()[c * task.ld + j] *= scale[j];
}

// U from D^-1/2 G in its place, and V.
template <typename Real>
inline void pull_heads(RidgeBackwardWork<Real>& work) {
  const Task<Real>& task = work.task;
  const int64_t C = task.C, ld = task.ld;
  const Real* scale = task.ridge.get();
  Real *U = work.heads.get(), *pulled = work.rows.reserve(C * ld);
  multiply(work.scores.get() + C * task.lds, C, task.lds, task.n, task.A.get(), task.stride, ld,
           pulled, ld);
  for (int64_t c = 0; c < C; ++c)
#pragma omp simd
    for (int64_t j = 0; j < task.M; ++j)
      U[c * ld + j] = scale[j] * (U[c * ld + j] - scale[j] * pulled[c * ld + j]);
}

// U, R and V by the n x n system.
template <typename Real>
inline void solve_dual_adjoint(RidgeBackwardWork<Real>& work) {
  const Task<Real>& task = work.task;
  SpdSystem<Real>& s = work.system;
  const int64_t C = task.C, lds = task.lds;
  scale_heads(work);
  s.shape(task.n, 2 * C);
  load_dual(task, s);
  for (int64_t c = 0; c < C; ++c) std::copy_n(task.B.get() + c * lds, s.ld, s.rhs.get() + c * s.ld);
  multiply(work.heads.get(), C, task.ld, task.M, s.At.get(), s.ld, s.ld, s.rhs.get() + C * s.ld,
           s.ld);
  solve_rows(s);
  for (int64_t c = 0; c < 2 * C; ++c)
    std::copy_n(s.x.get() + c * s.ld, task.n, work.scores.get() + c * lds);
  pull_heads(work);
}

// [sqrt(p) R; -(sqrt(p) V + p grad_bias)] in place of the scores.
template <typename Real>
inline void mix_scores(RidgeBackwardWork<Real>& work) {
  const Task<Real>& task = work.task;
  const Real* grad_bias = work.grad_bias.get();
  const int64_t C = task.C, lds = task.lds;
  const double *p = task.p.get(), *root = task.root.get();
  for (int64_t c = 0; c < C; ++c) {
    Real *R = work.scores.get() + c * lds, *V = R + C * lds;
#pragma omp simd
    for (int64_t i = 0; i < task.n; ++i) {
      R[i] = static_cast<Real>(root[i] * R[i]);
      V[i] = static_cast<Real>(-root[i] * V[i] - p[i] * grad_bias[c]);
    }
  }
}

// grad_z = scores' heads, four samples at a time: stored, or added where tasks share the samples.
// What does not fill a tile of z goes by `rows`.
template <typename Real>
inline void write_features(RidgeBackwardWork<Real>& work, Real* z, double* z_sum) {
  const Task<Real>& task = work.task;
  const int64_t M = task.M, ld = task.ld, K = 2 * task.C;
  Real* rows = work.rows.reserve(4 * ld);
  for (int64_t i = 0; i < task.n; i += 4) {  // the scores have room for whole tiles of samples
    const int64_t count = std::min<int64_t>(4, task.n - i);
    const int64_t whole = z && count == 4 ? M / Simd<Real>::kTile * Simd<Real>::kTile : 0;
    for (int64_t b = 0; b < ld; b += Simd<Real>::kTile) {
      Tile<4, Real> tile;
      tile.clear();
      tile.accumulate(work.scores.get() + i, task.lds, 1, work.heads.get() + b, ld, K);
      b < whole ? tile.store(z + i * M + b, M) : tile.store(rows + b, ld);
    }
    for (int64_t r = 0; r < count; ++r) {
      const int64_t at = (i + r) * M;
      if (z && whole < M) std::copy(rows + r * ld + whole, rows + r * ld + M, z + at + whole);
      for (int64_t j = 0; j < M && z_sum; ++j) z_sum[at + j] += rows[r * ld + j];
    }
  }
}

// The gradients that `out` asks for, once heads and scores are solved for.
template <typename Real>
inline void write_ridge_gradients(Real scale, const HeadGradient<Real>& out,
                                  RidgeBackwardWork<Real>& work) {
  const Task<Real>& task = work.task;
  const int64_t C = task.C, ld = task.ld;
  const Real *U = work.heads.get(), *W = U + C * ld, *V = work.scores.get() + C * task.lds;
  mix_scores(work);
  if (out.z || out.z_sum) write_features(work, out.z, out.z_sum);
  for (int64_t i = 0; i < task.n && out.y; ++i)
    for (int64_t c = 0; c < C; ++c) out.y[i * C + c] = -V[c * task.lds + i];
  for (int64_t j = 0; j < task.M && out.ridge; ++j) {
    double along = 0;
    for (int64_t c = 0; c < C; ++c) along += static_cast<double>(W[c * ld + j]) * U[c * ld + j];
    out.ridge[j] = static_cast<Real>(-scale * along);
  }
}

SPARSEDIS_END
