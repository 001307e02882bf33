// Losses of scores u, each A(u) - <y, u> up to a constant in y: squared, multinomial
// (A = logsumexp) and logistic (A = sum of softplus). Samples lie along a row: an array (C, ld)
// holds one row per output, so that every loop runs over samples.
#pragma once

#include <limits>
#include <numeric>

#include "dense.h"
#include "exponential.h"
#include "loss_kind.h"

SPARSEDIS_BEGIN

// What a model says of n samples, one row per output.
template <typename Real>
struct Scores {
  int64_t C = 0, ld = 0;
  Buffer<Real> S, P, R;     // scores without the bias; means, A's gradient there; sqrt(p) (y - P)
  Buffer<Real> top, sum;    // of every sample, what the multinomial's log-sum-exp is made of
  Buffer<double> bias;      // its finite part, (C)
  const double* limit = 0;  // (C): -inf or inf where no finite bias is best, else 0

  void shape(int64_t outputs, int64_t row, const double* limits) {
    C = outputs, ld = row, limit = limits;
    for (Buffer<Real>* wide : {&S, &P, &R}) wide->reserve(C * ld);
    for (Buffer<Real>* one : {&top, &sum}) one->reserve(ld);
    bias.reserve(C);
  }
};

template <typename Real>
inline void logistic_means(Scores<Real>& m, const double* bias) {
  for (int64_t c = 0; c < m.C; ++c) {
    if (m.limit[c] != 0) continue;
    const Real* S = m.S.get() + c * m.ld;
    Real *P = m.P.get() + c * m.ld, b = static_cast<Real>(bias[c]);
#pragma omp simd
    for (int64_t i = 0; i < m.ld; ++i) P[i] = 1 / (1 + exp_of(-(S[i] + b)));
  }
}

template <typename Real>
inline void multinomial_means(Scores<Real>& m, const double* bias) {
  Real *top = m.top.get(), *sum = m.sum.get();
  std::fill_n(top, m.ld, -std::numeric_limits<Real>::max());
  std::fill_n(sum, m.ld, Real(0));
  for (int64_t c = 0; c < m.C; ++c) {
    if (m.limit[c] != 0) continue;
    const Real *S = m.S.get() + c * m.ld, b = static_cast<Real>(bias[c]);
#pragma omp simd
    for (int64_t i = 0; i < m.ld; ++i) top[i] = S[i] + b > top[i] ? S[i] + b : top[i];
  }
  for (int64_t c = 0; c < m.C; ++c) {
    if (m.limit[c] != 0) continue;
    const Real *S = m.S.get() + c * m.ld, b = static_cast<Real>(bias[c]);
    Real* P = m.P.get() + c * m.ld;
#pragma omp simd
    for (int64_t i = 0; i < m.ld; ++i) {
      P[i] = exp_of(S[i] + b - top[i]);
      sum[i] += P[i];
    }
  }
  for (int64_t c = 0; c < m.C; ++c) {
    if (m.limit[c] != 0) continue;
    Real* P = m.P.get() + c * m.ld;
#pragma omp simd
    for (int64_t i = 0; i < m.ld; ++i) P[i] /= sum[i];
  }
}

// P at S + bias; where the bias is at a limit the mean is 0 or 1.
template <typename Real>
inline void means(Loss loss, Scores<Real>& m, const double* bias) {
  for (int64_t c = 0; c < m.C; ++c)
    if (m.limit[c] != 0) std::fill_n(m.P.get() + c * m.ld, m.ld, Real(m.limit[c] > 0));
  loss == kLogistic ? logistic_means(m, bias) : multinomial_means(m, bias);
}

// T <- A's Hessian where the mean is P, applied to T, both (C, ld); `along` (ld) is scratch.
template <typename Real>
inline void curve(Loss loss, const Real* P, int64_t C, int64_t ld, Real* T, Real* along) {
  if (loss == kLogistic) {
#pragma omp simd
    for (int64_t i = 0; i < C * ld; ++i) T[i] *= P[i] * (1 - P[i]);
    return;
  }
  std::fill_n(along, ld, Real(0));
  for (int64_t c = 0; c < C; ++c)
#pragma omp simd
    for (int64_t i = 0; i < ld; ++i) along[i] += P[c * ld + i] * T[c * ld + i];
  for (int64_t c = 0; c < C; ++c)
#pragma omp simd
    for (int64_t i = 0; i < ld; ++i) T[c * ld + i] = P[c * ld + i] * (T[c * ld + i] - along[i]);
}

// Adds q log(q/mean) + mean - q of one output to `sums`, of `count` samples; its scores are u.
template <int64_t count, typename Real, typename Target>
inline void add_multinomial(const Real* u, Real bias, const Real* log_sum, const Real* mean,
                            const Target* y, Real s, Real* sums) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const Real q = (1 - s) * static_cast<Real>(y[i]) + s * mean[i];
    sums[i] += q * (log_of(q) - (u[i] + bias - log_sum[i])) + mean[i] - q;
  }
}

// The same of q log(q/mean) + (1 - q) log((1 - q)/(1 - mean)).
template <int64_t count, typename Real, typename Target>
inline void add_logistic(const Real* u, Real bias, const Real* mean, const Target* y, Real s,
                         Real* sums) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const Real q = (1 - s) * static_cast<Real>(y[i]) + s * mean[i], rest = 1 - q;
    const Real score = u[i] + bias, size = score < 0 ? -score : score;
    const Real softplus = (score < 0 ? 0 : score) + log1p_of(exp_of(-size));
    sums[i] += q * (log_of(q) - score) + rest * log_of(rest) + softplus;
  }
}

// D(q; u) = A(u) + A*(q) - <q, u> at q = (1 - s) y + s P, summed over the samples with weights p
// (m.ld): at s = 0 the loss, less the least that it can be. `m` holds what `means` made at `bias`.
template <typename Real, typename Target>
inline double divergence(Loss loss, const Scores<Real>& m, const double* bias, const Target* y,
                         const double* p, double s) {
  if (s == 1) return 0;
  constexpr int64_t block = Simd<Real>::kTile;
  double total[block] = {};
  for (int64_t i0 = 0; i0 < m.ld; i0 += block) {
    Real sums[block] = {}, log_sum[block];
    const Real *top = m.top.get() + i0, *sum = m.sum.get() + i0;
    if (loss == kMultinomial)
#pragma omp simd
      for (int64_t i = 0; i < block; ++i) log_sum[i] = top[i] + log_of(sum[i]);
    for (int64_t c = 0; c < m.C; ++c) {
      if (m.limit[c] != 0) continue;  // y is the mean there
      const int64_t at = c * m.ld + i0;
      const Real *u = m.S.get() + at, *mean = m.P.get() + at, b = static_cast<Real>(bias[c]);
      if (loss == kMultinomial)
        add_multinomial<block>(u, b, log_sum, mean, y + at, static_cast<Real>(s), sums);
      else
        add_logistic<block>(u, b, mean, y + at, static_cast<Real>(s), sums);
    }
#pragma omp simd
    for (int64_t i = 0; i < block; ++i) total[i] += p[i0 + i] * sums[i];
  }
  return std::accumulate(total, total + block, 0.0);
}

SPARSEDIS_END
