// The gradient of a task's heads by implicit differentiation on their support: formulas as in
// core/heads_backward.h, in double. The system on the support is solved by conjugate gradients,
// which take any loss and any zeros inside a row. Samples stay as they are given, and are centred
// where they are read: a subtraction beside a multiplication for every output.
#pragma once

#include "backward_job.h"
#include "products.cuh"
#include "report.cuh"

SPARSEDIS_BEGIN

// The gradient of task t, by this block.
template <typename Real>
__device__ HeadGradient<Real> gradient_of(const BackwardJob<Real>& job, int64_t t) {
  const HeadsBackwardArgs<Real>& a = job.args;
  HeadGradient<Real> out = head_gradient(a, t);
  double* sums = job.sums ? job.sums + blockIdx.x * shared_numbers(a) : nullptr;
  if (shared_samples(a) > 0) out.z_sum = sums;
  if (shared_weights(a) > 0) out.weight_sum = sums + shared_samples(a);
  return out;
}

// The residual over the right side, preconditioned, at which conjugate gradients end.
template <typename Real>
constexpr double adjoint_eta() {
  return sizeof(Real) == 4 ? 1e-7 : 1e-14;
}

// The same number everywhere, for a task that has no gradient.
template <typename Real>
__device__ void fill(const BlockTask<double, Real, kRaw>& task, const HeadGradient<Real>& out,
                     Real value) {
  const int64_t n = task.in.n, M = task.in.M, C = task.in.C;
  const auto set = [&](Real* grad, int64_t count) {
    if (grad) task.block.each(count, [&](int64_t k) { grad[k] = value; });
  };
  set(out.z, n * M), set(out.y, n * C), set(out.sample_weight, n);
  set(out.l1, M), set(out.group, M), set(out.ridge, M);
  if (out.z_sum) task.block.each(n * M, [&](int64_t k) { out.z_sum[k] += value; });
  if (out.weight_sum) task.block.each(n, [&](int64_t i) { out.weight_sum[i] += value; });
}

// Features with weights, and those that nothing holds at zero, in order; norm is of every feature
// over all tasks, where the shared level couples them.
template <typename Real>
__device__ void load_support(const BlockTask<double, Real, kRaw>& task,
                             const PenaltyArgs<Real>& penalty, const double* norm,
                             const SupportMemory& support) {
  const auto& m = task.memory;
  const int64_t C = task.in.C;
  const auto member = [&](int64_t j) {
    const bool held = norm && at(penalty.shared, 0, j) != 0 && norm[j] == 0;
    bool any = m.l1[j] == 0 && m.group[j] == 0 && !penalty.nonneg && !held;
    for (int64_t c = 0; c < C; ++c) any |= m.W[j * C + c] != 0;
    return any;
  };
  list_members(task.in.M, support.row, member,
               [&](int64_t j, int32_t at) { support.position[j] = at; });
}

template <typename Real>
struct Adjoint {
  const BlockTask<double, Real, kRaw>& task;
  const SupportMemory& features;
  const AdjointMemory& memory;
  const HeadGradient<Real>& out;
  const PenaltyArgs<Real>& penalty;
  const double* norm = nullptr;  // of every feature over all tasks, where the shared level couples

  __device__ int64_t support() const { return features.row[task.in.M]; }
  __device__ bool squared() const { return task.in.loss == kSquared; }
  template <typename Where>
  __device__ double centred(Where where, int64_t i, int64_t j) const {  // z - zbar
    return static_cast<double>(task.z(where, i, j)) - task.memory.zbar[j];
  }
  __device__ double centred(int64_t i, int64_t j) const {
    return task.near() ? centred(Near(), i, j) : centred(Far(), i, j);
  }

  // ---- the system

  __device__ double shared(int64_t j) const { return norm ? at(penalty.shared, 0, j) : 0.0; }

