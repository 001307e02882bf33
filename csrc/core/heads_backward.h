// The gradient of one task's head by implicit differentiation on its support, in double.
//
// With M U = G on the support, G = grad_weight - zbar grad_bias', r_i = z_i W + b - y_i and
// q_i = (z_i - zbar) U + grad_bias: grad_z_i = -p_i (U r_i + W q_i), grad_y_i = p_i q_i,
// grad_p_i = -<r_i, q_i>. A feature that nothing penalises also moves its own ridge, the floor.
#pragma once

#include "heads.h"

SPARSEDIS_BEGIN

template <typename Real>
struct HeadGradient {
  const Real *weight, *grad_weight, *grad_bias;  // (M, C), (M, C), (C)
  // Where a row goes: stored, or added where tasks share it. Null where not asked for.
  Real *z, *y, *sample_weight;  // (n, M), (n, C), (n)
  double *z_sum, *weight_sum;   // the same, summed over tasks
  Real *l1, *group, *ridge;     // (M)
};

template <typename Real>
struct HeadBackwardWork {
  Task<double> task;
  SupportSystem<double> system;
  SpdSystem<double> dual;
  Buffer<double> W, columns, residual, response, row, grad_p, floor_gradient;
};

// Rows of W that are not zero, or that nothing holds at zero.
template <typename Real, typename Work>
inline int64_t live_rows(const HeadGradient<Real>& in, Work& work) {
  const Task<double>& task = work.task;
  work.system.row.reserve(task.M);
  int64_t S = 0;
  for (int64_t j = 0; j < task.M; ++j) {
    const Real* w = in.weight + j * task.C;
    const TaskPenalty<double>& p = task.penalty;
    bool live = p.l1[j] == 0 && p.group[j] == 0 && !p.nonneg;
    for (int64_t c = 0; c < task.C; ++c) live |= w[c] != 0;
    if (live) work.system.row.get()[S++] = j;
  }
  return S;
}

// Gathers W, the right side G and the strengths on the support.
template <typename Real, typename Work>
inline void load_support(const HeadGradient<Real>& in, bool fit_intercept, Work& work) {
  const Task<double>& task = work.task;
  SupportSystem<double>& s = work.system;
  double* W = work.W.reserve(s.C * s.ld);
  Buffer<double> group(s.S);
  for (int64_t a = 0; a < s.S; ++a) {
    const int64_t j = s.row.get()[a];
    s.e.get()[a] = task.penalty.ridge[j];
    group.get()[a] = task.penalty.group[j];
    for (int64_t c = 0; c < s.C; ++c) {
      const double bias = fit_intercept ? static_cast<double>(in.grad_bias[c]) : 0.0;
      W[c * s.ld + a] = in.weight[j * s.C + c];
      s.r.get()[c * s.ld + a] = in.grad_weight[j * s.C + c] - task.zbar.get()[j] * bias;
    }
  }
  const auto held = [&](int64_t a) {
    return task.penalty.nonneg || task.penalty.l1[s.row.get()[a]] > 0;
  };
  linearise(s, W, group.get(), std::numeric_limits<double>::infinity(), held);
  for (int64_t i = 0; i < s.C * s.ld; ++i)
    if (i % s.ld < s.S && !s.live.get()[i]) s.r.get()[i] = 0;
}

// The support's columns of A, (n, ld), and their Gram matrix.
template <typename Work>
inline void load_columns(Work& work) {
  const Task<double>& task = work.task;
  SupportSystem<double>& s = work.system;
  double* Z = work.columns.reserve(task.n * s.ld);
  for (int64_t i = 0; i < task.n; ++i) {
    std::fill_n(Z + i * s.ld, s.ld, 0.0);
    for (int64_t a = 0; a < s.S; ++a) Z[i * s.ld + a] = task.A.get()[i * task.ld + s.row.get()[a]];
  }
  gram_columns(Z, task.n, s.ld, 0, s.S, s.G.get(), s.ld);
}

