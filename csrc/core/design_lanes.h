// Ridge heads of tasks that share their samples and ridge: one system, and the targets of several
// tasks side by side in the lanes of vectors. Formulas are those of ridge.h.
#pragma once

#include "ridge_lanes.h"

SPARSEDIS_BEGIN

// The samples, and their system with its factor.
template <typename Real>
struct LaneDesign {
  Task<Real> task;  // without targets
  bool dual;
  LaneMatrix<Real, true> matrix;
};

// A system that is factored.
template <typename Real>
inline void copy_system(const SpdSystem<Real>& s, LaneMatrix<Real, true>& to) {
  to.shape(s.N);
  for (int64_t i = 0; i < to.ld; ++i) {
    const int64_t tile = i / kLaneRows * kLaneRows, after = std::min(tile + kLaneRows, s.N);
    const Real *K = s.K.get() + i * s.ld, *U = s.U.get() + i * s.ld;
    Real* row = to.K.get() + i * to.ld;
    LanePivot<Real, true>& pivot = to.pivot(i);
    std::fill_n(row, to.ld, Real(0));
    if (i < s.N) std::copy(U + after, U + s.N, std::copy(K, K + after, row));
    if (i >= s.N) row[i] = 1;
    for (int64_t j = i + 1; j < tile + kLaneRows; ++j)
      pivot.U[i - tile][j - tile] = j < s.N ? U[j] : Real(0);
    pivot.inverse[i - tile] = i < s.N ? 1 / U[i] : Real(1);
  }
}

// False where z is not finite, or has no weight.
template <typename Real>
inline bool load_lane_design(const TaskInput<Real>& in, const PenaltyArgs<Real>& penalty,
                             LaneDesign<Real>& design) {
  Task<Real>& task = design.task;
  if (!load_design(in, task) || !load_penalty(penalty, 0, task) || task.empty()) return false;
  design.dual = takes_samples(in.n, in.M);
  SpdSystem<Real> system;
  system.shape(design.dual ? in.n : in.M, 1);
  if (design.dual) {
    invert_ridge(task);
    load_dual(task, system);
  } else {
    load_primal(task, system);
  }
  factor(system);
  copy_system(system, design.matrix);
  return true;
}

// What the heads of a group of tasks are solved with.
template <typename Real>
struct LaneHeads {
  LaneSides<Real> sides;
  LaneReport<Real> report;
  LaneBuffer<Real> targets, heads;     // B (n, C); A' times something (M in whole tiles, C)
  Buffer<double> mean, bias;           // ybar and the bias, (C, lanes)
  double target2[Simd<Real>::kLanes];  // ||B||^2
  Buffer<Real> image;
};

// B and ybar from the targets y(t), (n, C) of task t. What is not finite makes ||B||^2 so, too.
template <typename Real, typename F>
inline void load_lane_targets(const Task<Real>& task, int64_t C, F y, LaneHeads<Real>& h) {
  constexpr int64_t lanes = Simd<Real>::kLanes;
  const int64_t size = task.n * C;
  const auto values = [&](int64_t t, int64_t k) {
    if (k + lanes <= size) return load_vector<Real>(y(t) + k);
    Real some[lanes] = {};
    std::copy(y(t) + k, y(t) + size, some);
    return load_vector<Real>(some);
  };
  interleave<Real>(values, size, h.targets.reserve(size), 1);
  Real* B = h.targets.values();
  double* mean = h.mean.reserve(C * lanes);
  std::fill_n(mean, C * lanes, 0.0);
  if (task.centred) {
    const Real* anchor = B + task.heaviest * C * lanes;
    for (int64_t i = 0; i < task.n; ++i)
#pragma omp simd
      for (int64_t k = 0; k < C * lanes; ++k)
        mean[k] += task.p.get()[i] * (static_cast<double>(B[i * C * lanes + k]) - anchor[k]);
    for (int64_t k = 0; k < C * lanes; ++k) mean[k] += anchor[k];
  }
  std::fill_n(h.target2, lanes, 0.0);
  for (int64_t i = 0; i < task.n; ++i) {
    const double root = task.root.get()[i];
    for (int64_t c = 0; c < C; ++c)
#pragma omp simd
      for (int64_t t = 0; t < lanes; ++t) {
        Real& b = B[(i * C + c) * lanes + t];
        b = static_cast<Real>(root * (static_cast<double>(b) - mean[c * lanes + t]));
        h.target2[t] += static_cast<double>(b) * b;
      }
  }
}

// to (M in whole tiles, C) = A' from (n, C)
template <typename Real>
inline void pull_lanes(const Task<Real>& task, const Lanes<Real>* from, int64_t C,
                       Lanes<Real>* to) {
  multiply_rows<Real>(task.A.get(), 1, task.stride, whole_tiles(task.M), task.n, from, C,
                      reinterpret_cast<Real*>(to));
}

// The right sides, and their solutions to the gaps in `report`.
template <typename Real>
inline void solve_lane_heads(const LaneDesign<Real>& design, int64_t C, LaneHeads<Real>& h) {
  const Task<Real>& task = design.task;
  const LaneMatrix<Real, true>& matrix = design.matrix;
  LaneSides<Real>& s = h.sides;
  s.shape(matrix.ld, C);
  if (design.dual)
    std::copy_n(h.targets.get(), task.n * C, s.rhs.get());
  else
    pull_lanes(task, h.targets.get(), C, s.rhs.get());
  std::fill(s.rhs.get() + matrix.N * C, s.rhs.get() + matrix.ld * C, Lanes<Real>{});
  if (design.dual) {
    Real* image = h.image.reserve(s.size());
    const auto gap = [&](const Real* e, double* of) { add_dual_gap(matrix, e, C, image, of); };
    solve_system_lanes(matrix, s, kRefinements, gap, h.report);
  } else {
    const auto ridge = [&](int64_t j, int64_t) { return task.penalty.ridge[j]; };
    const auto gap = [&](const Real* e, double* of) { add_primal_gap(e, task.M, C, ridge, of); };
    solve_system_lanes(matrix, s, kRefinements, gap, h.report);
  }
}

// The heads (M, C), and their biases.
template <typename Real>
inline const LaneBuffer<Real>& finish_lane_heads(const LaneDesign<Real>& design, int64_t C,
                                                 LaneHeads<Real>& h) {
  constexpr int64_t lanes = Simd<Real>::kLanes;
  const Task<Real>& task = design.task;
  if (design.dual) {
    pull_lanes(task, h.sides.x.get(), C, h.heads.reserve((task.M + kLaneRows) * C));
    for (int64_t j = 0; j < task.M; ++j) {
      const Real scale = task.ridge.get()[j] * task.ridge.get()[j];
      for (int64_t k = j * C; k < (j + 1) * C; ++k) h.heads.get()[k] *= scale;
    }
  }
  const LaneBuffer<Real>& W = design.dual ? h.heads : h.sides.x;
  double* bias = h.bias.reserve(C * lanes);
  std::copy_n(h.mean.get(), C * lanes, bias);
  for (int64_t j = 0; j < task.M; ++j)
#pragma omp simd
    for (int64_t k = 0; k < C * lanes; ++k)
      bias[k] -= task.zbar.get()[j] * W.values()[j * C * lanes + k];
  return W;
}

SPARSEDIS_END