  // Units, curvatures, live entries and the right side, which a factor solves in place.
  __device__ void load_rows() const {
    const auto& m = task.memory;
    double* rhs = memory.rhs ? memory.rhs : memory.x;
    const int64_t C = task.in.C;
    task.block.each(support(), [&](int64_t a) {
      const int64_t j = features.row[a];
      const double* w = m.W + j * C;
      double norm2 = 0;
      for (int64_t c = 0; c < C; ++c) norm2 += w[c] * w[c];
      const double inverse = norm2 > 0 ? 1 / sqrt(norm2) : 0.0;
      memory.d[a] = m.group[j] * inverse;
      memory.level[a] = m.ridge[j] + memory.d[a] + (shared(j) > 0 ? shared(j) / norm[j] : 0.0);
      for (int64_t c = 0; c < C; ++c) {
        const bool free = !penalty.nonneg && m.l1[j] == 0, moves = squared() || m.limit[c] == 0;
        const double live = moves && (w[c] != 0 || free);
        rhs[a * C + c] = live * (static_cast<double>(out.grad_weight[j * C + c]) -
                                 m.zbar[j] * memory.grad_bias[c]);
        if (memory.unit == nullptr) continue;  // all features are free and live
        memory.unit[a * C + c] = w[c] * inverse;
        memory.live[a * C + c] = live;
      }
    });
  }

  // A feature's floor: the share of its squared norm that is its ridge, 0 where something penalises
  // it.
  __device__ void load_floor(int64_t t) const {
    task.block.each(support(), [&](int64_t a) {
      const int64_t j = features.row[a];
      const bool free = at(penalty.l1, t, j) == 0 && at(penalty.group, t, j) == 0 &&
                        at(penalty.ridge, t, j) == 0 && at(penalty.shared, t, j) == 0;
      double norm2 = 0;
      for (int64_t i = 0; i < task.in.n && free; ++i)
        norm2 += task.memory.p[i] * centred(i, j) * centred(i, j);
      memory.floor[a] = norm2 > 0 ? ridge_floor<Real>() : 0.0;
    });
  }

  // The system of task t at its weights, all but the inverse of its diagonal.
  __device__ void load(int64_t t) const {
    load_grad_bias();
    load_rows();
    load_floor(t);
    take_bias();
  }

  // The cotangent of the bias, as far as the loss determines the bias.
  __device__ void load_grad_bias() const {
    const auto& m = task.memory;
    const int64_t C = task.in.C;
    const auto determined = [&](int64_t c) { return squared() || m.limit[c] == 0; };
    task.block.each(C, [&](int64_t c) {
      const bool wanted = task.in.fit_intercept && determined(c);
      memory.grad_bias[c] = wanted ? static_cast<double>(out.grad_bias[c]) : 0.0;
    });
    if (task.in.loss == kMultinomial) {  // a shift of all classes changes nothing
      double sums[2];
      task.block.sums(C, sums, [&](int64_t c, double (&pair)[2]) {
        pair[0] += memory.grad_bias[c], pair[1] += determined(c);
      });
      task.block.each(C, [&](int64_t c) {
        if (determined(c)) memory.grad_bias[c] -= sums[0] / sums[1];
      });
    }
    task.block.each(C, [&](int64_t c) { memory.answer[c] = memory.grad_bias[c]; });
  }

  // write(i, c, ((z - zbar) V)) for V (S, C), whose rows v has.
  template <typename V, typename F>
  __device__ void push(V v, F write) const {
    multiply<double>(
        task.block, task.near(), task.in.n, support(), task.in.C,
        [&](auto where, int i, int a) { return centred(where, i, features.row[a]); }, v, write);
  }
  // product = Q (z - zbar) V, sample by sample; Q is 1 of a squared loss.
  __device__ void push(const double* V) const {
    const int64_t C = task.in.C;
    push(rows_of(V, C),
         [=, to = memory.product](int64_t i, int c, double sum) { to[i * C + c] = sum; });
    if (!squared()) curve_product();
  }

  // write(c, (Q x)_c) for the Hessian Q of a sample's loss and the numbers x(c), which may be
  // where it writes.
  template <typename X, typename F>
  __device__ void curve(int64_t i, X x, F write) const {
    const int64_t C = task.in.C;
    const double* P = task.memory.P + i * C;
    double along = 0;
    for (int64_t c = 0; c < C && task.in.loss == kMultinomial; ++c) along += P[c] * x(c);
    for (int64_t c = 0; c < C; ++c)
      write(c, task.in.loss == kLogistic ? P[c] * (1 - P[c]) * x(c) : P[c] * (x(c) - along));
  }
  // product = Q product, sample by sample.
  __device__ void curve_product() const {
    task.block.each(task.in.n, [&](int64_t i) {
      double* x = memory.product + i * task.in.C;
      curve(i, [=](int64_t c) { return x[c]; }, [=](int64_t c, double bent) { x[c] = bent; });
    });
  }

