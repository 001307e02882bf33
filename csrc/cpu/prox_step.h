// Steps of optimisers that end in the prox: the moments of a few groups are brought up to date, and
// their prox is taken while they are in cache.
#pragma once

#include "prox.h"
#include "subnormals.h"

SPARSEDIS_BEGIN

// One step of SGD on entries [offset, offset + count).
template <typename Real>
void sgd(const ProxSgdArgs<Real>& a, int64_t offset, int64_t count) {
  const FlushSubnormals flush;
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

// A thread's groups, which take one step of AdamW when they are first read. Their metric is that of
// the second moments.
template <typename Real>
class AdamwGroups {
 public:
  explicit AdamwGroups(const ProxAdamwArgs<Real>& args)
      : a(args),
        unbias(Real(1 / std::sqrt(1 - std::pow(a.beta2, a.step)))),
        lr(Real(a.lr / (1 - std::pow(a.beta1, a.step)))) {}

  std::array<const Real*, 4> arrays() const { return {a.prox.x, a.grad, a.first, a.second}; }

  // The step of entries [offset, offset + count); returns their metric.
  const Real* take(int64_t offset, int64_t count) {
    Real *w = a.prox.x + offset, *first = a.first + offset, *second = a.second + offset;
    Real* metric = metric_.reserve(count);
    const Real* grad = a.grad + offset;
    const Real rest1 = Real(1 - a.beta1), beta2 = Real(a.beta2), rest2 = Real(1 - a.beta2);
    const Real keep = Real(1 - a.lr * a.weight_decay), rate = lr;
    const auto root = root_of();
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      first[i] += rest1 * (grad[i] - first[i]);
      second[i] = beta2 * second[i] + rest2 * grad[i] * grad[i];
      metric[i] = root(second[i]);
      w[i] = keep * w[i] - rate * first[i] / metric[i];
    }
    return metric;
  }
  // The metric of what has been taken; that of the last entries taken stays where it is.
  const Real* metric(int64_t offset, int64_t count) {
    const Real* second = a.second + offset;
    std::transform(second, second + count, again_.reserve(count), root_of());
    return again_.get();
  }

 private:
  const FlushSubnormals flush_;
  const ProxAdamwArgs<Real>& a;
  const Real unbias, lr;
  Buffer<Real> metric_, again_;

  auto root_of() const {
    return [unbias = unbias, eps = Real(a.eps)](Real second) {
      return std::sqrt(second) * unbias + eps;
    };
  }
};

template <typename Real>
void prox_adamw(const ProxAdamwArgs<Real>& a, ParallelFor run) {
  if (present(a.prox.penalty.shared))
    return prox_features(a.prox, run, [&] { return AdamwGroups<Real>(a); });
  prox_ranges(a.prox, run, [&] {
    return [groups = AdamwGroups<Real>(a)](int64_t offset, int64_t count,
                                           ReadAhead<Real>& ahead) mutable {
      const Real* metric = groups.take(offset, count);
      ahead.start(groups.arrays(), offset, count);
      return metric;
    };
  });
}

SPARSEDIS_END
