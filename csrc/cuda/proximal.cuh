// Accelerated proximal gradient steps of a task (Beck and Teboulle 2009), whose momentum restarts
// where it points uphill (O'Donoghue and Candes 2015): features move side by side on threads, where
// coordinate descent would wait for two barriers a feature.
#pragma once

#include "curved.cuh"
#include "fit_job.h"
#include "products.cuh"

SPARSEDIS_BEGIN

constexpr int kCheckEvery = 10;         // steps from one gap to the next
constexpr int kPowerSteps = 30;         // of the power method
constexpr double kLipschitzRoom = 1.1;  // it ends below the largest eigenvalue

// The state of the method that all threads agree on.
struct Momentum {
  double t = 1, inertia = 0;

  __device__ void advance(double uphill) {
    const double next = (1 + sqrt(1 + 4 * t * t)) / 2;
    inertia = uphill > 0 ? 0.0 : (t - 1) / next;
    t = uphill > 0 ? 1.0 : next;
  }
};

template <typename Compute, typename Real>
struct Proximal {
  const BlockTask<Compute, Real>& task;
  const ProximalMemory<Compute>& memory;
  bool nonneg;
  double bend, lipschitz = 0;  // of the loss; bend times the largest eigenvalue of A'A

  // write(r, c, (A' y)) over features, and (A y) over samples for the features that moved.
  template <typename F>
  __device__ void pull(int64_t C, const Compute* y, F write) const {
    multiply<Compute>(
        task.block, task.near(), task.in.M, task.in.n, C,
        [&](auto where, int j, int i) { return task.a(where, i, j); }, rows_of(y, C), write);
  }
  template <typename F>
  __device__ void push(int64_t C, const Compute* y, F write) const {
    const int32_t* moved = memory.moved;
    multiply<Compute>(
        task.block, task.near(), task.in.n, moved[task.in.M], C,
        [&](auto where, int i, int k) { return task.a(where, i, moved[k]); },
        [=, y = rows_of(y, C)](int k, int c0) { return y(moved[k], c0); }, write);
  }

  // The features that `moves` says move.
  template <typename F>
  __device__ void list_moved(F moves) const {
    list_members(task.in.M, memory.moved, moves, [](int64_t, int32_t) {});
  }

  // The power method from a vector of no symmetry.
  __device__ void load_lipschitz() {
    Compute *v = memory.move, *u = memory.image;
    task.block.each(task.in.M, [&](int64_t j) { v[j] = Compute(1) + Compute(j % 7) / 8; });
    list_moved([](int64_t) { return true; });
    double norm = 0;
    for (int step = 0; step < kPowerSteps; ++step) {
      push(1, v, [=](int i, int, Compute sum) { u[i] = sum; });
      pull(1, u, [=](int j, int, Compute sum) { v[j] = sum; });
      norm = sqrt(task.block.sum(task.in.M, [&](int64_t j) { return double(v[j]) * v[j]; }));
      if (norm == 0) break;
      task.block.each(task.in.M, [&](int64_t j) { v[j] = static_cast<Compute>(v[j] / norm); });
    }
    lipschitz = norm > 0 ? kLipschitzRoom * bend * norm : 1.0;
  }

  // sqrt(p) (y - mean) at the extrapolated point, and what the bias gains there.
  __device__ void respond_ahead(double inertia) const {
    const TaskMemory<Compute>& m = task.memory;
    const int64_t C = task.in.C;
    if (task.in.loss == kSquared) {
      task.block.each(task.in.n * C, [&](int64_t k) {
        memory.residual[k] = static_cast<Compute>(m.R[k] - inertia * memory.image[k]);
      });
      return;
    }
    double* ahead = m.R;  // the scores there
    task.block.each(task.in.n * C, [&](int64_t k) {
      const double root = m.root[k / C];
      ahead[k] = m.S[k] + (root > 0 ? inertia * memory.image[k] / root : 0.0);
    });
    task.block.each(C, [&](int64_t c) { m.trial[c] = m.bias[c] + inertia * m.step[c]; });
    task.block.each(task.in.n, [&](int64_t i) { mean_of(task, ahead, m.trial, i); });
    task.block.each(task.in.n * C, [&](int64_t k) {
      const double y = m.p[k / C] > 0 ? m.y[k] : 0.0;
      memory.residual[k] = static_cast<Compute>(m.root[k / C] * (y - m.P[k]));
    });
    if (!task.in.fit_intercept) return;
    task.block.sum_rows(task.in.n, C, m.gradient, [&](int64_t i, int64_t c) {
      return m.root[i] * double(memory.residual[i * C + c]);
    });
  }

