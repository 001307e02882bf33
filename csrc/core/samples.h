// The samples of one task out of a batch.
#pragma once

#include "loss_kind.h"

SPARSEDIS_BEGIN

enum Status : int32_t { kConverged = 0, kIterationLimit = 1, kNotFinite = 2 };

// A feature that nothing penalises gets this share of its squared norm as ridge, so that every
// problem has one solution.
template <typename Real>
SPARSEDIS_HD constexpr double ridge_floor() {
  return sizeof(Real) == 4 ? 1e-6 : 1e-10;
}

template <typename Real>
struct TaskInput {
  const Real *z, *y, *sample_weight;  // (n, M), (n, C), (n) or null
  int64_t n, M, C;
  bool fit_intercept;
  Loss loss;
};

template <typename Real>
SPARSEDIS_HD inline TaskInput<Real> task_input(const SamplesArgs<Real>& s, int64_t t) {
  const int64_t begin = s.offsets ? s.offsets[t] : t * s.n;
  const int64_t n = s.offsets ? s.offsets[t + 1] - begin : s.n;
  const bool own_weight = !s.one_design || s.weight_per_task;
  return {s.one_design ? s.z : s.z + begin * s.M,
          s.y + begin * s.C,
          s.sample_weight ? s.sample_weight + (own_weight ? begin : 0) : nullptr,
          n,
          s.M,
          s.C,
          s.fit_intercept,
          static_cast<Loss>(s.loss)};
}

// Whether all tasks have the same samples and weights of them.
template <typename Real>
inline bool same_design(const SamplesArgs<Real>& s) {
  return s.one_design && !(s.sample_weight && s.weight_per_task);
}

// The first row of task t.
template <typename Real>
SPARSEDIS_HD inline int64_t row_of(const SamplesArgs<Real>& s, int64_t t) {
  return s.offsets ? s.offsets[t] : t * s.n;
}

SPARSEDIS_END
