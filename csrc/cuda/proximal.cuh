// Accelerated proximal gradient steps of a task (Beck and Teboulle 2009), whose momentum restarts
// where it points uphill (O'Donoghue and Candes 2015): features move side by side on threads, where
// coordinate descent would wait for two barriers a feature.
#pragma once

#include "curved.cuh"
#include "fit_job.h"
#include "products.cuh"

SPARSEDIS_BEGIN

constexpr int kFewestSteps = 5, kMostSteps = 50;  // from one certificate to the next
constexpr int kPowerSteps = 30;                   // of the power method
constexpr double kLipschitzRoom = 1.1;            // it ends below the largest eigenvalue

// The state of the method that all threads agree on.
template <typename Compute>
struct Momentum {
  Compute t = 1, inertia = 0;

  __device__ void advance(Compute uphill) {
    const Compute next = (1 + sqrt(1 + 4 * t * t)) / 2;
    inertia = uphill > 0 ? Compute(0) : (t - 1) / next;
    t = uphill > 0 ? Compute(1) : next;
  }
};

// When the next certificate is due, which takes as long as two steps: the gap falls about as the
// length of a step does.
template <typename Compute>
struct Rhythm {
  Compute share;      // of the next step's squared length, at which the gap should be enough
  Compute least = 0;  // squared length there
  int steps = 0;

  __device__ Rhythm(double gap, double tol)
      : share(static_cast<Compute>(tol / gap * (tol / gap))) {}
  __device__ bool due(Compute length2) {
    if (steps++ == 0) least = share * length2;
    return steps >= kMostSteps || (steps >= kFewestSteps && length2 <= least);
  }
};

// What a step tells: by its sign whether it points uphill, and its squared length in the metric of
// the model. `back` is from the new point to the extrapolated one.
template <typename Number>
__device__ void add_move(Number (&told)[2], Number curvature, Number back, Number move) {
  told[0] += curvature * back * move, told[1] += curvature * back * back;
}

// The norm of u(c) for c in [0, C), whose squares may be beyond the range of floats.
template <typename Number, typename U>
__device__ Number norm_of(int C, U u) {
  constexpr Number far = sizeof(Number) == 4 ? Number(1e30) : Number(1e290);
  Number norm2 = 0, most = 0;
  for (int c = 0; c < C; ++c) norm2 += u(c) * u(c), most = fmax(most, fabs(u(c)));
  if ((norm2 < far && norm2 > 1 / far) || most == 0) return sqrt(norm2);
  double wide2 = 0;
  for (int c = 0; c < C; ++c) wide2 += static_cast<double>(u(c)) * u(c);
  return static_cast<Number>(sqrt(wide2));
}

template <typename Compute, typename Real>
struct Proximal {
  const BlockTask<Compute, Real>& task;
  const ProximalMemory<Compute>& memory;
  bool nonneg;
  double bend;            // of the loss
  Compute lipschitz = 0;  // of its gradient: bend times the largest eigenvalue of A'A

  __device__ bool squared() const { return task.in.loss == kSquared; }
  // Steps keep theirs where certificates have their own.
  __device__ Compute* g() const { return reinterpret_cast<Compute*>(task.memory.g); }
  __device__ Compute* residual() const { return reinterpret_cast<Compute*>(task.memory.R); }