// Ridge with more features than samples: U = D^-1 (G - A' (A D^-1 A' + I)^-1 A D^-1 G).
template <typename Work>
inline void solve_ridge_adjoint(Work& work) {
  const Task<double>& task = work.task;
  SupportSystem<double>& s = work.system;
  SpdSystem<double>& dual = work.dual;
  const int64_t n = task.n;
  double* scaled = work.columns.reserve(n * task.ld);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < task.ld; ++j)
      scaled[i * task.ld + j] =
          j < task.M ? task.A.get()[i * task.ld + j] / std::sqrt(task.penalty.ridge[j]) : 0.0;
  dual.shape(n, s.C);
  gram_rows(scaled, n, task.ld, dual.L.get(), dual.ld);
  for (int64_t i = 0; i < n; ++i) dual.L.get()[i * dual.ld + i] += 1;
  cholesky(dual.L.get(), n, dual.ld);
  double *half = s.p.get(), *a = dual.x.get();
  for (int64_t c = 0; c < s.C; ++c) {
    for (int64_t j = 0; j < s.S; ++j)
      half[j] = s.r.get()[c * s.ld + j] / std::sqrt(task.penalty.ridge[j]);
    for (int64_t i = 0; i < n; ++i) a[i] = dot<double>(scaled + i * task.ld, half, s.S);
    cholesky_solve(dual.L.get(), n, dual.ld, a);
    for (int64_t i = 0; i < n; ++i) axpy(-a[i], scaled + i * task.ld, half, s.S);
    for (int64_t j = 0; j < s.S; ++j)
      s.x.get()[c * s.ld + j] = half[j] / std::sqrt(task.penalty.ridge[j]);
  }
}

// U on the support, in system.x.
template <typename Work>
inline void solve_adjoint(Work& work) {
  SupportSystem<double>& s = work.system;
  const Task<double>& task = work.task;
  if (!task.sparse && task.n < task.M) {
    solve_ridge_adjoint(work);
    return;
  }
  load_columns(work);
  Buffer<double> rhs(s.C * s.ld);
  std::copy_n(s.r.get(), s.C * s.ld, rhs.get());
  if (solve_directly(s)) return;
  std::copy_n(rhs.get(), s.C * s.ld, s.r.get());
  solve_by_cg(s, 1e-14, 10 * s.S * s.C);
}

// Strength gradients of the support's rows; the others are 0.
template <typename Real, typename Work>
inline void write_strengths(const PenaltyArgs<Real>& penalty, const HeadGradient<Real>& out,
                            Work& work) {
  const SupportSystem<double>& s = work.system;
  for (Real* grad : {out.l1, out.group, out.ridge})
    if (grad) std::fill_n(grad, work.task.M, Real(0));
  for (int64_t a = 0; a < s.S; ++a) {
    double sign_u = 0, w_u = 0;
    for (int64_t c = 0; c < s.C; ++c) {
      const double w = work.W.get()[c * s.ld + a], u = s.x.get()[c * s.ld + a];
      sign_u += w > 0 ? u : (w < 0 ? -u : 0.0);
      w_u += w * u;
    }
    const int64_t j = s.row.get()[a];
    if (out.l1) out.l1[j] = static_cast<Real>(-penalty.l1.scale * sign_u);
    if (out.group) out.group[j] = static_cast<Real>(-penalty.group.scale * along(s, s.x.get(), a));
    if (out.ridge) out.ridge[j] = static_cast<Real>(-penalty.ridge.scale * w_u);
  }
}

// The gradient in the ridge of each support row whose ridge is the floor, times the floor: through
// it the sample moves its own ridge.
template <typename Work>
inline void load_floor_gradients(Work& work) {
  const SupportSystem<double>& s = work.system;
  double* floor_gradient = work.floor_gradient.reserve(s.ld);
  for (int64_t a = 0; a < s.S; ++a) {
    const double floor = work.task.floor.get()[s.row.get()[a]];
    double w_u = 0;
    for (int64_t c = 0; c < s.C && floor > 0; ++c)
      w_u += work.W.get()[c * s.ld + a] * s.x.get()[c * s.ld + a];
    floor_gradient[a] = -floor * w_u;
  }
}

// r_i and q_i of one sample, each (C).
template <typename Real, typename Work>
inline void sample_response(const TaskInput<Real>& in, const HeadGradient<Real>& out, int64_t i,
                            Work& work) {
  const Task<double>& task = work.task;
  const SupportSystem<double>& s = work.system;
  double *r = work.residual.get(), *q = work.response.get(), *row = work.row.get();
  for (int64_t a = 0; a < s.S; ++a) {
    const int64_t j = s.row.get()[a];
    row[a] = in.z[i * in.M + j] - task.zbar.get()[j];
  }
  for (int64_t c = 0; c < in.C; ++c) {
    r[c] =
        dot<double>(row, work.W.get() + c * s.ld, s.S) - (in.y[i * in.C + c] - task.ybar.get()[c]);
    q[c] = dot<double>(row, s.x.get() + c * s.ld, s.S) +
           (in.fit_intercept ? static_cast<double>(out.grad_bias[c]) : 0.0);
  }
}

