// A block's task under a loss that is not squared: means, the best bias, and the divergence. As
// core/curved.h, in double.
#pragma once

#include "spd.cuh"
#include "task.cuh"

SPARSEDIS_BEGIN

// Limits of the bias, and its best finite part at zero weights, of sum 0 over classes.
template <typename Task>
__device__ void load_bias(const Task& task) {
  const auto& in = task.in;
  const auto& memory = task.memory;
  const int64_t C = in.C;
  float* limit = memory.limit;
  double *start = memory.bias, *ones = memory.step, *zeros = memory.trial;
  const auto target = [&](int64_t i, int64_t c) {
    return memory.p[i] > 0 ? memory.y[i * C + c] : 0.0;
  };
  task.block.sum_rows(in.n, C, ones,
                      [&](int64_t i, int64_t c) { return memory.p[i] * target(i, c); });
  task.block.sum_rows(in.n, C, zeros,
                      [&](int64_t i, int64_t c) { return memory.p[i] * (1 - target(i, c)); });
  task.block.each(C, [&](int64_t c) {
    limit[c] =
        static_cast<float>(limit_of(in.loss, ones[c], zeros[c], !task.empty(), in.fit_intercept));
    const bool free = in.fit_intercept && !task.empty() && limit[c] == 0;
    start[c] = free ? log(in.loss == kLogistic ? ones[c] / zeros[c] : ones[c]) : 0.0;
  });
  if (in.loss != kMultinomial || !in.fit_intercept) return;
  double sums[2];  // of starts, and of classes that have one
  task.block.sums(C, sums, [&](int64_t c, double (&pair)[2]) {
    pair[0] += start[c], pair[1] += limit[c] == 0;
  });
  task.block.each(C, [&](int64_t c) {
    if (limit[c] == 0 && sums[1] > 0) start[c] -= sums[0] / sums[1];
  });
}

// The means P (C) of a sample with the scores score(c), which may lie where P does; returns their
// log-sum-exp, of the multinomial.
template <typename Number, typename Score>
__device__ Number load_means(Loss loss, const float* limit, int C, Score score, Number* P) {
  Number top = -std::numeric_limits<Number>::max(), sum = 0;
#pragma unroll 1
  for (int c = 0; c < C; ++c)
    if (limit[c] == 0) top = fmax(top, score(c));
#pragma unroll 1
  for (int c = 0; c < C; ++c) {
    if (limit[c] != 0) {
      P[c] = limit[c] > 0;
    } else if (loss == kLogistic) {
      P[c] = 1 / (1 + exp(-score(c)));
    } else {
      P[c] = exp(score(c) - top);
      sum += P[c];
    }
  }
  if (loss == kLogistic) return 0;
#pragma unroll 1
  for (int c = 0; c < C; ++c)
    if (limit[c] == 0) P[c] /= sum;
  return top + log(sum);
}

// P at S + bias of one sample, and its log-sum-exp.
template <typename Task>
__device__ void mean_of(const Task& task, const double* bias, int64_t i) {
  const auto& memory = task.memory;
  const int C = task.in.C;
  const double* S = memory.S + i * C;
  memory.log_sum[i] = load_means(
      task.in.loss, memory.limit, C, [=](int c) { return S[c] + bias[c]; }, memory.P + i * C);
}

// q log q, which is 0 at 0.
__device__ inline double entropy_of(double q) { return q > 0 ? q * log(q) : 0.0; }

// D(q; u) at q = (1 - s) y + s P, summed over the samples with weights p, where the means are those
// at `bias`; at s = 0 the loss, less the least that it can be.
template <typename Task>
__device__ double divergence(const Task& task, const double* bias, double s) {
  const auto& in = task.in;
  const auto& memory = task.memory;
  if (s == 1) return 0;
  return task.block.sum(in.n * in.C, [&](int64_t k) {
    const int64_t i = k / in.C, c = k % in.C;
    if (memory.limit[c] != 0 || memory.p[i] == 0) return 0.0;
    const double mean = memory.P[k], q = (1 - s) * memory.y[k] + s * mean;
    const double score = memory.S[k] + bias[c];
    if (in.loss == kMultinomial)
      return memory.p[i] * (entropy_of(q) - q * (score - memory.log_sum[i]) + mean - q);
    const double softplus = fmax(score, 0.0) + log1p(exp(-fabs(score)));
    return memory.p[i] * (entropy_of(q) - q * score + entropy_of(1 - q) + softplus);
  });
}

