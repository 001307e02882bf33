// Heads of tasks that the shared level does not couple: a block takes a task after another.
//
// Ridge has one factor of the smaller side. Everything else goes by accelerated proximal gradient
// steps (Beck and Teboulle 2009) whose momentum restarts where it points uphill (O'Donoghue and
// Candes 2015): features move side by side on threads, where coordinate descent would wait for two
// barriers a feature. A step is taken in `Compute`; every kCheckEvery steps scores, residuals and
// the gap are formed anew in double sums.
#pragma once

#include "fit_job.h"
#include "products.cuh"
#include "report.cuh"

SPARSEDIS_BEGIN

constexpr int kCheckEvery = 10;         // steps from one gap to the next
constexpr int kPowerSteps = 30;         // of the power method
constexpr double kLipschitzRoom = 1.1;  // it ends below the largest eigenvalue

template <typename Real>
struct HeadResult {
  Real *weight, *bias, *gap;  // (M, C), (C), (1)
  int32_t *n_iter, *status;
};

template <typename Real>
__device__ HeadResult<Real> result_of(const HeadsArgs<Real>& a, int64_t t) {
  const SamplesArgs<Real>& s = a.samples;
  return {a.weight + t * s.M * s.C, a.bias + t * s.C, a.gap + t, a.n_iter + t, a.status + t};
}

// The same number everywhere, for a task that has no heads.
template <typename Compute, typename Real>
__device__ void write_all(const BlockTask<Compute, Real>& task, const HeadResult<Real>& out,
                          Real value, Status status) {
  task.block.each(task.in.M * task.in.C, [&](int64_t k) { out.weight[k] = value; });
  task.block.each(task.in.C, [&](int64_t c) { out.bias[c] = value; });
  if (Block::rank() == 0) *out.gap = value, *out.n_iter = 0, *out.status = status;
}

// The bias of a loss that is not squared: as core/heads.h, a class that is none has -inf, and the
// others have sum 0.
template <typename Compute, typename Real>
__device__ void write_curved_bias(const BlockTask<Compute, Real>& task, const double* shift,
                                  Real* bias) {
  const TaskMemory<Compute>& memory = task.memory;
  const int64_t C = task.in.C;
  double sums[2];  // of finite biases, and their number
  task.block.sums(C, sums, [&](int64_t c, double (&pair)[2]) {
    if (memory.limit[c] == 0) pair[0] += memory.bias[c] - shift[c], pair[1] += 1;
  });
  const double centre = task.in.loss == kMultinomial && sums[1] > 0 ? sums[0] / sums[1] : 0.0;
  task.block.each(C, [&](int64_t c) {
    const double limit = memory.limit[c];
    bias[c] = static_cast<Real>(limit == 0 ? memory.bias[c] - shift[c] - centre : limit);
  });
}

// memory.W as weights, and the intercept ybar - W' zbar.
template <typename Compute, typename Real>
__device__ void write_head(const BlockTask<Compute, Real>& task, const HeadResult<Real>& out,
                           double gap, double tol, int64_t steps) {
  const TaskMemory<Compute>& memory = task.memory;
  const int64_t M = task.in.M, C = task.in.C;
  const bool squared = task.in.loss == kSquared;
  task.block.each(M * C, [&](int64_t k) { out.weight[k] = static_cast<Real>(memory.W[k]); });
  double* shift = squared ? memory.g : memory.trial;  // of C numbers, which nobody needs any more
  task.block.sum_rows(M, C, shift, [&](int64_t j, int64_t c) {
    return memory.zbar[j] * static_cast<double>(memory.W[j * C + c]);
  });
  if (squared)
    task.block.each(C,
                    [&](int64_t c) { out.bias[c] = static_cast<Real>(memory.ybar[c] - shift[c]); });
  else
    write_curved_bias(task, shift, out.bias);
  if (Block::rank() > 0) return;
  *out.gap = static_cast<Real>(gap), *out.n_iter = static_cast<int32_t>(steps);
  *out.status = gap <= tol ? kConverged : kIterationLimit;
}

// ---- ridge