template <typename Real, typename Work>
inline void write_sample(const TaskInput<Real>& in, const HeadGradient<Real>& out, int64_t i,
                         Work& work) {
  const SupportSystem<double>& s = work.system;
  const double p = work.task.p.get()[i];
  const double *r = work.residual.get(), *q = work.response.get();
  if (out.z) std::fill_n(out.z + i * in.M, in.M, Real(0));
  for (int64_t a = 0; a < s.S && (out.z || out.z_sum); ++a) {
    double sum = 0;
    for (int64_t c = 0; c < in.C; ++c)
      sum += s.x.get()[c * s.ld + a] * r[c] + work.W.get()[c * s.ld + a] * q[c];
    sum -= 2 * work.floor_gradient.get()[a] * work.row.get()[a];
    const int64_t at = i * in.M + s.row.get()[a];
    if (out.z) out.z[at] = static_cast<Real>(-p * sum);
    if (out.z_sum) out.z_sum[at] -= p * sum;
  }
  if (out.y)
    for (int64_t c = 0; c < in.C; ++c) out.y[i * in.C + c] = static_cast<Real>(p * q[c]);
}

// grad_s_i = (grad_p_i - sum p grad_p) / sum s
template <typename Real, typename Work>
inline void write_weights(const TaskInput<Real>& in, const HeadGradient<Real>& out, Work& work) {
  const double* grad_p = work.grad_p.get();
  const double mean = dot<double>(work.task.p.get(), grad_p, in.n);
  for (int64_t i = 0; i < in.n; ++i) {
    const double grad = (grad_p[i] - mean) / work.task.total_weight;
    if (out.sample_weight) out.sample_weight[i] = static_cast<Real>(grad);
    if (out.weight_sum) out.weight_sum[i] += grad;
  }
}

// Every gradient of a task from U in system.x.
template <typename Real, typename Work>
inline void write_gradients(const TaskInput<Real>& in, const PenaltyArgs<Real>& penalty,
                            const HeadGradient<Real>& out, Work& work) {
  work.residual.reserve(in.C), work.response.reserve(in.C);
  work.row.reserve(work.system.ld);
  double* grad_p = work.grad_p.reserve(in.n);
  load_floor_gradients(work);
  write_strengths(penalty, out, work);
  for (int64_t i = 0; i < in.n; ++i) {
    sample_response(in, out, i, work);
    write_sample(in, out, i, work);
    grad_p[i] = -dot<double>(work.residual.get(), work.response.get(), in.C);
    for (int64_t a = 0; a < work.system.S; ++a)
      grad_p[i] += work.floor_gradient.get()[a] * work.row.get()[a] * work.row.get()[a];
  }
  if (out.sample_weight || out.weight_sum) write_weights(in, out, work);
}

template <typename Real>
inline void fill_gradients(const TaskInput<Real>& in, const HeadGradient<Real>& out, Real value) {
  const auto fill = [&](Real* grad, int64_t n) {
    if (grad) std::fill_n(grad, n, value);
  };
  fill(out.z, in.n * in.M), fill(out.y, in.n * in.C), fill(out.sample_weight, in.n);
  fill(out.l1, in.M), fill(out.group, in.M), fill(out.ridge, in.M);
  for (int64_t i = 0; i < in.n * in.M && out.z_sum; ++i) out.z_sum[i] += value;
  for (int64_t i = 0; i < in.n && out.weight_sum; ++i) out.weight_sum[i] += value;
}

// False where task t has no gradient to solve for; its outputs are then already written.
template <typename Real>
inline bool load_gradient(const TaskInput<Real>& in, const PenaltyArgs<Real>& penalty, int64_t t,
                          const HeadGradient<Real>& out, HeadBackwardWork<Real>& work) {
  Task<double>& task = work.task;
  const bool finite =
      load_task(in, task) && load_penalty(penalty, t, task) && all_finite(out.weight, in.M * in.C);
  if (!finite || task.empty()) {
    fill_gradients(in, out, finite ? Real(0) : std::numeric_limits<Real>::quiet_NaN());
    return false;
  }
  work.system.shape(live_rows(out, work), in.C);
  load_support(out, in.fit_intercept, work);
  return true;
}

template <typename Real>
inline void fit_head_backward(const TaskInput<Real>& in, const PenaltyArgs<Real>& penalty,
                              int64_t t, const HeadGradient<Real>& out,
                              HeadBackwardWork<Real>& work) {
  if (!load_gradient(in, penalty, t, out, work)) return;
  solve_adjoint(work);
  write_gradients(in, penalty, out, work);
}

SPARSEDIS_END
