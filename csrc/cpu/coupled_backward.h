// The gradient of heads that the shared level couples: conjugate gradients over all tasks at once.
#pragma once

#include "coupled.h"

SPARSEDIS_BEGIN

constexpr double kCoupledAccuracy = 1e-13;  // residual over right side, preconditioned
constexpr int64_t kCoupledSteps = 5000;

// Vectors of the linear system, each (T, C, M); `live` marks the entries that may move.
template <typename Real>
struct CoupledSystem {
  Coupled<Real> state;  // W holds the solution
  Buffer<double> x, r, p, Hp, z, diagonal;
  Buffer<double> norm, theta;  // ||w_tm|| (T, M), ||W_:m:|| (M)
  Buffer<double> grad_bias;    // what the loss determines of it, (T, C)
  Buffer<char> live;
  int64_t size;

  explicit CoupledSystem(const HeadsBackwardArgs<Real>& a, ParallelFor run)
      : state(a.samples, a.penalty, run), size(a.samples.T * a.samples.C * a.samples.M) {
    load_coupled(state, a.weight);
    if (state.loss != kSquared) refresh_coupled(state);
    for (Buffer<double>* v : {&x, &r, &p, &Hp, &z, &diagonal})
      std::fill_n(v->reserve(size), size, 0.0);
    norm.reserve(a.samples.T * a.samples.M), theta.reserve(a.samples.M);
    std::fill_n(live.reserve(size), size, char(0));
    load_grad_bias(a);
  }

  void load_grad_bias(const HeadsBackwardArgs<Real>& a) {
    const SamplesArgs<Real>& s = a.samples;
    double* grad = grad_bias.reserve(s.T * s.C);
    for (int64_t i = 0; i < s.T * s.C; ++i)
      grad[i] = s.fit_intercept ? static_cast<double>(a.grad_bias[i]) : 0.0;
    for (int64_t t = 0; t < s.T && state.loss != kSquared; ++t)
      if (state.present.get()[t])
        determine(state.loss, state.curved[t].data.limit.get(), s.C, grad + t * s.C);
  }

  double group_curvature(int64_t t, int64_t m) const {
    const double n = norm.get()[t * state.samples.M + m];
    return n > 0 ? at(state.penalty.group, t, m) / n : 0.0;
  }
  double shared_curvature(int64_t m) const {
    return theta.get()[m] > 0 ? at(state.penalty.shared, 0, m) / theta.get()[m] : 0.0;
  }
};

// A task, and the loss's part of its Hessian over all features.
struct CurvedCoupledWork {
  Task<double> task;
  CurvedTerm<double> term;
};

// Loads task t, and under a loss that is not squared its means and the factor of its bias.
template <typename Real>
void load_term_of(const CoupledSystem<Real>& sys, int64_t t, CurvedCoupledWork& work) {
  const SamplesArgs<Real>& s = sys.state.samples;
  load_task(task_input(s, t), work.task);
  if (sys.state.loss == kSquared) return;
  const CurvedState& own = sys.state.curved[t];
  CurvedTerm<double>& term = work.term;
  term.loss = sys.state.loss, term.fit_intercept = s.fit_intercept;
  shape_term(term, work.task.n, 0, s.C, 0, own.data.ld);
  std::fill_n(term.T.get(), s.C * term.ld, 0.0);
  load_term(own.data, own.scores, term);
}

// out += A'T, T (C, ld)
inline void pull_term(const CurvedCoupledWork& work, double sign, int64_t M, double* out) {
  const CurvedTerm<double>& term = work.term;
  for (int64_t i = 0; i < work.task.n; ++i)
    for (int64_t c = 0; c < term.C; ++c)
      axpy(sign * term.T.get()[c * term.ld + i], work.task.A.get() + i * work.task.stride,
           out + c * M, M);
}

// out += A' sqrt(p) Q (scores of V and the bias that answers them).
inline void apply_term(CurvedCoupledWork& work, int64_t M, const double* V, double* out) {
  CurvedTerm<double>& term = work.term;
  for (int64_t i = 0; i < work.task.n; ++i)
    for (int64_t c = 0; c < term.C; ++c)
      term.T.get()[c * term.ld + i] =
          dot<double>(work.task.A.get() + i * work.task.stride, V + c * M, M);
  curve(term.loss, term.P, term.C, term.ld, term.T.get(), term.along.get());
  if (term.fit_intercept) {
    answer_bias<double>(term, nullptr);
    add_answer(term);
  }
  pull_term(work, 1.0, M, out);
}

