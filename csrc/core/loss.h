// Losses of scores u, each A(u) - <y, u> up to a constant in y: squared, multinomial
// (A = logsumexp) and logistic (A = sum of softplus). Samples lie along a row: an array (C, ld)
// holds one row per output, so that every loop runs over samples.
#pragma once

#include <cstring>
#include <limits>
#include <numeric>

#include "dense.h"
#include "loss_kind.h"

SPARSEDIS_BEGIN

template <typename Real>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  using Bits = uint32_t;
  static constexpr float round = 12582912.0f;  // 1.5 * 2^23: the sum's last bits are the integer
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float least = -87.0f, most = 88.0f;
  static constexpr int bias = 127, mantissa = 23, degree = 7, log_degree = 5, log1p_degree = 8;
  static constexpr float integer = 8388608.0f;   // 2^23: the last bits are the integer
  static constexpr Bits root_half = 0x3f3504f3;  // of sqrt(1/2)
};

template <>
struct ExpConstants<double> {
  using Bits = uint64_t;
  static constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 6.93147180369123816490e-01;
  static constexpr double ln2_low = 1.90821492927058770002e-10;
  static constexpr double least = -708.0, most = 709.0;
  static constexpr int bias = 1023, mantissa = 52, degree = 13, log_degree = 11, log1p_degree = 17;
  static constexpr double integer = 4503599627370496.0;  // 2^52
  static constexpr Bits root_half = 0x3fe6a09e667f3bcd;
};

// e^x without a branch or a call, so that loops over it vectorise: 2^k e^r, |r| <= ln 2 / 2, by its
// series. Below `least` the result stays e^least.
template <typename Real>
inline Real exp_of(Real x) {
  using K = ExpConstants<Real>;
  constexpr Real log2e = Real(1.4426950408889634);
  x = x < K::least ? K::least : (x > K::most ? K::most : x);
  const Real shifted = x * log2e + K::round, k = shifted - K::round;
  const Real r = (x - k * K::ln2_high) - k * K::ln2_low;
  Real series = 1;
  for (int degree = K::degree; degree > 0; --degree) series = 1 + series * r * (Real(1) / degree);
  typename K::Bits bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + K::bias) << K::mantissa;
  Real power;
  std::memcpy(&power, &bits, sizeof power);
  return series * power;
}

// log(1 + f) by the series of 2 artanh(f / (2 + f)).
template <int degree, typename Real>
inline Real log_series(Real f) {
  const Real t = f / (2 + f), square = t * t;
  Real series = Real(1) / (2 * degree - 1);
  for (int k = degree - 2; k >= 0; --k) series = Real(1) / (2 * k + 1) + series * square;
  return 2 * t * series;
}

// log(1 + f) for 0 <= f <= 1.
template <typename Real>
inline Real log1p_of(Real f) {
  return log_series<ExpConstants<Real>::log1p_degree>(f);
}

// log x, as `exp_of`: x = 2^k (1 + f) with sqrt(1/2) <= 1 + f < sqrt(2). Of 0 it is finite, so that
// 0 log 0 = 0.
template <typename Real>
inline Real log_of(Real x) {
  using K = ExpConstants<Real>;
  using Bits = typename K::Bits;
  constexpr Bits one = static_cast<Bits>(K::bias) << K::mantissa;
  Bits bits, integer;
  std::memcpy(&bits, &x, sizeof bits);
  std::memcpy(&integer, &K::integer, sizeof integer);
  const Bits exponent = (bits - K::root_half + one) >> K::mantissa;
  bits -= (exponent << K::mantissa) - one;
  integer |= exponent;
  Real rest, k;
  std::memcpy(&rest, &bits, sizeof rest);
  std::memcpy(&k, &integer, sizeof k);
  k -= K::integer + K::bias;
  return k * K::ln2_high + (log_series<K::log_degree>(rest - 1) + k * K::ln2_low);
}

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
