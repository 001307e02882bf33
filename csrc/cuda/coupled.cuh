// The features of tasks that the shared level couples: a block takes one after another, its threads
// tasks. Everything in double, as cpu/coupled.h.
#pragma once

#include "../core/feature.h"
#include "block.cuh"
#include "coupled_memory.h"

SPARSEDIS_BEGIN

template <typename Real>
struct CoupledFeatures {
  const SamplesArgs<Real>& samples;
  const PenaltyArgs<Real>& penalty;
  const CoupledMemory& memory;
  Block block;

  // Feature m of an array (T, M, C) of all tasks.
  __device__ FeatureColumn<Real> column(const double* wide, int64_t m) const {
    const int64_t M = samples.M, C = samples.C;
    return {wide + m * C, M * C, 1, samples.T, M, C, m, memory.ridge, penalty};
  }

  // Calls body(m) for this block's features.
  template <typename F>
  __device__ void each(F body) const {
    for (int64_t m = blockIdx.x; m < samples.M; m += gridDim.x) body(m);
  }

  // The dual norm of every feature; for the gap, of its tasks without ridge, and at least 1.
  __device__ void load_stretch(bool gap) const {
    each([&](int64_t m) {
      const double nu = feature_dual_norm(column(memory.g, m), gap ? 1.0 : 0.0, gap, block);
      if (Block::rank() == 0) memory.stretch[m] = nu;
    });
  }

  __device__ double dual_scale() const {
    return 1 / fmax(1.0, block.largest(samples.M, [&](int64_t m) { return memory.stretch[m]; }));
  }

  // Penalty, conjugate and correlation of every feature at the dual point that s scales.
  __device__ void load_value(double s) const {
    each([&](int64_t m) {
      const FeatureColumn<Real> g = column(memory.g, m), W = column(memory.W, m);
      const double conjugate = feature_conjugate(g, s, memory.excess + m * samples.T, block);
      const double penalty = feature_penalty(W, block);
      const double correlation = block.sum(samples.T * samples.C, [&](int64_t k) {
        const int64_t at = k / samples.C * g.task_stride + k % samples.C;
        return g.g[at] * W.g[at];
      });
      if (Block::rank() == 0) memory.value[m] = penalty + conjugate - s * correlation;
    });
  }

  // The relative gap of all tasks together.
  __device__ double gap() const {
    const double zero = block.sum(samples.T, [&](int64_t t) { return memory.zero[t]; });
    const double loss = block.sum(samples.T, [&](int64_t t) { return memory.loss[t]; });
    const double rest = block.sum(samples.M, [&](int64_t m) { return memory.value[m]; });
    return zero == 0 ? 0.0 : at_least_zero(loss + rest) / zero;
  }
};

SPARSEDIS_END
