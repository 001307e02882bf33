// A task under a loss that is not squared: its samples as rows of outputs, the best bias for given
// scores, and the certified gap.
#pragma once

#include "factor.h"
#include "task.h"

SPARSEDIS_BEGIN

// `Real` is what the task is solved in. Rows of samples are (C, ld), zeros past the n samples.
template <typename Real>
struct Curved {
  int64_t ld = 0;
  Buffer<Real> y, root, inverse_root;  // root = sqrt(p); its inverse is 0 where p is
  Buffer<double> p, limit, start;      // (ld), (C), (C): the best bias at zero weights
  double zero = 0;                     // loss at zero weights, less the least it can be
};

// Newton's system of the bias, (C, padded C).
struct BiasSystem {
  Buffer<double> H, gradient, step, trial, weighted, room;
};

// Limits of the bias, and its best finite part at zero weights, of sum 0 over classes.
template <typename Real>
inline void load_bias(const Task<Real>& task, bool fit_intercept, Curved<Real>& data) {
  double *limit = data.limit.reserve(task.C), *start = data.start.reserve(task.C), sum = 0;
  int64_t finite = 0;
  for (int64_t c = 0; c < task.C; ++c) {
    const Real* y = data.y.get() + c * data.ld;
    double ones = 0, zeros = 0;
    for (int64_t i = 0; i < task.n; ++i) {
      ones += data.p.get()[i] * y[i];
      zeros += data.p.get()[i] * (1 - y[i]);
    }
    limit[c] = limit_of(task.loss, ones, zeros, !task.empty(), fit_intercept);
    const bool free = fit_intercept && !task.empty() && limit[c] == 0;
    const double odds = task.loss == kLogistic ? ones / zeros : ones;
    start[c] = free ? std::log(odds) : 0.0;
    sum += start[c], finite += free;
  }
  for (int64_t c = 0; c < task.C && task.loss == kMultinomial && finite > 0; ++c)
    if (limit[c] == 0) start[c] -= sum / static_cast<double>(finite);
}

// Fills p, sqrt(p), the targets and the limits of a task that is loaded.
template <typename Real, typename Input>
inline void load_curved(const TaskInput<Input>& in, const Task<Real>& task, Curved<Real>& data) {
  data.ld = task.lds;
  Real *root = data.root.reserve(data.ld), *inverse = data.inverse_root.reserve(data.ld);
  double* p = data.p.reserve(data.ld);
  Real* y = data.y.reserve(in.C * data.ld);
  for (int64_t i = 0; i < data.ld; ++i) {
    p[i] = i < in.n ? task.p.get()[i] : 0.0;
    root[i] = static_cast<Real>(std::sqrt(p[i]));
    inverse[i] = p[i] > 0 ? 1 / root[i] : Real(0);
    // A row without weight is whatever it is.
    for (int64_t c = 0; c < in.C; ++c)
      y[c * data.ld + i] = p[i] > 0 ? static_cast<Real>(in.y[i * in.C + c]) : Real(0);
  }
  load_bias(task, in.fit_intercept, data);
}

inline double largest_entry(const double* x, int64_t n) {
  double largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
  return largest;
}

// Gradient and Hessian of the loss in the finite bias, in double. Directions that change nothing
// (a shift of all classes, an output whose bias moves nothing) get the curvature 1.
template <typename Real, typename Sum>
inline void bias_system(Loss loss, const Curved<Real>& data, const Scores<Sum>& m,
                        BiasSystem& system) {
  const int64_t C = m.C, ld = m.ld, ldh = padded<double>(C);
  const double* p = data.p.get();
  double *H = system.H.reserve(C * ldh), *gradient = system.gradient.reserve(C);
  double* weighted = system.weighted.reserve(ld);
  for (int64_t a = 0; a < C; ++a) {
    const Sum* P = m.P.get() + a * ld;
    const Real* y = data.y.get() + a * ld;
    double sum = 0, mass = 0;
#pragma omp simd reduction(+ : sum, mass)
    for (int64_t i = 0; i < ld; ++i) {
      sum += p[i] * (static_cast<double>(P[i]) - y[i]);
      weighted[i] = p[i] * P[i];
      mass += weighted[i];
    }
    gradient[a] = m.limit[a] == 0 ? sum : 0.0;
    double* row = H + a * ldh;
    std::fill_n(row, ldh, 0.0);
    for (int64_t b = a; b < (loss == kMultinomial ? C : a + 1); ++b)
      row[b] = -dot<double>(weighted, m.P.get() + b * ld, ld);
    row[a] += mass;
    if (row[a] < kStill) row[a] += 1;
    for (int64_t b = a; b < C && loss == kMultinomial; ++b)
      if (m.limit[a] == 0 && m.limit[b] == 0) row[b] += 1;
  }
}

