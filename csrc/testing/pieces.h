// Small pieces of core/ on their own, in double, over NumPy arrays.
#pragma once

#include "../core/feature.h"
#include "../core/linf.h"
#include "../core/prox.h"
#include "../core/radial.h"
#include "../core/sparse_solver.h"
#include "arrays.h"

namespace sparsedis {
namespace testing {

using namespace SPARSEDIS_ISA;
using Doubles = Array<double>;

// Copies (rows, columns) into rows `ld` apart, padded with zeros.
inline void pad(const Doubles& from, int64_t ld, double* to) {
  const int64_t rows = from.shape(0), columns = from.shape(1);
  std::fill_n(to, rows * ld, 0.0);
  for (int64_t i = 0; i < rows; ++i) std::copy_n(from.data() + i * columns, columns, to + i * ld);
}

inline Doubles unpad(const double* from, int64_t ld, int64_t rows, int64_t columns) {
  Doubles to({rows, columns});
  for (int64_t i = 0; i < rows; ++i) std::copy_n(from + i * ld, columns, to.mutable_data(i, 0));
  return to;
}

// (rows, outputs) to the (outputs, ld) of the solvers.
inline void spread(const Doubles& from, int64_t ld, double* to) {
  std::fill_n(to, from.shape(1) * ld, 0.0);
  for (int64_t j = 0; j < from.shape(0); ++j)
    for (int64_t c = 0; c < from.shape(1); ++c) to[c * ld + j] = *from.data(j, c);
}

inline Doubles gather(const double* from, int64_t ld, int64_t rows, int64_t outputs) {
  Doubles to({rows, outputs});
  for (int64_t j = 0; j < rows; ++j)
    for (int64_t c = 0; c < outputs; ++c) *to.mutable_data(j, c) = from[c * ld + j];
  return to;
}

inline double root_of(const Doubles& u, const Doubles& diagonal, double c) {
  return secular_root(u.data(), [&](int64_t i) { return *diagonal.data(i); }, u.size(), c);
}

inline std::vector<double> radial_of(int64_t kind, double r, double lam, double eta, double shape) {
  Radial<false> s{};
  with_kind(kind, [&](auto constant) { s = radial<constant, false>(r, lam, eta, shape); });
  return {s.scale, s.radius, s.strength, s.step, s.shape};
}

// The Gram matrix of the columns of Z, first of `begin` of them, then of the rest.
inline Doubles gram_columns_of(const Doubles& Z, int64_t begin) {
  const int64_t n = Z.shape(0), M = Z.shape(1), ld = padded<double>(M);
  Buffer<double> rows(n * ld), G(ld * ld);
  pad(Z, ld, rows.get());
  gram_columns(rows.get(), n, ld, 0, begin, G.get(), ld);
  gram_columns(rows.get(), n, ld, begin, M, G.get(), ld);
  return unpad(G.get(), ld, M, M);
}

// The factor U with K = U'U, and U' left of its diagonal; None where K is not positive definite.
inline std::optional<Doubles> cholesky_of(const Doubles& K) {
  const int64_t n = K.shape(0), ld = padded<double>(n);
  Buffer<double> U(n * ld);
  pad(K, ld, U.get());
  if (!cholesky(U.get(), n, ld)) return std::nullopt;
  return unpad(U.get(), ld, n, n);
}

// K^-1 b for right sides as rows, b (C, n), from what `cholesky_of` returns.
inline Doubles cholesky_solve_of(const Doubles& U, const Doubles& b) {
  const int64_t n = U.shape(0), C = b.shape(0), ld = padded<double>(n);
  Buffer<double> rows(n * ld), x(C * ld), room(C * ld);
  pad(U, ld, rows.get());
  pad(b, ld, x.get());
  cholesky_solve(rows.get(), n, ld, x.get(), C, ld, room.get());
  return unpad(x.get(), ld, C, n);
}

inline Doubles invert_of(const Doubles& U) {
  const int64_t n = U.shape(0), ld = padded<double>(n);
  Buffer<double> rows(n * ld), V(n * ld), inverse(ld * ld);
  pad(U, ld, rows.get());
  invert(rows.get(), n, ld, V.get(), inverse.get());
  return unpad(inverse.get(), ld, n, n);
}

inline double dual_norm_of(const Doubles& g, double l1, double group, bool nonneg) {
  return dual_norm(g.data(), g.size(), 1, l1, group, nonneg);
}

// Calls body with feature 0 of arrays over T tasks: g (T, C) and strengths l1, group, ridge (T).
template <typename F>
double with_feature(const Doubles& g, const Doubles& l1, const Doubles& group, const Doubles& ridge,
                    double shared, F body) {
  const PenaltyArgs<double> strengths{{l1.data(), 1, 0, 1.0},
                                      {group.data(), 1, 0, 1.0},
                                      {nullptr, 0, 0, shared},
                                      {ridge.data(), 1, 0, 1.0},
                                      false};
  const int64_t T = g.shape(0), C = g.shape(1);
  return body(FeatureColumn<double>{g.data(), C, 1, T, 1, C, 0, ridge.data(), strengths});
}

inline double feature_dual_norm_of(const Doubles& g, const Doubles& l1, const Doubles& group,
                                   const Doubles& ridge, double shared) {
  return with_feature(g, l1, group, ridge, shared,
                      [](const auto& f) { return feature_dual_norm(f, 0.0, false); });
}

inline double feature_conjugate_of(const Doubles& g, const Doubles& l1, const Doubles& group,
                                   const Doubles& ridge, double shared) {
  Buffer<double> b(g.shape(0));
  return with_feature(g, l1, group, ridge, shared,
                      [&](const auto& f) { return feature_conjugate(f, 1.0, b.get()); });
}

inline double feature_norm_of(const Doubles& b, const Doubles& curvature, double shared) {
  return feature_norm(
      b.size(), shared, [&](int64_t t) { return *b.data(t); },
      [&](int64_t t) { return *curvature.data(t); });
}

// The Newton system of a support: Gram matrix G (S, S), ridge e (S), weights W (S, C), strengths
// group (S). Entries of W that are 0 are held there where `held` says so.
struct Support {
  SupportSystem<double> system;

