// Heads whose tasks the shared level couples: block coordinate descent over blocks of features,
// each feature exact over all tasks; and the gradient by conjugate gradients over all tasks.
//
// A loss that is not squared is bounded by a quadratic one at the scores, which every block moves.
//
// Everything runs in double. Sums over tasks run in task order, so a task that is left out changes
// no bit of the others, and neither does the number of threads.
#pragma once

#include <vector>

#include "../core/feature.h"
#include "heads.h"

SPARSEDIS_BEGIN

constexpr int64_t kBlock = 16;        // features whose columns are centred and correlated together
constexpr int kBlockPasses = 4;       // passes over a block before the residuals follow
constexpr int64_t kGapEvery = 4;      // outer passes from one gap check to the next
constexpr int64_t kTaskGrain = 1024;  // fewest tasks of one feature that are worth a thread

// What is kept of a task under a loss that is not squared.
struct CurvedState {
  Curved<double> data;
  Scores<double> scores;
};

// What is kept of every task. W and g are (T, C, M).
template <typename Real>
struct Coupled {
  const SamplesArgs<Real>& samples;
  const PenaltyArgs<Real>& penalty;
  ParallelFor run;
  int64_t rows;
  Loss loss;
  Buffer<double> p, zbar, ybar, ridge, zero;  // (rows), (T, M), (T, C), (T, M), (T): at W = 0
  Buffer<double> W, g, R;                     // R is (rows, C)
  Buffer<double> G, q, u, b;                  // (T, block, block), (T, C, block), (T, C), (T)
  Buffer<int32_t> status;                     // of each task
  Buffer<char> present;                       // not empty, and finite
  std::vector<CurvedState> curved;            // empty for squares

  Coupled(const SamplesArgs<Real>& s, const PenaltyArgs<Real>& penalties, ParallelFor parallel)
      : samples(s),
        penalty(penalties),
        run(parallel),
        rows(s.T == 0 ? 0 : row_of(s, s.T - 1) + task_input(s, s.T - 1).n),
        loss(static_cast<Loss>(s.loss)),
        curved(loss == kSquared ? 0 : s.T) {
    p.reserve(rows), zbar.reserve(s.T * s.M), ybar.reserve(s.T * s.C);
    ridge.reserve(s.T * s.M), zero.reserve(s.T);
    for (Buffer<double>* wide : {&W, &g})
      std::fill_n(wide->reserve(s.T * s.C * s.M), s.T * s.C * s.M, 0.0);
    R.reserve(rows * s.C), G.reserve(s.T * kBlock * kBlock), q.reserve(s.T * s.C * kBlock);
    u.reserve(s.T * s.C), b.reserve(s.T);
    status.reserve(s.T), present.reserve(s.T);
  }

  int64_t wide_task() const { return samples.C * samples.M; }

  FeatureColumn<Real> column(const double* wide, int64_t m) const {
    return {wide + m,  wide_task(), samples.M,   samples.T, samples.M,
            samples.C, m,           ridge.get(), penalty};
  }
};

struct CoupledWork {
  Task<double> task;
  BiasSystem system;
  Buffer<double> columns;
};

// The objective of a loaded task at W = 0. Where the bias is at a limit W stays 0.
template <typename Real>
double start_task(Coupled<Real>& state, int64_t t, CoupledWork& work) {
  const TaskInput<Real> in = task_input(state.samples, t);
  if (state.loss == kSquared) return 0.5 * work.task.target2;
  CurvedState& own = state.curved[t];
  load_curved(in, work.task, own.data);
  evaluate_zero(work.task, in.fit_intercept, own.data, own.scores, work.system);
  for (int64_t c = 0; c < in.C; ++c)
    if (own.data.limit.get()[c] != 0)
      std::fill_n(state.W.get() + t * state.wide_task() + c * in.M, in.M, 0.0);
  return own.data.zero;
}

// R of task t from its scores, with the best bias.
template <typename Real>
void respond_task(Coupled<Real>& state, int64_t t, BiasSystem& system) {
  const SamplesArgs<Real>& s = state.samples;
  const int64_t n = task_input(s, t).n;
  CurvedState& own = state.curved[t];
  fit_bias(state.loss, s.fit_intercept, own.data, own.scores, system);
  respond(own.data, own.scores);
  double* R = state.R.get() + row_of(s, t) * s.C;
  for (int64_t c = 0; c < s.C; ++c)
    for (int64_t i = 0; i < n; ++i) R[i * s.C + c] = own.scores.R.get()[c * own.scores.ld + i];
}