  // write(i, c, (A y)) for y (M, C), over the features that moved.
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
      pull<Compute>(task, 1, u, [=](int j, int, Compute sum) { v[j] = sum; });
      norm = sqrt(task.block.sum(task.in.M, [&](int64_t j) { return double(v[j]) * v[j]; }));
      if (norm == 0) break;
      const Compute inverse = static_cast<Compute>(1 / norm);
      task.block.each(task.in.M, [&](int64_t j) { v[j] *= inverse; });
    }
    lipschitz = static_cast<Compute>(norm > 0 ? kLipschitzRoom * bend * norm : 1.0);
  }

  // From where the certificate has left residuals or scores.
  __device__ void start() const {
    const TaskMemory<Compute>& m = task.memory;
    const double* from = squared() ? m.R : m.S;
    task.block.each(task.in.n * task.in.C,
                    [&](int64_t k) { memory.current[k] = static_cast<Compute>(from[k]); });
    if (squared()) return;
    // What it found of the bias is new to the momentum.
    task.block.each(task.in.C, [&](int64_t c) { m.step[c] = 0; });
  }

  // The residual sqrt(p) (y - mean) of sample i at the extrapolated point, whose bias is m.trial.
  __device__ void respond_ahead(int64_t i, Compute inertia) const {
    const TaskMemory<Compute>& m = task.memory;
    const int C = task.in.C;
    const int64_t first = i * C;
    Compute* ahead = residual() + first;
    const Compute root = static_cast<Compute>(m.root[i]);
    const Compute move = root > 0 ? inertia / root : Compute(0);
    for (int c = 0; c < C; ++c)
      ahead[c] = memory.current[first + c] + move * memory.image[first + c] +
                 static_cast<Compute>(m.trial[c]);
    load_means(task.in.loss, m.limit, C, [=](int c) { return ahead[c]; }, ahead);
    for (int c = 0; c < C; ++c)
      ahead[c] = root > 0 ? root * (static_cast<Compute>(m.y[first + c]) - ahead[c]) : Compute(0);
  }

  // Residuals at the extrapolated point, and what the bias gains there.
  __device__ void respond_ahead(Compute inertia) const {
    const TaskMemory<Compute>& m = task.memory;
    const int64_t C = task.in.C;
    Compute* ahead = residual();
    if (squared())
      return task.block.each(task.in.n * C, [&](int64_t k) {
        ahead[k] = memory.current[k] - inertia * memory.image[k];
      });
    task.block.each(C, [&](int64_t c) { m.trial[c] = m.bias[c] + inertia * m.step[c]; });
    task.block.each(task.in.n, [&](int64_t i) { respond_ahead(i, inertia); });
    if (!task.in.fit_intercept) return;
    task.block.sum_rows(task.in.n, C, m.gradient, [&](int64_t i, int64_t c) {
      return static_cast<Compute>(m.root[i]) * ahead[i * C + c];
    });
  }

  // The exact minimiser of feature j's model at the extrapolated point, as a difference from it:
  // rounded to the digits of gradient and strengths, not to those of the curvature times weights.
  __device__ void move_feature(int64_t j, Compute inertia, Compute (&told)[2]) const {
    const TaskMemory<Compute>& m = task.memory;
    const int C = task.in.C;
    const Compute l1 = m.l1[j], group = m.group[j], ridge = m.ridge[j];
    const Compute* g = this->g() + j * C;
    Compute *w = m.W + j * C, *v = memory.move + j * C;
    for (int c = 0; c < C; ++c) v[c] = w[c] + inertia * v[c];  // the extrapolated point, for now
    const auto u = [=](int c) { return soft_threshold(lipschitz * v[c] + g[c], l1, nonneg); };
    const Compute norm = norm_of<Compute>(C, u), inverse = 1 / (lipschitz + ridge);
    const Compute radial = norm > group ? group / norm : Compute(1);
    for (int c = 0; c < C; ++c) {
      const Compute ahead = v[c], left = radial < 1 ? u(c) : Compute(0);
      const Compute slope = g[c] - (left > 0 ? l1 : -l1) - radial * left - ridge * ahead;
      const Compute turn = left != 0 ? inverse * slope : -ahead, next = ahead + turn;
      v[c] = next - w[c], w[c] = next;
      add_move(told, lipschitz, -turn, v[c]);
    }
  }

  // The bias moves by its own part of the model; its step is in m.step.
  __device__ void move_bias(Compute (&told)[2]) const {
    const TaskMemory<Compute>& m = task.memory;
    if (squared() || !task.in.fit_intercept) return;
    Compute of_bias[2];
    task.block.sums(task.in.C, of_bias, [&](int64_t c, Compute(&pair)[2]) {
      if (m.limit[c] != 0) return;
      const double ahead = m.trial[c], next = ahead + m.gradient[c] / bend;
      m.step[c] = next - m.bias[c], m.bias[c] = next;
      add_move(pair, static_cast<Compute>(bend), static_cast<Compute>(ahead - next),
               static_cast<Compute>(m.step[c]));
    });
    told[0] += of_bias[0], told[1] += of_bias[1];
  }

  // g = A'R at the extrapolated point.
  __device__ void look_ahead(Compute inertia) const {
    const int64_t C = task.in.C;
    Compute* g = this->g();
    respond_ahead(inertia);
    pull<Compute>(task, C, residual(), [=](int64_t j, int c, Compute sum) { g[j * C + c] = sum; });
  }

  // Residuals or scores follow what moved.
  __device__ void follow() const {
    const int64_t C = task.in.C;
    list_moved([&](int64_t j) {
      bool any = false;
      for (int64_t c = 0; c < C; ++c) any |= memory.move[j * C + c] != 0;
      return any;
    });
    push(C, memory.move, [&](int64_t i, int c, Compute sum) {
      const int64_t k = i * C + c;
      const Compute root = static_cast<Compute>(task.memory.root[i]);
      memory.image[k] = sum;
      if (squared())
        memory.current[k] -= sum;
      else if (root > 0)
        memory.current[k] += sum / root;
    });
  }

  // Returns the step's squared length.
  __device__ Compute step(Momentum<Compute>& momentum) const {
    look_ahead(momentum.inertia);
    Compute told[2];
    task.block.sums(task.in.M, told,
                    [&](int64_t j, Compute(&pair)[2]) { move_feature(j, momentum.inertia, pair); });
    move_bias(told);
    follow();
    momentum.advance(told[0]);
    return told[1];
  }

  // Nothing moves: what the momentum would carry on.
  __device__ void rest() const {
    task.block.each(task.in.M * task.in.C, [&](int64_t k) { memory.move[k] = 0; });
    task.block.each(task.in.n * task.in.C, [&](int64_t k) { memory.image[k] = 0; });
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