  Support(const Doubles& G, const Doubles& e, const Doubles& W, const Doubles& group, bool held) {
    system.shape(W.shape(0), W.shape(1));
    pad(G, system.ld, system.G.get());
    std::copy_n(e.data(), e.size(), system.e.get());
    Buffer<double> weights(system.C * system.ld);
    spread(W, system.ld, weights.get());
    linearise(system, weights.get(), group.data(), std::numeric_limits<double>::infinity(),
              [&](int64_t) { return held; });
  }

  Doubles apply_to(const Doubles& V) {
    spread(V, system.ld, system.p.get());
    GramTerm<double> term{system};
    apply(system, term, system.p.get(), system.Hp.get());
    return gather(system.Hp.get(), system.ld, system.S, system.C);
  }

  Doubles by_cg(const Doubles& rhs, double eta, int64_t max_steps) {
    spread(rhs, system.ld, system.r.get());
    solve_by_cg(system, GramTerm<double>{system}, eta, max_steps);
    return gather(system.x.get(), system.ld, system.S, system.C);
  }

  // None where no direct method applies.
  std::optional<Doubles> directly(const Doubles& rhs, bool each) {
    spread(rhs, system.ld, system.r.get());
    if (!solve_directly(system, each)) return std::nullopt;
    return gather(system.x.get(), system.ld, system.S, system.C);
  }
};

// A sparse solve of one task without intercept, taken apart: z (n, M), y (n, C), start (M, C) and
// strengths (M).
struct Solve {
  Task<double> task;
  SparseWork<double> work;

  Solve(const Doubles& z, const Doubles& y, const py::dict& levels, const Doubles& start) {
    load_task(TaskInput<double>{z.data(), y.data(), nullptr, z.shape(0), z.shape(1), y.shape(1),
                                false, kSquared},
              task);
    load_penalty(penalty<double>(levels), 0, task);
    work.W.reserve(task.C * task.ld);
    start_set<double>(task, start.data(), works_on_all(task), nullptr, work);
    estimate(task, work);
    load_correlations(task, work);
  }

  void descend_once() { descend(work.set, 1); }

  bool newton(bool direct, double gap) {
    return newton_step(work.set, work.newton, NewtonRule{direct, gap});
  }

  double relative_gap() const { return restricted_gap(work.set) / (0.5 * task.target2); }

  Array<int64_t> features() const { return Array<int64_t>(work.set.size, work.set.index.get()); }
  Doubles weights() const { return rows(work.set.W); }
  Doubles correlations() const { return rows(work.set.q); }

  Doubles rows(const Buffer<double>& values) const {
    return gather(values.get(), work.set.ld, work.set.size, work.set.C);
  }
};

}  // namespace testing
}  // namespace sparsedis