// Means, weights and strengths of every task; `init` is (T, M, C) or null.
template <typename Real>
void load_coupled(Coupled<Real>& state, const Real* init) {
  const SamplesArgs<Real>& s = state.samples;
  for_each_task<CoupledWork>(state.run, s.T, task_size(s), [&](int64_t t, CoupledWork& work) {
    Task<double>& task = work.task;
    const TaskInput<Real> in = task_input(s, t);
    const Real* start = init ? init + t * s.M * s.C : nullptr;
    const bool finite = load_task(in, task) && load_penalty(state.penalty, t, task) &&
                        (start == nullptr || all_finite(start, s.M * s.C));
    state.status.get()[t] = finite ? kConverged : kNotFinite;
    state.present.get()[t] = finite && !task.empty();
    state.zero.get()[t] = 0;
    std::fill_n(state.ridge.get() + t * s.M, s.M, 0.0);
    if (!finite) return;
    std::copy_n(task.ridge.get(), s.M, state.ridge.get() + t * s.M);
    for (int64_t j = 0; j < s.M && start; ++j)
      for (int64_t c = 0; c < s.C; ++c) state.W.get()[(t * s.C + c) * s.M + j] = start[j * s.C + c];
    if (!state.present.get()[t]) return;
    std::copy_n(task.p.get(), in.n, state.p.get() + row_of(s, t));
    std::copy_n(task.zbar.get(), s.M, state.zbar.get() + t * s.M);
    std::copy_n(task.ybar.get(), s.C, state.ybar.get() + t * s.C);
    state.zero.get()[t] = start_task(state, t, work);
  });
}

// R = B - A W, or sqrt(p) (y - mean), and g = A'R of every task, from the data.
template <typename Real>
void refresh_coupled(Coupled<Real>& state) {
  const SamplesArgs<Real>& s = state.samples;
  for_each_task<CoupledWork>(state.run, s.T, task_size(s), [&](int64_t t, CoupledWork& work) {
    if (!state.present.get()[t]) return;
    Task<double>& task = work.task;
    const TaskInput<Real> in = task_input(s, t);
    load_task(in, task);
    double* R = state.R.get() + row_of(s, t) * s.C;
    double* g = state.g.get() + t * state.wide_task();
    const double* W = state.W.get() + t * state.wide_task();
    if (state.loss != kSquared) {
      score_all(task, state.curved[t].data, W, s.M, state.curved[t].scores);
      respond_task(state, t, work.system);
    }
    for (int64_t i = 0; i < in.n && state.loss == kSquared; ++i)
      for (int64_t c = 0; c < s.C; ++c)
        R[i * s.C + c] = task.B.get()[c * task.lds + i] -
                         dot<double>(task.A.get() + i * task.stride, W + c * s.M, s.M);
    std::fill_n(g, state.wide_task(), 0.0);
    for (int64_t i = 0; i < in.n; ++i)
      for (int64_t c = 0; c < s.C; ++c)
        axpy(R[i * s.C + c], task.A.get() + i * task.stride, g + c * s.M, s.M);
  });
}

// Runs body(m) for every feature in parallel, and returns the sum of its results in order.
template <typename Real, typename F>
double sum_over_features(const Coupled<Real>& state, F body) {
  const int64_t M = state.samples.M;
  Buffer<double> parts(M + 1);
  const int64_t size = state.samples.T * state.samples.C * M;
  parallel_for(state.run, M, size < kParallelElements ? M : 1, [&](int64_t begin, int64_t end) {
    Buffer<double> b(state.samples.T);
    for (int64_t m = begin; m < end; ++m) parts.get()[m] = body(m, b.get());
  });
  double sum = 0;
  for (int64_t m = 0; m < M; ++m) sum += parts.get()[m];
  return sum;
}

