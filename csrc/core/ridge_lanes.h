// The systems of ridge heads of several small tasks, side by side in the lanes of vectors.
//
// Formulas are those of ridge.h and ridge_backward.h.
#pragma once

#include "ridge_backward.h"
#include "task_lanes.h"

SPARSEDIS_BEGIN

constexpr int64_t kLaneBlock = 32;  // rows that Gram matrices are summed over at once

// Tasks that all have no more samples than features (`dual`), or none of them, and their systems.
template <typename Real>
struct RidgeLanes : TaskLanes<Real> {
  using TaskLanes<Real>::kLanes;
  template <typename T>
  using Each = std::array<T, kLanes>;

  Each<Real*> right;  // (C, ldr): right sides, then solutions
  int64_t C, ldr;     // ldr: unknowns, padded
  bool dual;
  LaneMatrix<Real, false> matrix;
  LaneSides<Real> sides;
  LaneReport<Real> report;
  LaneBuffer<Real> rows, ridge, heads;  // (kLaneBlock, matrix.ld), (matrix.ld), (kLaneBlock, C)
  Each<Buffer<Real>> room;              // of `right`
  Buffer<Real> image;                   // of the residual by K

  // Takes the tasks of some works, with `outputs` right sides each.
  template <typename Work>
  void take(Work* const* works, int64_t number, int64_t outputs) {
    this->take_tasks(works, number);
    C = outputs, dual = takes_samples(this->n, this->M);
    matrix.shape(dual ? this->n : this->M), sides.shape(matrix.ld, C);
    ldr = padded<Real>(matrix.N);
    for (int64_t t = 0; t < kLanes; ++t)
      right[t] = t < number ? room[t].reserve(C * ldr) : right[0];
  }
};

// K = A'A + D
template <typename Real>
inline void load_primal(RidgeLanes<Real>& g) {
  LaneMatrix<Real, false>& s = g.matrix;
  Lanes<Real>*rows = g.rows.reserve(kLaneBlock * s.ld), *ridge = g.ridge.reserve(s.ld);
  for (int64_t first = 0; first < g.n; first += kLaneBlock) {
    const int64_t count = std::min(kLaneBlock, g.n - first);
    for (int64_t k = 0; k < count; ++k) g.load_sample(first + k, s.ld, rows + k * s.ld);
    gram_lanes(rows, count, first == 0, s);
  }
  g.load_strengths([](const TaskPenalty<Real>& p) { return p.ridge; }, ridge);
  std::fill(ridge + g.M, ridge + s.ld, Lanes<Real>{} + 1);
  for (int64_t j = 0; j < s.ld; ++j) s.K.get()[j * (s.ld + 1)] += ridge[j];
}

// The last `outputs` right sides = X'Y, or they + X'Y, unless these are the `first` rows of X
// (count, ld) and Y (count, outputs).
template <typename Real>
inline void add_right_sides(const Lanes<Real>* X, const Lanes<Real>* Y, int64_t count, bool first,
                            int64_t outputs, LaneSides<Real>& s) {
  for_each_sides(outputs, [&](int64_t c, auto columns) {
    for (int64_t i = 0; i < s.ld; i += kLaneRows) {
      Lanes<Real>* to = s.rhs.get() + (i + 1) * s.C - outputs + c;
      LaneTile<decltype(columns)::value, Real> sum, before;
      sum.clear();
      for (int64_t k = 0; k < count; ++k)
        sum.template add_product<Real>(X + k * s.ld + i, 1, Y + k * outputs + c);
      if (!first) {
        before.load(to, s.C, 1);
        sum.add(before);
      }
      sum.store(to, s.C);
    }
  });
}

// K = A D^-1 A' + I once the ridge of every task is inverted, and the last right sides, A D^-1/2
// times the `outputs` rows of `heads`, padded(M) apart.
template <typename Real>
inline void load_dual(int64_t outputs, const Real* const* heads, RidgeLanes<Real>& g) {
  LaneMatrix<Real, false>& s = g.matrix;
  const int64_t ldh = padded<Real>(g.M);
  Lanes<Real>* rows = g.rows.reserve(kLaneBlock * s.ld);
  Lanes<Real>* Y = g.heads.reserve(kLaneBlock * outputs);
  for (int64_t first = 0; first < g.M; first += kLaneBlock) {
    const int64_t count = std::min(kLaneBlock, g.M - first);
    for (int64_t i = 0; i < g.n; ++i) {
      const auto sample = g.sample(i);
      const auto values = [&](int64_t t, int64_t j) {
        return load_vector<Real>(sample[t] + first + j) *
               load_vector<Real>(g.task[t]->ridge.get() + first + j);
      };
      interleave<Real>(values, count, rows + i, s.ld);
    }
    for (int64_t k = 0; k < count; ++k)
      std::fill(rows + k * s.ld + g.n, rows + (k + 1) * s.ld, Lanes<Real>{});
    gram_lanes(rows, count, first == 0, s);
    for (int64_t c = 0; c < outputs; ++c) {
      const auto values = [&](int64_t t, int64_t j) {
        return load_vector<Real>(heads[t] + c * ldh + first + j);
      };
      interleave<Real>(values, count, Y + c, outputs);
    }
    add_right_sides(rows, Y, count, first == 0, outputs, g.sides);
  }
  for (int64_t i = 0; i < s.ld; ++i) s.K.get()[i * (s.ld + 1)] += 1;
}