  // answer = H_b^-1 (pull - sum_i p_i product_i), H_b factored; pull (C) may be null.
  __device__ void answer_bias(const double* pull) const {
    const auto& m = task.memory;
    const int64_t C = task.in.C;
    task.block.sum_rows(task.in.n, C, memory.answer,
                        [&](int64_t i, int64_t c) { return -m.p[i] * memory.product[i * C + c]; });
    task.block.each(C, [&](int64_t c) { memory.answer[c] += pull ? pull[c] : 0.0; });
    solve_spd(task.block, m.H, C, 1, memory.answer, Square{static_cast<int>(C)});
  }

  // product += Q answer
  __device__ void add_answer() const {
    const double* answer = memory.answer;
    task.block.each(task.in.n, [&](int64_t i) {
      double* x = memory.product + i * task.in.C;
      curve(i, [=](int64_t c) { return answer[c]; }, [=](int64_t c, double bent) { x[c] += bent; });
    });
  }

  // write(a, c, sum_i p_i (z_i - zbar) product_i); product has p before it afterwards.
  template <typename F>
  __device__ void pull(F write) const {
    const int64_t C = task.in.C;
    task.block.each(task.in.n * C, [&](int64_t k) { memory.product[k] *= task.memory.p[k / C]; });
    multiply<double>(
        task.block, task.near(), support(), task.in.n, C,
        [&](auto where, int a, int i) { return centred(where, i, features.row[a]); },
        rows_of(memory.product, C), write);
  }

  // image = H direction, with the bias eliminated; returns <direction, image>.
  __device__ double apply() const {
    const int64_t C = task.in.C;
    const double* V = memory.direction;
    push(V);
    if (biased()) {
      answer_bias(nullptr);
      add_answer();
    }
    pull([&](int64_t a, int c, double sum) { memory.image[a * C + c] = sum; });
    return task.block.sum(support(), [&](int64_t a) {
      const double level = memory.level[a], d = memory.d[a];
      double radial = 0, curvature = 0;
      for (int64_t c = 0; c < C; ++c) radial += memory.unit[a * C + c] * V[a * C + c];
      for (int64_t c = 0; c < C; ++c) {
        const int64_t k = a * C + c;
        memory.image[k] =
            memory.live[k] * (memory.image[k] + level * V[k] - d * radial * memory.unit[k]);
        curvature += V[k] * memory.image[k];
      }
      return curvature;
    });
  }

  // 1 / the diagonal of H, with the bias held.
  __device__ void load_inverse() const {
    const auto& m = task.memory;
    const int64_t C = task.in.C;
    multiply<double>(
        task.block, task.near(), support(), task.in.n, C,
        [&](auto where, int a, int i) {
          const double x = centred(where, i, features.row[a]);
          return m.p[i] * x * x;
        },
        [&](int64_t i, int c0) {
          return [row = squared() ? nullptr : m.P + i * C + c0](int c) {
            return row ? row[c] * (1 - row[c]) : 1.0;
          };
        },
        [&](int64_t a, int c, double sum) {
          const double unit = memory.unit[a * C + c];
          const double diagonal = sum + memory.level[a] - memory.d[a] * unit * unit;
          memory.inverse[a * C + c] = diagonal > 0 ? 1 / diagonal : 0.0;
        });
    Block::sync();
  }

  // scaled = inverse rhs; returns <rhs, scaled>.
  __device__ double precondition() const {
    return task.block.sum(size(), [&](int64_t k) {
      memory.scaled[k] = memory.inverse[k] * memory.rhs[k];
      return memory.scaled[k] * memory.rhs[k];
    });
  }

  // ---- conjugate gradients: x = H^-1 rhs, preconditioned