inline double total(const double* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

// The divergence of the dual point s (y - mean) from the scores, over all tasks.
template <typename Real>
double coupled_divergence(const Coupled<Real>& state, double s) {
  const SamplesArgs<Real>& samples = state.samples;
  double sum = 0;
  for (int64_t t = 0; t < samples.T; ++t) {
    if (!state.present.get()[t]) continue;
    if (state.loss == kSquared) {
      const double* R = state.R.get() + row_of(samples, t) * samples.C;
      sum += squared_divergence(sum_of_squares(R, task_input(samples, t).n * samples.C))(s);
    } else {
      const CurvedState& own = state.curved[t];
      sum += divergence(state.loss, own.scores, own.scores.bias.get(), own.data.y.get(),
                        own.data.p.get(), s);
    }
  }
  return sum;
}

// Duality gap over all tasks, relative to the objective at zero; R and g must be fresh.
template <typename Real>
double coupled_gap(const Coupled<Real>& state) {
  const SamplesArgs<Real>& s = state.samples;
  const double zero = total(state.zero.get(), s.T);
  if (zero == 0) return 0;
  double largest = 1;
  for (int64_t m = 0; m < s.M; ++m)
    largest = feature_dual_norm(state.column(state.g.get(), m), largest, true);
  const double scale = 1 / largest;
  const double correlation = dot<double>(state.g.get(), state.W.get(), s.T * state.wide_task());
  const double penalty = sum_over_features(
      state, [&](int64_t m, double*) { return feature_penalty(state.column(state.W.get(), m)); });
  const double conjugate = sum_over_features(state, [&](int64_t m, double* b) {
    return feature_conjugate(state.column(state.g.get(), m), scale, b);
  });
  const double loss = coupled_divergence(state, scale);
  return at_least_zero(loss + penalty + conjugate - scale * correlation) / zero;
}

// The centred columns [m0, m0 + width) of one task, (n, block).
template <typename Real>
void load_columns(const Coupled<Real>& state, int64_t t, int64_t m0, int64_t width, double* tile) {
  const SamplesArgs<Real>& s = state.samples;
  const TaskInput<Real> in = task_input(s, t);
  const double *p = state.p.get() + row_of(s, t), *mean = state.zbar.get() + t * s.M;
  for (int64_t i = 0; i < in.n; ++i) {
    const double root = std::sqrt(p[i]);
    for (int64_t k = 0; k < kBlock; ++k)
      tile[i * kBlock + k] = k < width ? root * (in.z[i * s.M + m0 + k] - mean[m0 + k]) : 0.0;
  }
}

// Elements that one task's block touches.
template <typename Real>
int64_t block_size(const SamplesArgs<Real>& s) {
  return task_size(s) / std::max<int64_t>(s.M, 1) * kBlock;
}

// q = A'R and G, a bound of the loss's Hessian and for squares A'A, of a block, for every task.
template <typename Real>
void correlate_block(Coupled<Real>& state, int64_t m0, int64_t width) {
  const SamplesArgs<Real>& s = state.samples;
  const double bend = loss_curvature(state.loss);
  for_each_task<CoupledWork>(state.run, s.T, block_size(s), [&](int64_t t, CoupledWork& tile) {
    double *q = state.q.get() + t * s.C * kBlock, *G = state.G.get() + t * kBlock * kBlock;
    std::fill_n(q, s.C * kBlock, 0.0);
    std::fill_n(G, kBlock * kBlock, 0.0);
    if (!state.present.get()[t]) return;
    const int64_t n = task_input(s, t).n;
    double* A = tile.columns.reserve(n * kBlock);
    load_columns(state, t, m0, width, A);
    const double* R = state.R.get() + row_of(s, t) * s.C;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t c = 0; c < s.C; ++c)
        axpy(R[i * s.C + c], A + i * kBlock, q + c * kBlock, kBlock);
      for (int64_t k = 0; k < width; ++k)
        axpy(bend * A[i * kBlock + k], A + i * kBlock, G + k * kBlock, kBlock);
    }
  });
}

