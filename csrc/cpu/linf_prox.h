// The prox of the weighted L-infinity norm and its gradients: with s = sum_K sign(v) grad / sum_K d
// over the clipped entries K, grad_v = d sign(v) s on K, grad_metric = (|v| - tau) s and
// grad_strength = -s. A group that is 0 passes nothing.
//
// Short groups go as many at a time as a vector has lanes, their sums in `Real`. In double, one by
// one, go long ones and levels of those whose sums leave that range or are near the strength.
#pragma once

#include "../core/linf.h"
#include "group_columns.h"
#include "uniform_prox.h"

SPARSEDIS_BEGIN

// As many groups as a vector has lanes, each in a lane of C columns.
template <typename Real>
class LinfColumns {
 public:
  using Vector = Lanes<Real>;
  static constexpr int64_t kLanes = Simd<Real>::kLanes;

  explicit LinfColumns(const LinfArgs<Real>& args) : a(args), C(a.C), transposed(C) {
    v = storage.reserve(4 * C), D = v + C, x = D + C, grad = x + C;
  }

  void prox(int64_t index, int64_t count) {
    load(index, count);
    const Vector limit = level(index, count);
    for (int64_t c = 0; c < C; ++c) {
      const Vector clipped = v[c] > limit ? limit : (v[c] < -limit ? -limit : v[c]);
      x[c] = limit != limit ? limit : clipped;
    }
    transposed.put(x, count, a.x + index * C);
  }

  void backward(int64_t index, int64_t count) {
    load(index, count);
    transposed.take(a.grad + index * C, count, 0, grad);
    transposed.take(a.solution + index * C, count, 0, x);
    const Vector zero{}, limit = largest();
    Vector pull{}, weight{};
    for (int64_t c = 0; c < C; ++c) {
      const auto clipped = size(x[c]) == limit;
      pull += clipped ? signed_like(v[c], grad[c]) : zero, weight += clipped ? D[c] : zero;
    }
    const auto dead = ((lam > zero) & (limit == zero)) | (weight == zero);
    const Vector s = dead ? zero : pull / weight;
    for (int64_t c = 0; c < C; ++c) {
      const auto clipped = size(x[c]) == limit;
      grad[c] = clipped & (lam > zero) ? signed_like(v[c], D[c] * s) : grad[c];
      x[c] = clipped ? size(v[c] - x[c]) * s : zero;
    }
    if (a.grad_v) transposed.put(grad, count, a.grad_v + index * C);
    if (a.grad_metric) transposed.put(x, count, a.grad_metric + index * C);
    for (int64_t k = 0; k < (a.grad_strength ? count : 0); ++k) a.grad_strength[index + k] = -s[k];
  }

 private:
  const LinfArgs<Real>& a;
  int64_t C;
  GroupColumns<Real> transposed;
  LaneBuffer<Real> storage;
  Vector *v, *D, *x, *grad, lam;

  static Vector size(Vector u) {
    absolute(u);
    return u;
  }

  void load(int64_t index, int64_t count) {
    transposed.take(a.v + index * C, count, 0, v);
    if (a.metric) transposed.take(a.metric + index * C, count, 1, D);
    if (!a.metric) std::fill_n(D, C, Vector{} + 1);
    Real strengths[kMostLanes];
    fill(a.strength, a.M, index, count, strengths);
    lam = lanes_at(strengths);
  }

  Vector largest() const {
    Vector most{};
    for (int64_t c = 0; c < C; ++c) most = size(x[c]) > most ? size(x[c]) : most;
    return most;
  }

  // tau of `clip_level`; infinite where nothing is clipped.
  Vector level(int64_t index, int64_t count) const {
    const Vector zero{}, most = zero + std::numeric_limits<Real>::max();
    const auto none = zero != zero;
    auto beyond = none, climbs = ~none;
    Vector tau = zero;
    for (int64_t step = 0; step <= C && any_lane(climbs); ++step) {
      Vector weighted{}, weight{};
      for (int64_t c = 0; c < C; ++c) {
        const Vector reach = size(v[c]);
        weighted += ~(reach <= tau) ? D[c] * reach : zero, weight += reach > tau ? D[c] : zero;
      }
      // Whether a group is 0 is decided by its first sum.
      if (step == 0) beyond = ~(weighted < most) | (size(weighted - lam) < kNear<Real> * lam);
      const Vector next = (weighted - lam) / weight;
      climbs = next > tau;
      tau = climbs ? next : tau;
    }
    tau = lam > zero ? tau : lam + std::numeric_limits<Real>::infinity();  // not a number stays
    for (int64_t k = 0; k < (any_lane(beyond) ? count : 0); ++k) {
      const int64_t offset = (index + k) * C;
      const Real* metric = a.metric ? a.metric + offset : nullptr;
      if (beyond[k] && lam[k] > 0)
        tau[k] = static_cast<Real>(clip_level<Real>(a.v + offset, metric, C, lam[k]));
    }
    return tau;
  }
};

