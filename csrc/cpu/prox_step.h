// Steps of optimisers that end in the prox: the moments of a few groups are brought up to date, and
// their prox is taken while they are in cache.
#pragma once

#include "prox.h"

SPARSEDIS_BEGIN

// One step of SGD on entries [offset, offset + count).
template <typename Real>
void sgd(const ProxSgdArgs<Real>& a, int64_t offset, int64_t count) {
  Real *w = a.prox.x + offset, *buffer = a.buffer + offset;
  const Real* grad = a.grad + offset;
  const Real lr = Real(a.lr), momentum = Real(a.momentum), decay = Real(a.weight_decay);
  const auto move = [=](auto direction) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) w[i] -= lr * direction(i, grad[i] + decay * w[i]);
  };
  const auto average = [=](int64_t i, Real g) { return buffer[i] = momentum * buffer[i] + g; };
  if (a.buffer == nullptr) return move([](int64_t, Real g) { return g; });
  if (a.nesterov) return move([=](int64_t i, Real g) { return g + momentum * average(i, g); });
  move(average);
}

template <typename Real>
void prox_sgd(const ProxSgdArgs<Real>& a, ParallelFor run) {
  const auto update = [&](int64_t offset, int64_t count) { sgd(a, offset, count); };
  const auto without_metric = [&](int64_t offset, int64_t count, auto&) -> const Real* {
    update(offset, count);
    return nullptr;
  };
  if (!present(a.prox.penalty.shared))
    return prox_ranges(a.prox, run, [&] { return without_metric; });
  if (is_uniform(a.prox)) return scale_features(a.prox, run, update);
  parallel_for(run, a.prox.T * a.prox.M * a.prox.C, kParallelElements,
               [&](int64_t begin, int64_t end) { update(begin, end - begin); });
  prox(a.prox, run);
}

// One step of AdamW on entries [offset, offset + count), whose metric is written to `metric`.
template <typename Real>
void adamw(const ProxAdamwArgs<Real>& a, int64_t offset, int64_t count, Real* metric) {
  Real *w = a.prox.x + offset, *first = a.first + offset, *second = a.second + offset;
  const Real* grad = a.grad + offset;
  const Real rest1 = Real(1 - a.beta1), beta2 = Real(a.beta2), rest2 = Real(1 - a.beta2);
  const Real eps = Real(a.eps), keep = Real(1 - a.lr * a.weight_decay);
  const Real unbias = Real(1 / std::sqrt(1 - std::pow(a.beta2, a.step)));
  const Real lr = Real(a.lr / (1 - std::pow(a.beta1, a.step)));
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    first[i] += rest1 * (grad[i] - first[i]);
    second[i] = beta2 * second[i] + rest2 * grad[i] * grad[i];
    metric[i] = std::sqrt(second[i]) * unbias + eps;
    w[i] = keep * w[i] - lr * first[i] / metric[i];
  }
}

// The step and the metric of a thread's groups.
template <typename Real>
struct AdamwUpdate {
  const ProxAdamwArgs<Real>& a;
  Buffer<Real> metric{};

  const Real* operator()(int64_t offset, int64_t count, ReadAhead<Real>& ahead) {
    adamw(a, offset, count, metric.reserve(count));
    ahead.start({a.prox.x + offset, a.grad + offset, a.first + offset, a.second + offset}, count);
    return metric.get();
  }
};

template <typename Real>
void prox_adamw(const ProxAdamwArgs<Real>& a, ParallelFor run) {
  if (!present(a.prox.penalty.shared))
    return prox_ranges(a.prox, run, [&] { return AdamwUpdate<Real>{a}; });
  // Each step of a feature's equation reads its metric over all tasks.
  const int64_t size = a.prox.T * a.prox.M * a.prox.C;
  Buffer<Real> metric(size);
  parallel_for(run, size, kParallelElements, [&](int64_t begin, int64_t end) {
    adamw(a, begin, end - begin, metric.get() + begin);
  });
  ProxArgs<Real> then = a.prox;
  then.metric = metric.get();
  prox(then, run);
}

SPARSEDIS_END