// What the bias that answers grad_bias takes of the right side.
template <typename Real>
void take_bias_answer(CoupledSystem<Real>& sys) {
  const SamplesArgs<Real>& s = sys.state.samples;
  if (sys.state.loss == kSquared || !s.fit_intercept) return;
  using Work = CurvedCoupledWork;
  for_each_task<Work>(sys.state.run, s.T, task_size(s), [&](int64_t t, Work& work) {
    if (!sys.state.present.get()[t]) return;
    load_term_of(sys, t, work);
    answer_bias(work.term, sys.grad_bias.get() + t * s.C);
    add_answer(work.term);
    pull_term(work, -1.0, s.M, sys.r.get() + t * sys.state.wide_task());
  });
  for (int64_t i = 0; i < sys.size; ++i)
    if (!sys.live.get()[i]) sys.r.get()[i] = 0;
}

// Norms, live entries and the right side G = grad_weight - zbar grad_bias'.
template <typename Real>
void start_system(const HeadsBackwardArgs<Real>& a, CoupledSystem<Real>& sys) {
  const SamplesArgs<Real>& s = a.samples;
  std::fill_n(sys.theta.get(), s.M, 0.0);
  for (int64_t t = 0; t < s.T; ++t)
    for (int64_t m = 0; m < s.M; ++m) {
      const double* w = sys.state.W.get() + t * s.C * s.M + m;
      double norm2 = 0;
      for (int64_t c = 0; c < s.C; ++c) norm2 += w[c * s.M] * w[c * s.M];
      sys.norm.get()[t * s.M + m] = std::sqrt(norm2);
      sys.theta.get()[m] += norm2;
    }
  for (int64_t m = 0; m < s.M; ++m) sys.theta.get()[m] = std::sqrt(sys.theta.get()[m]);
  for (int64_t t = 0; t < s.T; ++t) {
    if (!sys.state.present.get()[t]) continue;
    for (int64_t m = 0; m < s.M; ++m) {
      // What is zero moves unless its own level, or that of its group or feature, holds it there.
      const bool held = a.penalty.nonneg || at(a.penalty.l1, t, m) > 0;
      const bool feature = sys.theta.get()[m] > 0 || at(a.penalty.shared, 0, m) == 0;
      const bool row =
          sys.norm.get()[t * s.M + m] > 0 || (at(a.penalty.group, t, m) == 0 && feature);
      for (int64_t c = 0; c < s.C; ++c) {
        const int64_t i = (t * s.C + c) * s.M + m;
        const bool moves =
            sys.state.loss == kSquared || sys.state.curved[t].data.limit.get()[c] == 0;
        sys.live.get()[i] = moves && (sys.state.W.get()[i] != 0 || (row && !held));
        const double g = a.grad_weight[(t * s.M + m) * s.C + c] -
                         sys.state.zbar.get()[t * s.M + m] * sys.grad_bias.get()[t * s.C + c];
        sys.r.get()[i] = sys.live.get()[i] ? g : 0.0;
      }
    }
  }
}

// Adds the penalty's curvature of one task to `out`, without the term that couples tasks.
template <typename Real>
void add_task_curvature(const CoupledSystem<Real>& sys, int64_t t, const double* V, double* out) {
  const SamplesArgs<Real>& s = sys.state.samples;
  const double* W = sys.state.W.get() + t * sys.state.wide_task();
  for (int64_t m = 0; m < s.M; ++m) {
    const double k = sys.group_curvature(t, m), norm = sys.norm.get()[t * s.M + m];
    const double level = sys.state.ridge.get()[t * s.M + m] + k + sys.shared_curvature(m);
    double projection = 0;
    for (int64_t c = 0; c < s.C; ++c) projection += W[c * s.M + m] * V[c * s.M + m];
    const double radial = norm > 0 ? k * projection / (norm * norm) : 0.0;
    for (int64_t c = 0; c < s.C; ++c)
      out[c * s.M + m] += level * V[c * s.M + m] - radial * W[c * s.M + m];
  }
}

// Hp = H p on the live entries.
template <typename Real>
void apply_coupled(CoupledSystem<Real>& sys) {
  const SamplesArgs<Real>& s = sys.state.samples;
  using Work = CurvedCoupledWork;
  for_each_task<Work>(sys.state.run, s.T, task_size(s), [&](int64_t t, Work& work) {
    if (!sys.state.present.get()[t]) return;
    load_term_of(sys, t, work);
    const Task<double>& task = work.task;
    const int64_t offset = t * sys.state.wide_task();
    const double* V = sys.p.get() + offset;
    double* out = sys.Hp.get() + offset;
    std::fill_n(out, sys.state.wide_task(), 0.0);
    if (sys.state.loss != kSquared) apply_term(work, s.M, V, out);
    for (int64_t i = 0; i < task.n && sys.state.loss == kSquared; ++i)
      for (int64_t c = 0; c < s.C; ++c) {
        const double* row = task.A.get() + i * task.stride;
        axpy(dot<double>(row, V + c * s.M, s.M), row, out + c * s.M, s.M);
      }
    add_task_curvature(sys, t, V, out);
  });
  sum_over_features(sys.state, [&](int64_t m, double*) {
    const double kappa = sys.shared_curvature(m), theta = sys.theta.get()[m];
    double projection = 0;
    for (int64_t row = 0; row < s.T * s.C; ++row)
      projection += sys.state.W.get()[row * s.M + m] * sys.p.get()[row * s.M + m];
    const double radial = theta > 0 ? kappa * projection / (theta * theta) : 0.0;
    for (int64_t row = 0; row < s.T * s.C; ++row) {
      const int64_t i = row * s.M + m;
      sys.Hp.get()[i] = sys.live.get()[i] ? sys.Hp.get()[i] - radial * sys.state.W.get()[i] : 0.0;
    }
    return 0.0;
  });
}

