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
  Buffer<char> live;
  int64_t size;

  explicit CoupledSystem(const HeadsBackwardArgs<Real>& a, ParallelFor run)
      : state(a.samples, a.penalty, run), size(a.samples.T * a.samples.C * a.samples.M) {
    load_coupled(state, a.weight);
    for (Buffer<double>* v : {&x, &r, &p, &Hp, &z, &diagonal})
      std::fill_n(v->reserve(size), size, 0.0);
    norm.reserve(a.samples.T * a.samples.M), theta.reserve(a.samples.M);
    std::fill_n(live.reserve(size), size, char(0));
  }

  double group_curvature(int64_t t, int64_t m) const {
    const double n = norm.get()[t * state.samples.M + m];
    return n > 0 ? at(state.penalty.group, t, m) / n : 0.0;
  }
  double shared_curvature(int64_t m) const {
    return theta.get()[m] > 0 ? at(state.penalty.shared, 0, m) / theta.get()[m] : 0.0;
  }
};

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
        sys.live.get()[i] = sys.state.W.get()[i] != 0 || (row && !held);
        const double bias = s.fit_intercept ? static_cast<double>(a.grad_bias[t * s.C + c]) : 0.0;
        const double g =
            a.grad_weight[(t * s.M + m) * s.C + c] - sys.state.zbar.get()[t * s.M + m] * bias;
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
  for_each_task<Task<double>>(sys.state.run, s.T, task_size(s), [&](int64_t t, Task<double>& task) {
    if (!sys.state.present.get()[t]) return;
    load_task(task_input(s, t), task);
    const int64_t offset = t * sys.state.wide_task();
    const double* V = sys.p.get() + offset;
    double* out = sys.Hp.get() + offset;
    std::fill_n(out, sys.state.wide_task(), 0.0);
    for (int64_t i = 0; i < task.n; ++i)
      for (int64_t c = 0; c < s.C; ++c) {
        const double* row = task.A.get() + i * task.ld;
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
      const double level = column_norm2(task, m) + sys.state.ridge.get()[t * s.M + m] +
                           sys.group_curvature(t, m) + sys.shared_curvature(m);
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
  solve_coupled(sys);
  for_each_gradient(a, run, [&](int64_t t, const HeadGradient<Real>& out, Work& work) {
    const TaskInput<Real> in = task_input(a.samples, t);
    if (!load_gradient(in, a.penalty, t, out, work)) return;
    SupportSystem<double>& system = work.system;
    for (int64_t c = 0; c < system.C; ++c)
      for (int64_t k = 0; k < system.S; ++k)
        system.x.get()[c * system.ld + k] =
            sys.x.get()[(t * system.C + c) * in.M + system.row.get()[k]];
    write_gradients(in, a.penalty, out, work);
  });
  if (a.grad_shared) write_shared_gradient(a, sys);
}

SPARSEDIS_END
