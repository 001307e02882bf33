// The gradient of one task's head by implicit differentiation on its support, in double.
//
// With M U = G on the support, G = grad_weight - zbar grad_bias', r_i = mean_i - y_i (for squares
// the mean is z_i W + b) and q_i = (z_i - zbar) U + grad_bias: grad_z_i = -p_i (U r_i + W Q q_i), Q
// the Hessian of the row (for squares 1), grad_y_i = p_i q_i, grad_p_i = -<r_i, q_i>. A feature
// that nothing penalises also moves its own ridge, the floor. Other losses than squares put the
// bias that answers U and grad_bias in the place of grad_bias, and take its answer from G.
#pragma once

#include "head_gradient.h"
#include "ridge_backward.h"

SPARSEDIS_BEGIN

constexpr int64_t kSampleRows = 8;  // samples whose gradients are written together

// Where conjugate gradients stop, residual over right side: half the digits serve data in float32,
// whose rounding moves the gradient by more.
template <typename Real>
constexpr double kAdjointError = sizeof(Real) == 4 ? 1e-7 : 1e-14;

// Between samples and outputs, `ld` apart: some samples' features, [scores, U's products] and
// p [r, Q q]; what they multiply, and the gradients of features.
struct SampleExchange {
  int64_t ld;
  Buffer<double> in, out;        // (S, ld), (2 C, ld of the support)
  Buffer<double> rows, product;  // (kSampleRows, ld of the support)
  Buffer<double> score, mixed;   // (kSampleRows, ld)
  bool any_floor;
};