// R after the block's weights moved from `before`, (T, C, block): for squares less A (W - before),
// else through the scores.
template <typename Real>
void follow_block(Coupled<Real>& state, int64_t m0, int64_t width, const double* before) {
  const SamplesArgs<Real>& s = state.samples;
  for_each_task<CoupledWork>(state.run, s.T, block_size(s), [&](int64_t t, CoupledWork& tile) {
    if (!state.present.get()[t]) return;
    const int64_t n = task_input(s, t).n;
    double* A = tile.columns.reserve(n * kBlock);
    load_columns(state, t, m0, width, A);
    CurvedState* own = state.loss == kSquared ? nullptr : &state.curved[t];
    double* R = state.R.get() + row_of(s, t) * s.C;
    for (int64_t c = 0; c < s.C; ++c) {
      double moved[kBlock] = {};
      for (int64_t k = 0; k < width; ++k)
        moved[k] = state.W.get()[(t * s.C + c) * s.M + m0 + k] - before[(t * s.C + c) * kBlock + k];
      for (int64_t i = 0; i < n; ++i) {
        const double added = dot<double>(A + i * kBlock, moved, kBlock);
        if (own)
          own->scores.S.get()[c * own->data.ld + i] += added * own->data.inverse_root.get()[i];
        else
          R[i * s.C + c] -= added;
      }
    }
    if (own) respond_task(state, t, tile.system);
  });
}

// b_t of u = G_kk W + q for feature m0 + k; u is left in state.u.
template <typename Real>
void threshold_feature(Coupled<Real>& state, int64_t m, int64_t k) {
  const SamplesArgs<Real>& s = state.samples;
  FeatureColumn<Real> f = state.column(nullptr, m);
  f.g = state.u.get(), f.task_stride = s.C, f.output_stride = 1;
  parallel_for(state.run, s.T, kTaskGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const double h = state.G.get()[t * kBlock * kBlock + k * (kBlock + 1)];
      for (int64_t c = 0; c < s.C; ++c)
        state.u.get()[t * s.C + c] =
            h * state.W.get()[(t * s.C + c) * s.M + m] + state.q.get()[(t * s.C + c) * kBlock + k];
      state.b.get()[t] = excess(f, t, 1.0).norm;
    }
  });
}

// The exact minimiser over feature m of all tasks; q follows.
template <typename Real>
void update_feature(Coupled<Real>& state, int64_t m, int64_t k) {
  const SamplesArgs<Real>& s = state.samples;
  threshold_feature(state, m, k);
  const double shared = at(state.penalty.shared, 0, m);
  const auto curvature = [&](int64_t t) {
    return state.G.get()[t * kBlock * kBlock + k * (kBlock + 1)] + state.ridge.get()[t * s.M + m];
  };
  const double theta =
      feature_norm(s.T, shared, [&](int64_t t) { return state.b.get()[t]; }, curvature);
  parallel_for(state.run, s.T, kTaskGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const double b = state.b.get()[t], norm = b + at(state.penalty.group, t, m);
      const double e = curvature(t) + (shared > 0 ? shared / theta : 0.0);
      const double factor = theta > 0 && b > 0 ? b / (norm * e) : 0.0;
      const double l1 = at(state.penalty.l1, t, m);
      for (int64_t c = 0; c < s.C; ++c) {
        double& w = state.W.get()[(t * s.C + c) * s.M + m];
        const double next =
            factor * soft_threshold(state.u.get()[t * s.C + c], l1, state.penalty.nonneg);
        axpy(w - next, state.G.get() + (t * kBlock + k) * kBlock,
             state.q.get() + (t * s.C + c) * kBlock, kBlock);
        w = next;
      }
    }
  });
}

// Whether a feature of the block is in use, or should be.
template <typename Real>
bool block_is_active(Coupled<Real>& state, int64_t m0, int64_t width) {
  const SamplesArgs<Real>& s = state.samples;
  for (int64_t k = 0; k < width; ++k) {
    FeatureColumn<Real> f = state.column(state.W.get(), m0 + k);
    if (pull(f, 0.0, false).norm > 0) return true;
    f.g = state.q.get() + k, f.task_stride = s.C * kBlock, f.output_stride = kBlock;
    if (pull(f, 1.0, false).norm > f.shared()) return true;
  }
  return false;
}