// The best finite bias for the scores m.S, from m.bias, by Newton's method with halved steps until
// the decrement is `enough`; P is left at it.
template <typename Real, typename Sum>
inline void fit_bias(Loss loss, bool fit_intercept, const Curved<Real>& data, Scores<Sum>& m,
                     BiasSystem& system, double enough = small_decrement<Sum>()) {
  const int64_t ld = padded<double>(m.C);
  double *bias = m.bias.get(), *step = system.step.reserve(ld), *trial = system.trial.reserve(m.C);
  const auto value = [&](const double* b) {
    return divergence(loss, m, b, data.y.get(), data.p.get(), 0.0);
  };
  means(loss, m, bias);
  for (int iteration = 0; fit_intercept && iteration < kBiasSteps; ++iteration) {
    bias_system(loss, data, m, system);
    if (!cholesky(system.H.get(), m.C, ld)) return;
    std::copy_n(system.gradient.get(), m.C, step);
    cholesky_solve(system.H.get(), m.C, ld, step, 1, ld, system.room.reserve(ld));
    const double decrement = dot<double>(step, system.gradient.get(), m.C);
    if (!(decrement > enough)) return;
    const double size = largest_entry(step, m.C);
    const bool certain = size < kCertainStep;
    const double before = certain ? 0.0 : value(bias);
    double length = 1;
    for (int halving = 0; halving < kBiasHalvings; ++halving, length /= 2) {
      for (int64_t c = 0; c < m.C; ++c) trial[c] = bias[c] - length * step[c];
      means(loss, m, trial);
      if (certain || value(trial) <= before - length * decrement / 4) break;
    }
    std::copy_n(trial, m.C, bias);
    if (certain && 3 * size * size * decrement < enough) return;
  }
}

// The mean of the eigenvalues of A's Hessian over the samples, but for the shift of all classes.
template <typename Real, typename Sum>
inline double mean_curvature(Loss loss, const Curved<Real>& data, const Scores<Sum>& m) {
  double trace = 0;
  int64_t finite = 0;
  for (int64_t c = 0; c < m.C; ++c) {
    if (m.limit[c] != 0) continue;
    const Sum* P = m.P.get() + c * m.ld;
    const double* p = data.p.get();
#pragma omp simd reduction(+ : trace)
    for (int64_t i = 0; i < m.ld; ++i) trace += p[i] * (P[i] * (1 - P[i]));
    ++finite;
  }
  return trace / static_cast<double>(std::max<int64_t>(1, finite - (loss == kMultinomial)));
}

// R = sqrt(p) (y - P)
template <typename Real, typename Sum>
inline void respond(const Curved<Real>& data, Scores<Sum>& m) {
  for (int64_t c = 0; c < m.C; ++c) {
    const Real *y = data.y.get() + c * m.ld, *root = data.root.get();
    const Sum* P = m.P.get() + c * m.ld;
    Sum* R = m.R.get() + c * m.ld;
#pragma omp simd
    for (int64_t i = 0; i < m.ld; ++i) R[i] = root[i] * (static_cast<Sum>(y[i]) - P[i]);
  }
}

// S = A W / sqrt(p) over all features, W (C, ldw).
template <typename Real, typename Sum>
inline void score_all(const Task<Real>& task, const Curved<Real>& data, const Real* W, int64_t ldw,
                      Scores<Sum>& m) {
  std::fill_n(m.S.get(), m.C * m.ld, Sum(0));
  for (int64_t i = 0; i < task.n; ++i)
    for (int64_t c = 0; c < m.C; ++c)
      m.S.get()[c * m.ld + i] = dot<Sum>(task.A.get() + i * task.stride, W + c * ldw, task.M) *
                                static_cast<Sum>(data.inverse_root.get()[i]);
}

// g = A'R over all features, (C, task.ld).
template <typename Real, typename Sum>
inline void pull_all(const Task<Real>& task, const Scores<Sum>& m, Sum* g) {
  multiply(m.R.get(), m.C, m.ld, task.n, task.A.get(), task.stride, task.ld, g, task.ld);
}

// The gap of W, relative to the objective at zero weights, where `m` was made at W; g = A'R.
template <typename Real, typename Sum>
inline double curved_gap(const TaskPenalty<Real>& penalty, Loss loss, const Curved<Real>& data,
                         const Scores<Sum>& m, const Real* W, const Sum* g, int64_t M, int64_t ld,
                         double scale) {
  double correlation = 0;
  for (int64_t c = 0; c < m.C; ++c) correlation += dot<double>(g + c * ld, W + c * ld, M);
  const GapParts parts{correlation, penalty_of(penalty, W, M, m.C, ld, scale)};
  const auto loss_of = [&](double s) {
    return divergence(loss, m, m.bias.get(), data.y.get(), data.p.get(), s);
  };
  return duality_gap(penalty, parts, loss_of, g, M, m.C, ld, scale) / data.zero;
}

// Everything of a task at the weights W, (C, ldw), in `Sum`; the bias starts from m.bias.
template <typename Real, typename Sum>
inline void evaluate_all(const Task<Real>& task, bool fit_intercept, const Curved<Real>& data,
                         const Real* W, int64_t ldw, Scores<Sum>& m, BiasSystem& system) {
  score_all(task, data, W, ldw, m);
  fit_bias(task.loss, fit_intercept, data, m, system);
  respond(data, m);
}

// The loss at zero weights, and what the data are like there, in `m`.
template <typename Real>
inline void evaluate_zero(const Task<Real>& task, bool fit_intercept, Curved<Real>& data,
                          Scores<double>& m, BiasSystem& system) {
  m.shape(task.C, data.ld, data.limit.get());
  std::copy_n(data.start.get(), task.C, m.bias.get());
  std::fill_n(m.S.get(), m.C * m.ld, 0.0);
  fit_bias(task.loss, fit_intercept, data, m, system);
  respond(data, m);
  data.zero = divergence(task.loss, m, m.bias.get(), data.y.get(), data.p.get(), 0.0);
}

SPARSEDIS_END