// As that of ridge.h, for every task; `right` is lost.
template <typename Real>
inline void raise_mean(RidgeLanes<Real>& g) {
  LaneMatrix<Real, false>& s = g.matrix;
  if (!g.task[0]->centred) return;
  for (int64_t t = 0; t < g.count; ++t) {
    std::fill_n(g.right[t], g.ldr, Real(0));
    for (int64_t i = 0; i < g.task[t]->n; ++i)
      g.right[t][i] = static_cast<Real>(g.task[t]->root.get()[i]);
  }
  Lanes<Real>* u = g.ridge.reserve(s.ld);
  const auto values = [&](int64_t t, int64_t i) { return load_vector<Real>(g.right[t] + i); };
  interleave<Real>(values, s.N, u, 1);
  std::fill(u + s.N, u + s.ld, Lanes<Real>{});
  const Lanes<Real> largest = largest_diagonal(s);
  for (int64_t i = 0; i < s.ld; ++i) {
    const Lanes<Real> scaled = largest * u[i];
    for (int64_t j = 0; j < (i / kLaneRows + 1) * kLaneRows; ++j)
      s.K.get()[i * s.ld + j] += scaled * u[j];
  }
}

// B of task t in the first rows of its `right`.
template <typename Real>
inline void copy_targets(int64_t C, int64_t t, RidgeLanes<Real>& g) {
  const Task<Real>& task = *g.task[t];
  for (int64_t c = 0; c < C; ++c) {
    Real* row = g.right[t] + c * g.ldr;
    std::copy_n(task.B.get() + c * task.lds, task.n, row);
    std::fill(row + task.n, row + g.ldr, Real(0));
  }
}

// The first `outputs` right sides from those of the tasks.
template <typename Real>
inline void load_right_sides(int64_t outputs, RidgeLanes<Real>& g) {
  LaneSides<Real>& s = g.sides;
  const int64_t N = g.matrix.N;
  for (int64_t c = 0; c < outputs; ++c) {
    const auto values = [&](int64_t t, int64_t j) {
      return load_vector<Real>(g.right[t] + c * g.ldr + j);
    };
    interleave<Real>(values, N, s.rhs.get() + c, s.C);
  }
  std::fill(s.rhs.get() + N * s.C, s.rhs.get() + s.ld * s.C, Lanes<Real>{});
}

// `gap` is that of `solve_system_lanes`.
template <typename Real, typename Gap>
inline void solve_right_sides(Gap gap, RidgeLanes<Real>& g) {
  LaneSides<Real>& s = g.sides;
  factor_lanes(g.matrix);
  solve_system_lanes(g.matrix, s, kRefinements, gap, g.report);
  for (int64_t c = 0; c < s.C; ++c)
    deinterleave<Real>(s.x.get() + c, s.C, g.matrix.N,
                       [&](int64_t t) { return g.right[t] + c * g.ldr; });
}

// Adds sum_j ||e_j||^2 / (2 ridge_j), where ridge(j, t) is the ridge of feature j in lane t.
template <typename Real, typename F>
inline void add_primal_gap(const Real* e, int64_t M, int64_t C, F ridge, double* gap) {
  constexpr int64_t lanes = Simd<Real>::kLanes;
  for (int64_t j = 0; j < M; ++j) {
    double square[lanes] = {};
    for (int64_t c = 0; c < C; ++c)
#pragma omp simd
      for (int64_t t = 0; t < lanes; ++t) {
        const double value = e[(j * C + c) * lanes + t];
        square[t] += value * value;
      }
#pragma omp simd
    for (int64_t t = 0; t < lanes; ++t) gap[t] += square[t] / (2.0 * ridge(j, t));
  }
}

// Adds <e, K e - e> / 2; `image` has room for K e.
template <typename Real, bool shared>
inline void add_dual_gap(const LaneMatrix<Real, shared>& matrix, const Real* e, int64_t C,
                         Real* image, double* gap) {
  constexpr int64_t lanes = Simd<Real>::kLanes;
  multiply_lanes(matrix, reinterpret_cast<const Lanes<Real>*>(e), C, image);
  for (int64_t i = 0; i < matrix.ld * C * lanes; i += lanes)
#pragma omp simd
    for (int64_t t = 0; t < lanes; ++t)
      gap[t] += 0.5 * e[i + t] * (static_cast<double>(image[i + t]) - e[i + t]);
  for (int64_t t = 0; t < lanes; ++t) gap[t] = at_least_zero(gap[t]);
}