// (A'A + D) W = A'B, or with fewer samples W = D^-1 A' x with (A D^-1 A' + I) x = B.
template <typename Compute, typename Real>
__device__ bool solve_ridge(const BlockTask<Compute, Real>& task, const RidgeMemory& system) {
  const int64_t n = task.in.n, M = task.in.M, C = task.in.C;
  const bool dual = n < M;
  const int64_t N = dual ? n : M;
  const double* ridge = task.memory.ridge;
  double *K = system.K, *x = system.x;
  for (int64_t a = Block::warp(); a < N; a += kWarps)
    for (int64_t b = Block::lane(); b <= a; b += kWarp) {
      double sum = 0;
      for (int64_t k = 0; k < (dual ? M : n); ++k)
        sum += dual ? static_cast<double>(task.a(a, k)) * task.a(b, k) / ridge[k]
                    : static_cast<double>(task.a(k, a)) * task.a(k, b);
      K[a * N + b] = sum + (a == b ? (dual ? 1.0 : ridge[a]) : 0.0);
    }
  if (dual)
    task.block.each(n * C, [&](int64_t k) { x[k] = task.b(k / C, k % C); });
  else
    task.block.sum_rows(n, M * C, x, [&](int64_t i, int64_t k) {
      return static_cast<double>(task.a(i, k / C)) * task.b(i, k % C);
    });
  if (!factor_spd(task.block, K, N)) return false;
  solve_spd(task.block, K, N, C, x);
  Compute* W = task.memory.W;
  if (!dual) {
    task.block.each(M * C, [&](int64_t k) { W[k] = static_cast<Compute>(x[k]); });
    return true;
  }
  task.block.sum_rows(n, M * C, W, [&](int64_t i, int64_t k) {
    return static_cast<double>(task.a(i, k / C)) * x[i * C + k % C] / ridge[k / C];
  });
  return true;
}

template <typename Real>
__device__ void fit_ridge(const FitJob<Real>& job) {
  const HeadsArgs<Real>& a = job.args;
  for_each_task<Real>(a.samples, job.blocks, job.needs(), [&](int64_t t, auto& task, Arena& arena) {
    const HeadResult<Real> out = result_of(a, t);
    const RidgeMemory system(arena, job.unknowns, task.in.C);
    if (!load_task(task) || !load_penalty(task, a.penalty, t, job.needs()))
      return write_all(task, out, std::numeric_limits<Real>::quiet_NaN(), kNotFinite);
    if (task.empty()) return write_all(task, out, Real(0), kConverged);
    solve_ridge(task, system);
    const double zero = evaluate_both(task, true);
    if (zero == 0) task.block.each(task.in.M * task.in.C, [&](int64_t k) { task.memory.W[k] = 0; });
    pull_all(task, task.memory.g);
    const double gap = zero > 0 ? gap_at(task, a.penalty.nonneg) / zero : 0.0;
    write_head(task, out, gap, a.tol, 1);
  });
}