  __device__ int64_t size() const { return support() * task.in.C; }

  // From x = 0; returns <rhs, scaled>.
  __device__ double start() const {
    load_inverse();
    const double rz = precondition();
    task.block.each(size(),
                    [&](int64_t k) { memory.x[k] = 0, memory.direction[k] = memory.scaled[k]; });
    return rz;
  }
  // A step along the direction; returns <rhs, scaled> after it.
  __device__ double advance(double length) const {
    task.block.each(size(), [&](int64_t k) {
      memory.x[k] += length * memory.direction[k];
      memory.rhs[k] -= length * memory.image[k];
    });
    return precondition();
  }
  __device__ void turn(double ratio) const {
    task.block.each(size(), [&](int64_t k) {
      memory.direction[k] = memory.scaled[k] + ratio * memory.direction[k];
    });
  }

  __device__ void solve() const {
    double rz = start();
    const double target = adjoint_eta<Real>() * adjoint_eta<Real>() * rz;
    for (int64_t step = 0; step < 10 * size() && rz > target; ++step) {
      const double curvature = apply();
      if (!(curvature > 0)) return;
      const double next = advance(rz / curvature);
      turn(next / rz);
      rz = next;
    }
  }

  // ---- the bias of a loss that is not squared

  __device__ bool biased() const { return !squared() && task.in.fit_intercept; }

  // What the bias that answers grad_bias takes of the right side.
  __device__ void take_bias() const {
    if (!biased()) return;
    const int64_t C = task.in.C;
    load_bias_system(task);
    factor_spd(task.block, task.memory.H, C, Square{static_cast<int>(C)});
    task.block.each(task.in.n * C, [&](int64_t k) { memory.product[k] = 0; });
    answer_bias(memory.grad_bias);
    add_answer();
    pull([&](int64_t a, int c, double sum) {
      memory.rhs[a * C + c] -= memory.live[a * C + c] * sum;
    });
  }
  // The bias that answers x and grad_bias.
  __device__ void give_bias() const {
    if (!biased()) return;
    push(memory.x);
    answer_bias(memory.grad_bias);
  }

  // ---- what it writes

  // Strength gradients, and what the floor adds to those of the samples.
  __device__ void write_strengths() const {
    const auto& m = task.memory;
    const int64_t C = task.in.C;
    task.block.each(task.in.M, [&](int64_t j) {
      const int64_t a = features.position[j];
      double sign_u = 0, unit_u = 0, w_u = 0;
      for (int64_t c = 0; c < C && a >= 0; ++c) {
        const double w = m.W[j * C + c], u = memory.x[a * C + c];
        sign_u += w > 0 ? u : (w < 0 ? -u : 0.0);
        unit_u += memory.unit ? memory.unit[a * C + c] * u : 0.0, w_u += w * u;
      }
      if (out.l1) out.l1[j] = static_cast<Real>(-penalty.l1.scale * sign_u);
      if (out.group) out.group[j] = static_cast<Real>(-penalty.group.scale * unit_u);
      if (out.ridge) out.ridge[j] = static_cast<Real>(-penalty.ridge.scale * w_u);
      if (a >= 0) memory.floor[a] *= -w_u;
    });
  }

  // q_i = (z_i - zbar) U + answer into `product`, r_i = mean_i - y_i into R, and grad_p.
  __device__ void load_responses() const {
    const auto& m = task.memory;
    const int64_t n = task.in.n, C = task.in.C, S = support();
    double* scores = squared() ? m.R : m.S;
#pragma unroll 1
    for (int of_weights = 0; of_weights < 2; ++of_weights) {  // so that it is inlined once
      const double* V = of_weights ? m.W : memory.x;
      double* to = of_weights ? scores : memory.product;
      push([=, row = features.row, V = rows_of(V, C)](
               int a, int c0) { return V(of_weights ? row[a] : a, c0); },
           [=, answer = memory.answer](int64_t i, int c, double sum) {
             to[i * C + c] = of_weights ? sum : sum + answer[c];
           });
    }
    task.block.each(n, [&](int64_t i) {
      if (!squared()) mean_of(task, m.bias, i);
      double grad = 0;
      for (int64_t c = 0; c < C; ++c) {
        const int64_t k = i * C + c;
        m.R[k] = squared() ? m.R[k] - (m.y[k] - m.ybar[c]) : m.P[k] - m.y[k];
        grad -= m.R[k] * memory.product[k];
      }
      for (int64_t a = 0; a < S; ++a)
        if (memory.floor[a] != 0) {
          const double x = centred(i, features.row[a]);
          grad += memory.floor[a] * x * x;
        }
      memory.grad_p[i] = grad;
    });
  }