template <typename Real>
struct HeadBackwardWork {
  RidgeBackwardWork<Real> ridge;
  Task<double> task;
  SupportSystem<double> system;
  SpdSystem<double> dual;
  SampleExchange exchange;
  Buffer<double> W, columns, row, grad_p, floor_gradient;
  Buffer<double> residual, response, bent;  // r_i, q_i and Q q_i of one sample, (C)
  Buffer<double> grad_bias, answer;         // the cotangent of the bias, and the bias in q_i
  Curved<double> curved;                    // the rest is for losses that are not squared
  Scores<double> scores, sample;
  CurvedTerm<double> term;
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
inline void load_support(const HeadGradient<Real>& in, Work& work) {
  const Task<double>& task = work.task;
  SupportSystem<double>& s = work.system;
  double* W = work.W.reserve(s.C * s.ld);
  Buffer<double> group(s.S);
  for (int64_t a = 0; a < s.S; ++a) {
    const int64_t j = s.row.get()[a];
    s.e.get()[a] = task.penalty.ridge[j];
    group.get()[a] = task.penalty.group[j];
    for (int64_t c = 0; c < s.C; ++c) {
      W[c * s.ld + a] = in.weight[j * s.C + c];
      s.r.get()[c * s.ld + a] =
          in.grad_weight[j * s.C + c] - task.zbar.get()[j] * work.grad_bias.get()[c];
    }
  }
  const auto held = [&](int64_t a) {
    return task.penalty.nonneg || task.penalty.l1[s.row.get()[a]] > 0;
  };
  linearise(s, W, group.get(), std::numeric_limits<double>::infinity(), held);
  for (int64_t c = 0; c < s.C && !s.all_live; ++c)
    for (int64_t i = c * s.ld; i < c * s.ld + s.S; ++i)
      if (!s.live.get()[i]) s.r.get()[i] = 0;
}

// The support's columns of A, (n, ld), and their Gram matrix.
template <typename Work>
inline void load_columns(Work& work) {
  const Task<double>& task = work.task;
  SupportSystem<double>& s = work.system;
  double* Z = work.columns.reserve(task.n * s.ld);
  for (int64_t i = 0; i < task.n; ++i) {
    std::fill_n(Z + i * s.ld, s.ld, 0.0);
    for (int64_t a = 0; a < s.S; ++a)
      Z[i * s.ld + a] = task.A.get()[i * task.stride + s.row.get()[a]];
  }
  gram_columns(Z, task.n, s.ld, 0, s.S, s.G.get(), s.ld);
}

// Ridge with more features than samples: U = D^-1 (G - A' (A D^-1 A' + I)^-1 A D^-1 G).
template <typename Work>
inline void solve_ridge_adjoint(Work& work) {
  const Task<double>& task = work.task;
  SupportSystem<double>& s = work.system;
  SpdSystem<double>& dual = work.dual;
  const int64_t n = task.n, C = s.C, ld = s.ld;
  double *scale = work.row.reserve(ld), *x = s.x.get();
  for (int64_t j = 0; j < task.M; ++j) scale[j] = 1 / std::sqrt(task.penalty.ridge[j]);
  dual.shape(n, C);
  double* a = dual.x.get();
  gram_of_rows(task.A.get(), n, task.stride, task.M, scale, dual);
  for (int64_t i = 0; i < n; ++i) dual.K.get()[i * dual.ld + i] += 1;
  cholesky(dual.K.get(), n, dual.ld);
  for (int64_t c = 0; c < C; ++c)
#pragma omp simd
    for (int64_t j = 0; j < task.M; ++j) x[c * ld + j] = scale[j] * s.r.get()[c * ld + j];
  multiply(x, C, ld, task.M, dual.At.get(), dual.ld, dual.ld, a, dual.ld);
  cholesky_solve(dual.K.get(), n, dual.ld, a, C, dual.ld, dual.product.get());
  multiply(a, C, dual.ld, n, task.A.get(), task.stride, ld, s.p.get(), ld);
  for (int64_t c = 0; c < C; ++c)
#pragma omp simd
    for (int64_t j = 0; j < task.M; ++j)
      x[c * ld + j] = scale[j] * (x[c * ld + j] - scale[j] * s.p.get()[c * ld + j]);
}

constexpr int64_t kFactoredRows = 256;  // of supports whose outputs have a factor each, at most

// U on the support, in system.x.
template <typename Real>
inline void solve_adjoint(HeadBackwardWork<Real>& work) {
  SupportSystem<double>& s = work.system;
  const Task<double>& task = work.task;
  if (!task.sparse && task.n < task.M) {
    solve_ridge_adjoint(work);
    return;
  }
  load_columns(work);
  Buffer<double> rhs(s.C * s.ld);
  std::copy_n(s.r.get(), s.C * s.ld, rhs.get());
  // With more samples than features conjugate gradients take few steps.
  if (solve_directly(s, s.S > task.n && s.S <= kFactoredRows)) return;
  std::copy_n(rhs.get(), s.C * s.ld, s.r.get());
  solve_by_cg(s, GramTerm<double>{s}, kAdjointError<Real>, 10 * s.S * s.C);
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

// [W U] with features as rows, and -[U; W] with outputs as rows: what samples meet on their way in
// and out.
template <typename Work>
inline void load_exchange(Work& work) {
  const SupportSystem<double>& s = work.system;
  SampleExchange& e = work.exchange;
  e.ld = padded<double>(2 * s.C);
  double *in = e.in.reserve(s.S * e.ld), *out = e.out.reserve(2 * s.C * s.ld);
  std::fill_n(in, s.S * e.ld, 0.0);
  transpose(work.W.get(), s.ld, s.C, s.S, in, e.ld);
  transpose(s.x.get(), s.ld, s.C, s.S, in + s.C, e.ld);
  for (int64_t i = 0; i < s.C * s.ld; ++i)
    out[i] = -s.x.get()[i], out[s.C * s.ld + i] = -work.W.get()[i];
  e.rows.reserve(kSampleRows * s.ld), e.product.reserve(kSampleRows * s.ld);
  e.score.reserve(kSampleRows * e.ld), e.mixed.reserve(kSampleRows * e.ld);
  e.any_floor = false;
  for (int64_t a = 0; a < s.S; ++a) e.any_floor |= work.floor_gradient.get()[a] != 0;
}

// The support's features of samples [i, i + count), less their means.
template <typename Real, typename Work>
inline void gather_samples(const TaskInput<Real>& in, int64_t i, int64_t count, Work& work) {
  const SupportSystem<double>& s = work.system;
  const double* zbar = work.task.zbar.get();
  for (int64_t r = 0; r < count; ++r) {
    const Real* z = in.z + (i + r) * in.M;
    double* row = work.exchange.rows.get() + r * s.ld;
    if (s.S == in.M) {
#pragma omp simd
      for (int64_t j = 0; j < in.M; ++j) row[j] = z[j] - zbar[j];
      continue;
    }
    for (int64_t a = 0; a < s.S; ++a) {
      const int64_t j = s.row.get()[a];
      row[a] = z[j] - zbar[j];
    }
  }
}

// r_i, q_i and Q q_i of one sample, each (C), from its row of scores.
template <typename Real, typename Work>
inline void sample_response(const TaskInput<Real>& in, int64_t i, const double* score, Work& work) {
  double *r = work.residual.get(), *q = work.response.get();
  const bool squared = in.loss == kSquared;
  std::copy_n(score, in.C, squared ? r : work.sample.S.get());
  for (int64_t c = 0; c < in.C; ++c) q[c] = score[in.C + c] + work.answer.get()[c];
  std::copy_n(q, in.C, work.bent.get());
  if (!squared) {
    means(in.loss, work.sample, work.scores.bias.get());
    std::copy_n(work.sample.P.get(), in.C, r);
    curve(in.loss, r, in.C, 1, work.bent.get(), work.sample.sum.get());
  }
  for (int64_t c = 0; c < in.C; ++c) r[c] -= in.y[i * in.C + c] - work.task.ybar.get()[c];
}

// What the samples' features get, from their rows of products: (S) to where it goes.
template <typename Real, typename Work>
inline void write_features(const TaskInput<Real>& in, const HeadGradient<Real>& out, int64_t i,
                           const double* product, Work& work) {
  const SupportSystem<double>& s = work.system;
  const int64_t* row = s.row.get();
  for (int64_t a = 0; a < s.S && out.z_sum; ++a) out.z_sum[i * in.M + row[a]] += product[a];
  if (!out.z) return;
  Real* z = out.z + i * in.M;
  if (s.S == in.M) {
#pragma omp simd
    for (int64_t j = 0; j < in.M; ++j) z[j] = static_cast<Real>(product[j]);
    return;
  }
  std::fill_n(z, in.M, Real(0));
  for (int64_t a = 0; a < s.S; ++a) z[row[a]] = static_cast<Real>(product[a]);
}

// The gradients of samples [i, i + count).
template <typename Real, typename Work>
inline void write_samples(const TaskInput<Real>& in, const HeadGradient<Real>& out, int64_t i,
                          int64_t count, Work& work) {
  const SupportSystem<double>& s = work.system;
  SampleExchange& e = work.exchange;
  const double *p = work.task.p.get() + i, *floor = work.floor_gradient.get();
  double *rows = e.rows.get(), *score = e.score.get(), *mixed = e.mixed.get();
  gather_samples(in, i, count, work);
  multiply(rows, count, s.ld, s.S, e.in.get(), e.ld, e.ld, score, e.ld);
  for (int64_t r = 0; r < count; ++r) {
    sample_response(in, i + r, score + r * e.ld, work);
    const double *residual = work.residual.get(), *q = work.response.get();
    for (int64_t c = 0; c < in.C; ++c) {
      mixed[r * e.ld + c] = p[r] * residual[c];
      mixed[r * e.ld + in.C + c] = p[r] * work.bent.get()[c];
      if (out.y) out.y[(i + r) * in.C + c] = static_cast<Real>(p[r] * q[c]);
    }
    double& grad_p = work.grad_p.get()[i + r];
    grad_p = -dot<double>(residual, q, in.C);
    for (int64_t a = 0; a < s.S && e.any_floor; ++a)
      grad_p += floor[a] * rows[r * s.ld + a] * rows[r * s.ld + a];
  }
  if (!out.z && !out.z_sum) return;
  multiply(mixed, count, e.ld, 2 * in.C, e.out.get(), s.ld, s.ld, e.product.get(), s.ld);
  for (int64_t r = 0; r < count; ++r) {
    double* product = e.product.get() + r * s.ld;
    for (int64_t a = 0; a < s.S && e.any_floor; ++a)
      product[a] += 2 * p[r] * floor[a] * rows[r * s.ld + a];
    write_features(in, out, i + r, product, work);
  }
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
  for (Buffer<double>* one : {&work.residual, &work.response, &work.bent}) one->reserve(in.C);
  work.grad_p.reserve(in.n);
  load_floor_gradients(work);
  write_strengths(penalty, out, work);
  load_exchange(work);
  for (int64_t i = 0; i < in.n; i += kSampleRows)
    write_samples(in, out, i, std::min(kSampleRows, in.n - i), work);
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

// Of the bias's cotangent, what the loss determines of the bias: nothing where it is at a limit,
// nor a shift of all classes.
inline void determine(Loss loss, const double* limit, int64_t C, double* grad) {
  double sum = 0;
  int64_t finite = 0;
  for (int64_t c = 0; c < C; ++c) {
    if (limit[c] != 0) grad[c] = 0;
    sum += grad[c], finite += limit[c] == 0;
  }
  for (int64_t c = 0; c < C && loss == kMultinomial && finite > 0; ++c)
    if (limit[c] == 0) grad[c] -= sum / static_cast<double>(finite);
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
  double *grad_bias = work.grad_bias.reserve(in.C), *answer = work.answer.reserve(in.C);
  for (int64_t c = 0; c < in.C; ++c)
    grad_bias[c] = in.fit_intercept ? static_cast<double>(out.grad_bias[c]) : 0.0;
  if (in.loss != kSquared) {
    load_curved(in, task, work.curved);
    determine(in.loss, work.curved.limit.get(), in.C, grad_bias);
  }
  std::copy_n(grad_bias, in.C, answer);
  load_support(out, work);
  return true;
}

// Outputs whose bias is at a limit do not move.
template <typename Real>
inline void hold_limits(HeadBackwardWork<Real>& work) {
  SupportSystem<double>& s = work.system;
  for (int64_t c = 0; c < s.C; ++c)
    for (int64_t a = 0; a < s.S && work.curved.limit.get()[c] != 0; ++a)
      s.live.get()[c * s.ld + a] = 0, s.r.get()[c * s.ld + a] = 0;
}

// The scores and means at the solution, and the loss's part of the Hessian on the support.
template <typename Real>
inline void load_solution(const TaskInput<Real>& in, const HeadGradient<Real>& out,
                          HeadBackwardWork<Real>& work) {
  const Task<double>& task = work.task;
  const Curved<double>& data = work.curved;
  const SupportSystem<double>& s = work.system;
  CurvedTerm<double>& term = work.term;
  work.scores.shape(in.C, data.ld, data.limit.get());
  work.sample.shape(in.C, 1, data.limit.get());
  std::copy_n(data.start.get(), in.C, work.scores.bias.get());
  Buffer<double> W(in.C * task.ld);
  std::fill_n(W.get(), in.C * task.ld, 0.0);
  for (int64_t j = 0; j < in.M; ++j)
    for (int64_t c = 0; c < in.C; ++c) W.get()[c * task.ld + j] = out.weight[j * in.C + c];
  evaluate_all(task, in.fit_intercept, data, W.get(), task.ld, work.scores, term.system);
  term.loss = in.loss, term.fit_intercept = in.fit_intercept;
  shape_term(term, in.n, s.S, in.C, s.ld, data.ld);
  std::fill_n(term.At.get(), s.S * data.ld, 0.0);
  for (int64_t i = 0; i < in.n; ++i) {
    std::fill_n(term.A.get() + i * s.ld, s.ld, 0.0);
    for (int64_t a = 0; a < s.S; ++a)
      term.A.get()[i * s.ld + a] = term.At.get()[a * data.ld + i] =
          task.A.get()[i * task.stride + s.row.get()[a]];
  }
  load_term(data, work.scores, term);
}

// The bias that answers U and grad_bias.
template <typename Real>
inline void answer_adjoint(const TaskInput<Real>& in, HeadBackwardWork<Real>& work) {
  const SupportSystem<double>& s = work.system;
  CurvedTerm<double>& term = work.term;
  if (!in.fit_intercept) return;
  multiply(s.x.get(), in.C, s.ld, s.S, term.At.get(), term.ld, term.ld, term.T.get(), term.ld);
  curve(in.loss, term.P, in.C, term.ld, term.T.get(), term.along.get());
  answer_bias(term, work.grad_bias.get());
  std::copy_n(term.answer.get(), in.C, work.answer.get());
}

// U on the support, and the bias that answers it and grad_bias.
template <typename Real>
inline void solve_curved_adjoint(const TaskInput<Real>& in, const HeadGradient<Real>& out,
                                 HeadBackwardWork<Real>& work) {
  SupportSystem<double>& s = work.system;
  CurvedTerm<double>& term = work.term;
  load_solution(in, out, work);
  std::fill_n(term.T.get(), in.C * term.ld, 0.0);
  if (in.fit_intercept) {
    answer_bias(term, work.grad_bias.get());
    add_answer(term);
    multiply(term.T.get(), in.C, term.ld, in.n, term.A.get(), s.ld, s.ld, s.Hp.get(), s.ld);
    for (int64_t c = 0; c < s.C; ++c)
      for (int64_t a = 0; a < s.S; ++a)
        if (s.live.get()[c * s.ld + a]) s.r.get()[c * s.ld + a] -= s.Hp.get()[c * s.ld + a];
  }
  hold_limits(work);
  solve_by_cg(s, term, kAdjointError<Real>, 10 * s.S * s.C);
  answer_adjoint(in, work);
}

// Whether ridge alone makes the heads, and only gradients are asked that `ridge_backward.h` writes.
template <typename Real>
inline bool is_plain_ridge(Loss loss, const PenaltyArgs<Real>& penalty,
                           const HeadGradient<Real>& out) {
  const bool others = out.l1 || out.group || out.weight_sum || out.sample_weight;
  return loss == kSquared && present(penalty.ridge) && only_ridge(penalty) && !others;
}

// What a task's ridge gradient still needs: nothing, or the solution of its system, or, where a
// feature has no ridge and so moves its own with the samples, the gradient of any heads (in
// double).
enum class RidgeGradient { kWritten, kSystem, kAnyHeads };

template <typename Real>
inline RidgeGradient load_ridge_gradient(const TaskInput<Real>& in,
                                         const PenaltyArgs<Real>& penalty, int64_t t,
                                         const HeadGradient<Real>& out,
                                         RidgeBackwardWork<Real>& work) {
  Task<Real>& task = work.task;
  const bool finite =
      load_task(in, task) && load_penalty(penalty, t, task) && all_finite(out.weight, in.M * in.C);
  if (!finite || task.empty()) {
    fill_gradients(in, out, finite ? Real(0) : std::numeric_limits<Real>::quiet_NaN());
    return RidgeGradient::kWritten;
  }
  if (std::any_of(task.floor.get(), task.floor.get() + in.M, [](double f) { return f > 0; }))
    return RidgeGradient::kAnyHeads;
  Real* grad_bias = work.grad_bias.reserve(in.C);
  for (int64_t c = 0; c < in.C; ++c) grad_bias[c] = in.fit_intercept ? out.grad_bias[c] : Real(0);
  load_heads(out.weight, out.grad_weight, work);
  return RidgeGradient::kSystem;
}

// False where the gradient of any heads is needed, or float32 does not do.
template <typename Real>
inline bool fit_ridge_backward(const TaskInput<Real>& in, const PenaltyArgs<Real>& penalty,
                               int64_t t, const HeadGradient<Real>& out,
                               RidgeBackwardWork<Real>& work) {
  const RidgeGradient rest = load_ridge_gradient(in, penalty, t, out, work);
  if (rest != RidgeGradient::kSystem) return rest == RidgeGradient::kWritten;
  takes_samples(in.n, in.M) ? solve_dual_adjoint(work) : solve_primal_adjoint(work);
  if (!is_trusted(work.system)) return false;
  write_ridge_gradients(static_cast<Real>(penalty.ridge.scale), out, work);
  return true;
}

template <typename Real>
inline void fit_head_backward(const TaskInput<Real>& in, const PenaltyArgs<Real>& penalty,
                              int64_t t, const HeadGradient<Real>& out,
                              HeadBackwardWork<Real>& work) {
  if (is_plain_ridge(in.loss, penalty, out) && fit_ridge_backward(in, penalty, t, out, work.ridge))
    return;
  if (!load_gradient(in, penalty, t, out, work)) return;
  in.loss == kSquared ? solve_adjoint(work) : solve_curved_adjoint(in, out, work);
  write_gradients(in, penalty, out, work);
}

SPARSEDIS_END