template <typename Real>
void load_diagonal(CoupledSystem<Real>& sys) {
  const SamplesArgs<Real>& s = sys.state.samples;
  for_each_task<Task<double>>(sys.state.run, s.T, task_size(s), [&](int64_t t, Task<double>& task) {
    if (!sys.state.present.get()[t]) return;
    load_task(task_input(s, t), task);
    for (int64_t m = 0; m < s.M; ++m) {
      // The loss bends by at most this; it only preconditions.
      const double bend = loss_curvature(sys.state.loss) * column_norm2(task, m);
      const double level = bend + sys.state.ridge.get()[t * s.M + m] + sys.group_curvature(t, m) +
                           sys.shared_curvature(m);
      for (int64_t c = 0; c < s.C; ++c) sys.diagonal.get()[(t * s.C + c) * s.M + m] = level;
    }
  });
}

// z = r / diagonal; returns <r, z>.
template <typename Real>
double precondition_coupled(CoupledSystem<Real>& sys) {
  double sum = 0;
  for (int64_t i = 0; i < sys.size; ++i) {
    const double d = sys.diagonal.get()[i];
    sys.z.get()[i] = d > 0 ? sys.r.get()[i] / d : 0.0;
    sum += sys.r.get()[i] * sys.z.get()[i];
  }
  return sum;
}

// x = H^-1 r.
template <typename Real>
void solve_coupled(CoupledSystem<Real>& sys) {
  load_diagonal(sys);
  double rz = precondition_coupled(sys);
  std::copy_n(sys.z.get(), sys.size, sys.p.get());
  const double target = kCoupledAccuracy * kCoupledAccuracy * rz;
  for (int64_t step = 0; step < kCoupledSteps && rz > target; ++step) {
    apply_coupled(sys);
    const double curvature = dot<double>(sys.p.get(), sys.Hp.get(), sys.size);
    if (!(curvature > 0)) break;
    axpy(rz / curvature, sys.p.get(), sys.x.get(), sys.size);
    axpy(-rz / curvature, sys.Hp.get(), sys.r.get(), sys.size);
    const double next = precondition_coupled(sys), ratio = next / rz;
    rz = next;
    for (int64_t i = 0; i < sys.size; ++i) sys.p.get()[i] = sys.z.get()[i] + ratio * sys.p.get()[i];
  }
}

template <typename Real>
void write_shared_gradient(const HeadsBackwardArgs<Real>& a, CoupledSystem<Real>& sys) {
  const SamplesArgs<Real>& s = a.samples;
  sum_over_features(sys.state, [&](int64_t m, double*) {
    double projection = 0;
    for (int64_t row = 0; row < s.T * s.C; ++row)
      projection += sys.state.W.get()[row * s.M + m] * sys.x.get()[row * s.M + m];
    const double theta = sys.theta.get()[m];
    a.grad_shared[m] =
        static_cast<Real>(theta > 0 ? -a.penalty.shared.scale * projection / theta : 0.0);
    return 0.0;
  });
}

template <typename Real>
void fit_coupled_heads_backward(const HeadsBackwardArgs<Real>& a, ParallelFor run) {
  using Work = HeadBackwardWork<Real>;
  CoupledSystem<Real> sys(a, run);
  start_system(a, sys);
  take_bias_answer(sys);
  solve_coupled(sys);
  for_each_gradient(a, run, [&](int64_t t, const HeadGradient<Real>& out, Work& work) {
    const TaskInput<Real> in = task_input(a.samples, t);
    if (!load_gradient(in, a.penalty, t, out, work)) return;
    SupportSystem<double>& system = work.system;
    for (int64_t c = 0; c < system.C; ++c)
      for (int64_t k = 0; k < system.S; ++k)
        system.x.get()[c * system.ld + k] =
            sys.x.get()[(t * system.C + c) * in.M + system.row.get()[k]];
    if (in.loss != kSquared) {
      load_solution(in, out, work);
      answer_adjoint(in, work);
    }
    write_gradients(in, a.penalty, out, work);
  });
  if (a.grad_shared) write_shared_gradient(a, sys);
}

SPARSEDIS_END