  // grad_z_i = -p_i (U r_i + W Q q_i) and what the floor adds; Q q_i is in `product` by now.
  __device__ void write_features() const {
    const auto& m = task.memory;
    const int64_t M = task.in.M, C = task.in.C;
    task.block.each(task.in.n * M, [&](int64_t k) {
      const int64_t i = k / M, j = k % M, a = features.position[j];
      double grad = 0;
      for (int64_t c = 0; c < C && a >= 0; ++c)
        grad -= memory.x[a * C + c] * m.R[i * C + c] + m.W[j * C + c] * memory.product[i * C + c];
      if (a >= 0 && memory.floor[a] != 0) grad += 2 * memory.floor[a] * centred(i, j);
      grad *= m.p[i];
      if (out.z) out.z[k] = static_cast<Real>(grad);
      if (out.z_sum) out.z_sum[k] += grad;
    });
  }

  __device__ void write_samples() const {
    const auto& m = task.memory;
    const int64_t n = task.in.n, C = task.in.C;
    load_responses();
    if (out.y)
      task.block.each(
          n * C, [&](int64_t k) { out.y[k] = static_cast<Real>(m.p[k / C] * memory.product[k]); });
    if (out.z || out.z_sum) {
      if (!squared()) curve_product();
      write_features();
    }
    if (!out.sample_weight && !out.weight_sum) return;
    const double mean = task.block.sum(n, [&](int64_t i) { return m.p[i] * memory.grad_p[i]; });
    task.block.each(n, [&](int64_t i) {
      const double grad = (memory.grad_p[i] - mean) / task.total_weight;
      if (out.sample_weight) out.sample_weight[i] = static_cast<Real>(grad);
      if (out.weight_sum) out.weight_sum[i] += grad;
    });
  }

  // Everything, from x.
  __device__ void write() const {
    give_bias();
    write_strengths();
    write_samples();
  }
};

// Loads samples, strengths and weights of task t, and what a loss that is not squared is there;
// false where a number is not finite or not possible.
template <typename Real>
__device__ bool load_solution(BlockTask<double, Real, kRaw>& task, const PenaltyArgs<Real>& penalty,
                              int64_t t, TaskNeeds needs, const Real* weight) {
  double* W = task.memory.W;
  if (!load_task(task) || !load_penalty(task, penalty, t, needs) ||
      !stage(task.block, weight, task.in.M * task.in.C, [=](int64_t k, Real w) { W[k] = w; }))
    return false;
  if (task.in.loss == kSquared || task.empty()) return true;
  load_bias(task);
  evaluate(task, true);
  return true;
}

// This block's sums, before its first task.
template <typename Real>
__device__ void clear_sums(const BackwardJob<Real>& job) {
  if (!job.sums) return;
  double* own = job.sums + blockIdx.x * shared_numbers(job.args);
  for (int64_t k = Block::rank(); k < shared_numbers(job.args); k += job.threads) own[k] = 0;
}

// What tasks share, from the blocks' sums, in their order.
template <typename Real>
__device__ void add_sums(const BackwardJob<Real>& job) {
  const HeadsBackwardArgs<Real>& a = job.args;
  const int64_t numbers = shared_numbers(a), of_z = shared_samples(a);
  for (int64_t k = blockIdx.x * kThreads + Block::rank(); k < numbers; k += gridDim.x * kThreads) {
    double sum = 0;
    for (int64_t b = 0; b < job.writers; ++b) sum += job.sums[b * numbers + k];
    (k < of_z ? a.grad_z[k] : a.grad_sample_weight[k - of_z]) = static_cast<Real>(sum);
  }
}

SPARSEDIS_END