// ---- accelerated proximal gradient

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
  template <typename Y, typename F>
  __device__ void pull(int64_t C, Y y, F write) const {
    const auto a = [&](int64_t j, int64_t i) { return task.a(i, j); };
    multiply(task.block, task.in.M, task.in.n, C, memory.partial, a, y, write);
  }
  template <typename Y, typename F>
  __device__ void push(int64_t C, Y y, F write) const {
    const int32_t* moved = memory.moved;
    const auto a = [&](int64_t i, int64_t k) { return task.a(i, moved[k]); };
    const auto at = [&](int64_t k, int64_t c) { return y(moved[k], c); };
    multiply(task.block, task.in.n, moved[task.in.M], C, memory.partial, a, at, write);
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
      push(
          1, [&](int64_t j, int64_t) { return v[j]; },
          [&](int64_t i, int64_t, Compute sum) { u[i] = sum; });
      pull(
          1, [&](int64_t i, int64_t) { return u[i]; },
          [&](int64_t j, int64_t, Compute sum) { v[j] = sum; });
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

  __device__ void step(Momentum& momentum) const {
    const TaskMemory<Compute>& m = task.memory;
    const int64_t M = task.in.M, C = task.in.C;
    respond_ahead(momentum.inertia);
    pull(
        C, [&](int64_t i, int64_t c) { return memory.residual[i * C + c]; },
        [&](int64_t j, int64_t c, Compute sum) { m.g[j * C + c] = sum; });
    const double uphill = task.block.sum(M, [&](int64_t j) {
      return move_feature(j, momentum.inertia);
    }) + move_bias(momentum.inertia);
    list_moved([&](int64_t j) {
      bool any = false;
      for (int64_t c = 0; c < C; ++c) any |= memory.move[j * C + c] != 0;
      return any;
    });
    push(
        C, [&](int64_t j, int64_t c) { return memory.move[j * C + c]; },
        [&](int64_t i, int64_t c, Compute sum) { memory.image[i * C + c] = sum; });
    const bool squared = task.in.loss == kSquared;
    task.block.each(task.in.n * C, [&](int64_t k) {
      const double image = memory.image[k], root = m.root[k / C];
      if (squared)
        m.R[k] -= image;
      else if (root > 0)
        m.S[k] += image / root;
    });
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

// Weights to a relative gap of `tol`, in memory.W; returns the gap reached.
template <typename Compute, typename Real>
__device__ double solve_proximal(Proximal<Compute, Real>& solve, double tol, int64_t max_iter,
                                 int64_t* steps) {
  const BlockTask<Compute, Real>& task = solve.task;
  const TaskMemory<Compute>& m = task.memory;
  const int64_t C = task.in.C;
  if (task.in.loss != kSquared) load_bias(task);
  Momentum momentum;
  double zero = 0, gap = 0;
#pragma unroll 1
  for (bool weighed = false;; weighed = true) {  // at zero first, so that it is inlined once
    evaluate(task, weighed);
    if (!weighed) {
      zero = loss_of(task, 0.0);
      task.block.each(task.in.M * C, [&](int64_t k) {
        const bool held = task.in.loss != kSquared && m.limit[k % C] != 0;
        if (zero == 0 || held) m.W[k] = 0;
      });
      if (zero == 0) return 0;
      continue;
    }
    pull_all(task, m.g);
    gap = gap_at(task, solve.nonneg) / zero;
    if (gap <= tol || *steps >= max_iter) return gap;
    if (solve.lipschitz == 0) solve.load_lipschitz(), solve.rest();
    // What the certificate found of the bias is new to the momentum.
    if (task.in.loss != kSquared) task.block.each(C, [&](int64_t c) { m.step[c] = 0; });
    for (int k = 0; k < kCheckEvery && *steps < max_iter; ++k, ++*steps) solve.step(momentum);
  }
}

template <typename Real>
__device__ void fit_proximal(const FitJob<Real>& job) {
  const HeadsArgs<Real>& a = job.args;
  for_each_task<Real>(a.samples, job.blocks, job.needs(), [&](int64_t t, auto& task, Arena& arena) {
    const TaskInput<Real>& in = task.in;
    const HeadResult<Real> out = result_of(a, t);
    double* rows = job.blocks.rows + row_of(a.samples, t) * job.blocks.row_numbers +
                   in.n * row_numbers(in.C, in.loss);
    const ProximalMemory<Real> memory(arena, in.n, in.M, in.C, rows);
    const Real* init = a.init ? a.init + t * in.M * in.C : nullptr;
    if (!load_task(task) || !load_penalty(task, a.penalty, t, job.needs()) ||
        !load_start(task, init, a.penalty.nonneg))
      return write_all(task, out, std::numeric_limits<Real>::quiet_NaN(), kNotFinite);
    if (task.empty()) return write_all(task, out, Real(0), kConverged);
    Proximal<Real, Real> solve{task, memory, a.penalty.nonneg, loss_curvature(in.loss)};
    int64_t steps = 0;
    const double gap = solve_proximal(solve, a.tol, a.max_iter, &steps);
    write_head(task, out, gap, a.tol, steps);
  });
}

SPARSEDIS_END