// One group in double.
template <typename Real>
void linf_group(const LinfArgs<Real>& a, int64_t index) {
  const int64_t offset = index * a.C;
  const Real *v = a.v + offset, *metric = a.metric ? a.metric + offset : nullptr;
  const double lam = at(a.strength, index / a.M, index % a.M);
  const double whole = lam + std::numeric_limits<double>::infinity();  // not a number stays
  const Real tau = static_cast<Real>(lam > 0 ? clip_level(v, metric, a.C, lam) : whole);
  for (int64_t c = 0; c < a.C; ++c) {
    const Real clipped = v[c] > tau ? tau : (v[c] < -tau ? -tau : v[c]);
    a.x[offset + c] = tau != tau ? tau : clipped;
  }
}

template <typename Real>
void linf_group_backward(const LinfArgs<Real>& a, int64_t index) {
  const int64_t offset = index * a.C;
  const Real *v = a.v + offset, *grad = a.grad + offset, *x = a.solution + offset;
  const auto d = [&](int64_t c) {
    return a.metric ? static_cast<double>(a.metric[offset + c]) : 1.0;
  };
  const auto sign = [&](int64_t c) { return signed_like<double>(v[c], 1); };
  double tau = 0, pull = 0, weight = 0;
  for (int64_t c = 0; c < a.C; ++c) tau = std::max(tau, static_cast<double>(std::fabs(x[c])));
#pragma omp simd reduction(+ : pull, weight)
  for (int64_t c = 0; c < a.C; ++c) {
    const bool clipped = std::fabs(x[c]) == tau;
    pull += clipped ? sign(c) * grad[c] : 0.0, weight += clipped ? d(c) : 0.0;
  }
  const bool active = at(a.strength, index / a.M, index % a.M) > 0;
  const double s = (active && tau == 0) || weight == 0 ? 0.0 : pull / weight;
  for (int64_t c = 0; c < a.C; ++c) {
    const bool clipped = std::fabs(x[c]) == tau;
    const double along = active && clipped ? d(c) * sign(c) * s : static_cast<double>(grad[c]);
    const double excess = clipped ? std::fabs(v[c] - x[c]) : 0.0;
    if (a.grad_v) a.grad_v[offset + c] = static_cast<Real>(along);
    if (a.grad_metric) a.grad_metric[offset + c] = static_cast<Real>(excess * s);
  }
  if (a.grad_strength) a.grad_strength[index] = static_cast<Real>(-s);
}

// Calls short_(columns, index, count) for short groups, a few at a time, or long_(index) for each.
template <typename Real, typename Short, typename Long>
void for_each_linf(const LinfArgs<Real>& a, ParallelFor run, Short short_, Long long_) {
  constexpr int64_t lanes = Simd<Real>::kLanes;
  for_each_range(a.T * a.M, a.C, run, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end && a.C >= kLongGroup; ++i) long_(i);
    if (a.C >= kLongGroup) return;
    LinfColumns<Real> columns(a);
    for (int64_t i = begin; i < end; i += lanes) short_(columns, i, std::min(lanes, end - i));
  });
}

template <typename Real>
void linf_prox(const LinfArgs<Real>& a, ParallelFor run) {
  for_each_linf(
      a, run, [](auto& columns, int64_t index, int64_t count) { columns.prox(index, count); },
      [&](int64_t index) { linf_group(a, index); });
}

template <typename Real>
void linf_prox_backward(const LinfArgs<Real>& a, ParallelFor run) {
  for_each_linf(
      a, run, [](auto& columns, int64_t index, int64_t count) { columns.backward(index, count); },
      [&](int64_t index) { linf_group_backward(a, index); });
}

SPARSEDIS_END