  // The exact minimiser of feature j's model at the extrapolated point; returns what tells uphill.
  __device__ double move_feature(int64_t j, double inertia) const {
    const TaskMemory<Compute>& m = task.memory;
    const int64_t C = task.in.C;
    Compute *w = m.W + j * C, *v = memory.move + j * C;
    double* u = m.g + j * C;  // holds A'R
    double norm2 = 0;
    for (int64_t c = 0; c < C; ++c) {
      u[c] = soft_threshold(lipschitz * (w[c] + inertia * v[c]) + u[c], m.l1[j], nonneg);
      norm2 += u[c] * u[c];
    }
    const double norm = sqrt(norm2), group = m.group[j];
    const double factor = norm > group ? (1 - group / norm) / (lipschitz + m.ridge[j]) : 0.0;
    double uphill = 0;
    for (int64_t c = 0; c < C; ++c) {
      const Compute next = static_cast<Compute>(factor * u[c]);
      const double ahead = w[c] + inertia * v[c];
      v[c] = next - w[c], w[c] = next;
      uphill += lipschitz * (ahead - next) * v[c];
    }
    return uphill;
  }

  // The bias moves by its own part of the model; its step is in m.step.
  __device__ double move_bias(double inertia) const {
    const TaskMemory<Compute>& m = task.memory;
    if (task.in.loss == kSquared || !task.in.fit_intercept) return 0;
    return task.block.sum(task.in.C, [&](int64_t c) {
      if (m.limit[c] != 0) return 0.0;
      const double ahead = m.trial[c], next = ahead + m.gradient[c] / bend;
      m.step[c] = next - m.bias[c], m.bias[c] = next;
      return bend * (ahead - next) * m.step[c];
    });
  }

  // g = A'R at the extrapolated point.
  __device__ void look_ahead(double inertia) const {
    const int64_t C = task.in.C;
    double* g = task.memory.g;
    respond_ahead(inertia);
    pull(C, memory.residual, [=](int64_t j, int c, Compute sum) { g[j * C + c] = sum; });
  }

  // Residuals or scores follow what moved.
  __device__ void follow() const {
    const TaskMemory<Compute>& m = task.memory;
    const int64_t C = task.in.C;
    list_moved([&](int64_t j) {
      bool any = false;
      for (int64_t c = 0; c < C; ++c) any |= memory.move[j * C + c] != 0;
      return any;
    });
    Compute* image = memory.image;
    push(C, memory.move, [=](int64_t i, int c, Compute sum) { image[i * C + c] = sum; });
    const bool squared = task.in.loss == kSquared;
    task.block.each(task.in.n * C, [&](int64_t k) {
      const double image = memory.image[k], root = m.root[k / C];
      if (squared)
        m.R[k] -= image;
      else if (root > 0)
        m.S[k] += image / root;
    });
  }

  __device__ void step(Momentum& momentum) const {
    look_ahead(momentum.inertia);
    const double uphill = task.block.sum(task.in.M, [&](int64_t j) {
      return move_feature(j, momentum.inertia);
    }) + move_bias(momentum.inertia);
    follow();
    momentum.advance(uphill);
  }

  // Nothing moves: what the momentum would carry on.
  __device__ void rest() const {
    task.block.each(task.in.M * task.in.C, [&](int64_t k) { memory.move[k] = 0; });
    task.block.each(task.in.n * task.in.C, [&](int64_t k) { memory.image[k] = 0; });
    if (task.in.loss != kSquared)
      task.block.each(task.in.C, [&](int64_t c) { task.memory.step[c] = 0; });
  }
};

// A feasible start from `init` (M, C) or null; false where a number of it is not finite.
template <typename Compute, typename Real>
__device__ bool load_start(const BlockTask<Compute, Real>& task, const Real* init, bool nonneg) {
  const int64_t size = task.in.M * task.in.C;
  Compute* W = task.memory.W;
  if (init == nullptr) {
    task.block.each(size, [&](int64_t k) { W[k] = 0; });
    return true;
  }
  return stage(task.block, init, size, [=](int64_t k, Real w) {
    W[k] = nonneg && w < 0 ? Compute(0) : static_cast<Compute>(w);
  });
}

SPARSEDIS_END