// Solves as `solve_ridge_primal` does: the heads are in `right`.
template <typename Real>
inline void solve_ridge_primal(RidgeLanes<Real>& g) {
  load_primal(g);
  for (int64_t t = 0; t < g.count; ++t) {
    const Task<Real>& task = *g.task[t];
    multiply(task.B.get(), g.C, task.lds, task.n, task.A.get(), task.stride, task.ld, g.right[t],
             g.ldr);
  }
  load_right_sides(g.C, g);
  const Real* ridge = g.ridge.values();
  const auto of = [=](int64_t j, int64_t t) { return ridge[j * Simd<Real>::kLanes + t]; };
  solve_right_sides([&](const Real* e, double* gap) { add_primal_gap(e, g.M, g.C, of, gap); }, g);
}

// Solves as `solve_ridge_dual` does: what A' makes heads of is in `right`.
template <typename Real>
inline void solve_ridge_dual(RidgeLanes<Real>& g) {
  for (int64_t t = 0; t < g.count; ++t) invert_ridge(*g.task[t]);
  load_dual<Real>(0, nullptr, g);
  raise_mean(g);
  for (int64_t t = 0; t < g.count; ++t) copy_targets(g.C, t, g);
  load_right_sides(g.C, g);
  Real* image = g.image.reserve(g.sides.size());
  solve_right_sides([&](const Real* e, double* gap) { add_dual_gap(g.matrix, e, g.C, image, gap); },
                    g);
}

// As `solve_rows`: until the residual is that of rounding.
template <typename Real>
inline void solve_rows(RidgeLanes<Real>& g) {
  constexpr int64_t lanes = RidgeLanes<Real>::kLanes;
  constexpr double near = 16.0 * std::numeric_limits<Real>::epsilon();
  const LaneSides<Real>& s = g.sides;
  const auto norm2 = [&](const Real* rows, double* sum) {
    for (int64_t i = 0; i < s.size(); i += lanes)
#pragma omp simd
      for (int64_t t = 0; t < lanes; ++t) sum[t] += static_cast<double>(rows[i + t]) * rows[i + t];
  };
  double target[lanes] = {};
  norm2(s.rhs.values(), target);
  for (int64_t t = 0; t < lanes; ++t) g.report.target[t] = near * near * target[t];
  solve_right_sides(norm2, g);
}

// As `is_trusted`, of task t; false, too, where the system was indefinite.
template <typename Real>
inline bool is_trusted(int64_t t, const RidgeLanes<Real>& g) {
  const double inverse = largest_inverse(g.matrix)[t], largest = largest_diagonal(g.matrix)[t];
  const bool finite = std::isfinite(g.report.reached[t]);
  return finite && (sizeof(Real) == 8 || largest * inverse * inverse <= kTrustedRange);
}

// As those of ridge_backward.h, for the tasks that `g` has taken.
template <typename Real>
inline void solve_primal_adjoint(RidgeBackwardWork<Real>* const* works, RidgeLanes<Real>& g) {
  const int64_t size = g.C * g.ldr;
  for (int64_t t = 0; t < g.count; ++t) std::copy_n(works[t]->heads.get(), size, g.right[t]);
  load_primal(g);
  load_right_sides(g.C, g);
  solve_rows(g);
  for (int64_t t = 0; t < g.count; ++t) {
    std::copy_n(g.right[t], size, works[t]->heads.get());
    score_heads(*works[t]);
  }
}

template <typename Real>
inline void solve_dual_adjoint(RidgeBackwardWork<Real>* const* works, RidgeLanes<Real>& g) {
  const int64_t C = g.C / 2;
  const Real* heads[RidgeLanes<Real>::kLanes];
  for (int64_t t = 0; t < g.kLanes; ++t) {
    RidgeBackwardWork<Real>& work = *works[t < g.count ? t : 0];
    heads[t] = work.heads.get();
    if (t < g.count) scale_heads(work);
  }
  load_dual(C, heads, g);
  raise_mean(g);
  for (int64_t t = 0; t < g.count; ++t) copy_targets(C, t, g);
  load_right_sides(C, g);
  solve_rows(g);
  for (int64_t t = 0; t < g.count; ++t) {
    RidgeBackwardWork<Real>& work = *works[t];
    for (int64_t c = 0; c < 2 * C; ++c)
      std::copy_n(g.right[t] + c * g.ldr, work.task.n, work.scores.get() + c * work.task.lds);
    pull_heads(work);
  }
}

SPARSEDIS_END