// Gradient and Hessian of the loss in the finite bias; directions that change nothing get the
// curvature 1.
template <typename Task>
__device__ void load_bias_system(const Task& task) {
  const auto& in = task.in;
  const auto& memory = task.memory;
  const int64_t C = in.C;
  const double *p = memory.p, *P = memory.P;
  const float* limit = memory.limit;
  const bool multinomial = in.loss == kMultinomial;
  task.block.sum_rows(in.n, C, memory.gradient, [&](int64_t i, int64_t c) {
    const double y = p[i] > 0 ? memory.y[i * C + c] : 0.0;
    return limit[c] == 0 ? p[i] * (P[i * C + c] - y) : 0.0;
  });
  task.block.sum_rows(in.n, C * C, memory.H, [&](int64_t i, int64_t k) {
    const int64_t a = k / C, b = k % C;
    if (a == b) return p[i] * P[i * C + a] * (1 - P[i * C + a]);
    return multinomial ? -p[i] * P[i * C + a] * P[i * C + b] : 0.0;
  });
  task.block.each(C * C, [&](int64_t k) {
    const int64_t a = k / C, b = k % C;
    if (a == b && memory.H[k] < kStill) memory.H[k] += 1;
    if (multinomial && limit[a] == 0 && limit[b] == 0) memory.H[k] += 1;
  });
}

// Newton's step of the bias from the gradient and Hessian there, in memory.step; its decrement.
template <typename Task>
__device__ double bias_step(const Task& task) {
  const auto& memory = task.memory;
  const int64_t C = task.in.C;
  load_bias_system(task);
  if (!factor_spd(task.block, memory.H, C, Square{static_cast<int>(C)})) return 0;
  task.block.each(C, [&](int64_t c) { memory.step[c] = memory.gradient[c]; });
  solve_spd(task.block, memory.H, C, 1, memory.step, Square{static_cast<int>(C)});
  return task.block.sum(C, [&](int64_t c) { return memory.step[c] * memory.gradient[c]; });
}

// The best finite bias for the scores S, from memory.bias, by Newton's method with halved steps; P
// is left at it. Every trial, the start among them, takes the one path through the loop: what is
// inlined once stays small.
template <typename Task>
__device__ void fit_bias(const Task& task) {
  const auto& memory = task.memory;
  double *bias = memory.bias, *step = memory.step, *trial = memory.trial;
  const auto move = [&](double length) {
    task.block.each(task.in.C, [&](int64_t c) { trial[c] = bias[c] - length * step[c]; });
  };
  constexpr double enough = small_decrement<double>();
  double length = 1, decrement = 0, before = std::numeric_limits<double>::infinity();
  bool last = !task.in.fit_intercept, certain = true;
  task.block.each(task.in.C, [&](int64_t c) { step[c] = 0; });
  for (int steps = 0, halvings = 0; steps <= kBiasSteps;) {
    move(length);
    task.block.each(task.in.n, [&](int64_t i) { mean_of(task, trial, i); });
    const double value = divergence(task, trial, 0.0);
    if (!certain && !(value <= before - length * decrement / 4) && halvings++ < kBiasHalvings) {
      length /= 2;
      continue;
    }
    task.block.each(task.in.C, [&](int64_t c) { bias[c] = trial[c]; });
    if (last) return;
    before = value, length = 1, halvings = 0, ++steps;
    decrement = bias_step(task);
    if (!(decrement > enough)) return;
    const double size = task.block.largest(task.in.C, [&](int64_t c) { return fabs(step[c]); });
    certain = size < kCertainStep;
    last = certain && 3 * size * size * decrement < enough;
  }
}

// R = sqrt(p) (y - P)
template <typename Task>
__device__ void respond(const Task& task) {
  const auto& memory = task.memory;
  const int64_t C = task.in.C;
  task.block.each(task.in.n * C, [&](int64_t k) {
    const int64_t i = k / C;
    const double y = memory.p[i] > 0 ? memory.y[k] : 0.0;
    memory.R[k] = memory.root[i] * (y - memory.P[k]);
  });
}

SPARSEDIS_END