template <typename Real>
void descend_block(Coupled<Real>& state, int64_t m0, Buffer<double>& before) {
  const SamplesArgs<Real>& s = state.samples;
  const int64_t width = std::min(kBlock, s.M - m0);
  correlate_block(state, m0, width);
  if (!block_is_active(state, m0, width)) return;
  double* kept = before.reserve(s.T * s.C * kBlock);
  for (int64_t row = 0; row < s.T * s.C; ++row)
    std::copy_n(state.W.get() + row * s.M + m0, width, kept + row * kBlock);
  for (int pass = 0; pass < kBlockPasses; ++pass)
    for (int64_t k = 0; k < width; ++k) update_feature(state, m0 + k, k);
  follow_block(state, m0, width, kept);
}

template <typename Real>
void write_coupled(const HeadsArgs<Real>& a, const Coupled<Real>& state, double gap,
                   int64_t steps) {
  const SamplesArgs<Real>& s = a.samples;
  for (int64_t t = 0; t < s.T; ++t) {
    const HeadOutput<Real> out{a.weight + t * s.M * s.C, a.bias + t * s.C, a.gap + t, a.n_iter + t,
                               a.status + t};
    if (!state.present.get()[t]) {
      const bool finite = state.status.get()[t] == kConverged;
      const Real value = finite ? Real(0) : std::numeric_limits<Real>::quiet_NaN();
      write_nothing(task_input(s, t), out, value, static_cast<Status>(state.status.get()[t]));
      continue;
    }
    for (int64_t c = 0; c < s.C; ++c) {
      const double* w = state.W.get() + (t * s.C + c) * s.M;
      for (int64_t j = 0; j < s.M; ++j) out.weight[j * s.C + c] = static_cast<Real>(w[j]);
      out.bias[c] = static_cast<Real>(state.ybar.get()[t * s.C + c] -
                                      dot<double>(w, state.zbar.get() + t * s.M, s.M));
    }
    if (state.loss != kSquared)
      write_curved_bias(
          task_input(s, t), state.zbar.get() + t * s.M, state.W.get() + t * state.wide_task(), s.M,
          state.curved[t].scores.bias.get(), state.curved[t].data.limit.get(), out.bias);
    *out.gap = static_cast<Real>(gap);
    *out.n_iter = static_cast<int32_t>(steps);
    *out.status = gap <= a.tol ? kConverged : kIterationLimit;
  }
}

template <typename Real>
void fit_coupled_heads(const HeadsArgs<Real>& a, ParallelFor run) {
  Coupled<Real> state(a.samples, a.penalty, run);
  Buffer<double> before;
  load_coupled(state, a.init);
  refresh_coupled(state);
  double gap = coupled_gap(state);
  int64_t steps = 0;
  while (gap > a.tol && steps < a.max_iter) {
    const int64_t until = std::min(a.max_iter, steps + kGapEvery);
    for (; steps < until; ++steps)
      for (int64_t m0 = 0; m0 < a.samples.M; m0 += kBlock) descend_block(state, m0, before);
    refresh_coupled(state);
    gap = coupled_gap(state);
  }
  write_coupled(a, state, gap, steps);
}

template <typename Real>
void coupled_lambda_max(const HeadsReportArgs<Real>& a, ParallelFor run) {
  Coupled<Real> state(a.samples, a.penalty, run);
  load_coupled<Real>(state, nullptr);
  refresh_coupled(state);
  double largest = 0;
  for (int64_t m = 0; m < a.samples.M; ++m)
    largest = feature_dual_norm(state.column(state.g.get(), m), largest, false);
  // A task that is not finite counts as an empty one; NaN where every task is.
  bool any = a.samples.T == 0;
  for (int64_t t = 0; t < a.samples.T; ++t) any |= state.status.get()[t] == kConverged;
  if (!any) largest = std::numeric_limits<double>::quiet_NaN();
  a.value[0] = static_cast<Real>(largest);
}

template <typename Real>
void coupled_duality_gap(const HeadsReportArgs<Real>& a, ParallelFor run) {
  Coupled<Real> state(a.samples, a.penalty, run);
  load_coupled(state, a.weight);
  refresh_coupled(state);
  const double gap = coupled_gap(state);
  for (int64_t t = 0; t < a.samples.T; ++t) {
    const bool finite = state.status.get()[t] == kConverged;
    a.value[t] = finite ? static_cast<Real>(gap) : std::numeric_limits<Real>::quiet_NaN();
  }
}

SPARSEDIS_END
