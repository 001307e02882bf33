// The prox with the shared level where a feature is more than scaled: with x = theta y, where theta
// is the norm of the feature over all tasks, (D theta + shared) y + group y / ||y|| = u in each
// task and sum ||y||^2 = 1 over them, a scalar equation in theta.
#pragma once

#include "metric_prox.h"

SPARSEDIS_BEGIN

constexpr int64_t kSlab = 64;  // features that are solved together, by eights

// Whether the shared level only scales features, for lack of anything that differs inside them.
template <typename Real>
bool is_uniform(const ProxArgs<Real>& a) {
  return a.metric == nullptr && a.penalty.ridge.task_stride == 0;
}

// Features [m0, m0 + width) over all tasks.
template <typename Real>
class FeatureProx {
  using E = Eight<Real>;
  using Vector = typename E::Vector;
  using Mask = typename E::Mask;

 public:
  FeatureProx(const ProxArgs<Real>& args, int64_t m0, int64_t width)
      : a(args), m0(m0), width(width) {}

  void run() {
    start();
    bool any = std::any_of(open, open + width, [](bool o) { return o; });
    for (int step = 0; step < kSecularSteps && any; ++step) any = newton();
    write();
  }

 private:
  const ProxArgs<Real>& a;
  int64_t m0, width;
  Columns<Real> columns{a.C};
  Buffer<Real> metric_buffer{8 * a.C};  // D while the columns hold D theta + shared
  Real* D = metric_buffer.get();
  Levels<Real> levels;
  Roots<Real> roots;
  double shared[kSlab] = {}, theta[kSlab] = {}, least[kSlab] = {};
  double t[kSlab] = {}, s[kSlab] = {}, weighted[kSlab] = {}, largest[kSlab] = {};
  bool open[kSlab] = {};  // the equation of this feature is not solved yet

  // Calls body(k0, offset) for eight features at a time of every task, with their columns loaded.
  template <typename F>
  void over(F body) {
    for (int64_t task = 0; task < a.T; ++task) {
      const int64_t first = task * a.M + m0;
      levels.load(a.penalty, a.M, a.C, first, width);
      for (int64_t k0 = 0; k0 < width; k0 += 8) {
        const int64_t offset = (first + k0) * a.C;
        columns.load(a.v + offset, a.metric ? a.metric + offset : nullptr,
                     std::min<int64_t>(8, width - k0), levels, k0);
        body(k0, offset);
      }
    }
  }

  // theta = 0 where the feature is zero, else an estimate, which is exact where D is uniform.
  void start() {
    over([&](int64_t k0, int64_t offset) {
      Vector square, weight, most, norm;
      columns.measure(square, weight, most);
      norm = square;
      take_root(norm);
      for (int k = 0; k < 8 && k0 + k < width; ++k)
        square[k] < kMostSquare<Real> ? count(k0 + k, norm[k], weight[k], most[k])
                                      : count_irregular(k0, k, offset);
    });
    for (int64_t k = 0; k < width; ++k) {
      const double excess = std::sqrt(t[k]) - at(a.penalty.shared, 0, m0 + k);
      shared[k] = at(a.penalty.shared, 0, m0 + k);
      least[k] = excess / largest[k];
      theta[k] = std::max(least[k], excess * t[k] / weighted[k]);
      if (excess <= 0) theta[k] = 0;
      if (shared[k] == 0) theta[k] = 1;
      open[k] = theta[k] != 0 && shared[k] > 0 && !is_uniform(a);
    }
  }

  // A group of feature k, by its norm, sum u^2 D and largest D.
  void count(int64_t k, double norm, double weight, double most) {
    const double left = norm <= levels.group[k] ? 0 : norm - levels.group[k];
    const double share = left == 0 ? 0 : left / norm;
    t[k] += left * left;
    weighted[k] += share * share * weight;
    largest[k] = std::max(largest[k], most);
  }

  void count_irregular(int64_t k0, int k, int64_t offset) {
    Buffer<Real> u(a.C);
    const Group<Real> g = group_at(k0, k, offset);
    const double norm = threshold_group(g, u.get());
    double weight = 0, most = 0;
    for (int64_t c = 0; c < a.C; ++c) {
      const double D = curvature(g, c), square = static_cast<double>(u.get()[c]) * u.get()[c];
      weight += square * D, most = std::max(most, D);
    }
    count(k0 + k, norm, weight, most);
  }

  // One reciprocal Newton step of every open feature, as `Roots::step`; false when none is left.
  bool newton() {
    std::fill_n(t, width, 0.0);
    std::fill_n(s, width, 0.0);
    over([&](int64_t k0, int64_t offset) {
      if (std::none_of(open + k0, open + k0 + 8, [](bool o) { return o; })) return;
      solve(k0);
      add(k0);
      for (int k = 0; k < 8; ++k)
        if (roots.irregular[k] && k0 + k < width) add_irregular(k0, k, offset);
    });
    bool any = false;
    for (int64_t k = 0; k < width; ++k) {
      if (!open[k]) continue;
      const double next = std::max(least[k], theta[k] + t[k] * (std::sqrt(t[k]) - 1) / s[k]);
      open[k] = std::fabs(next - theta[k]) > kLastStep<Real> * theta[k];
      theta[k] = next;
      any |= open[k];
    }
    return any;
  }

  // y of eight features into the columns.
  void solve(int64_t k0) {
    Vector scale, shift;
    for (int k = 0; k < 8; ++k)
      scale[k] = static_cast<Real>(theta[k0 + k]), shift[k] = static_cast<Real>(shared[k0 + k]);
    for (int64_t c = 0; c < a.C; ++c) {
      Vector& e = E::at(columns.curvature + 8 * c);
      E::at(D + 8 * c) = e;
      e = e * scale + shift;
    }
    roots.level = E::at(levels.group + k0);
    solve_columns(columns, roots);
  }

  // ||y||^2 and its slope in theta up to the factor -2, as `feature_slope`.
  void add(int64_t k0) {
    Vector norm2{}, norm, s1{}, s2{}, s3{};
    for (int64_t c = 0; c < a.C; ++c) {
      const Vector y = E::at(columns.u + 8 * c);
      norm2 += y * y;
    }
    norm = norm2;
    take_root(norm);
    const Mask some = (norm2 > Vector{}) & ~roots.irregular;
    const Vector k = some ? roots.level / norm : Vector{};
    for (int64_t c = 0; c < a.C; ++c) {
      const Vector y = E::at(columns.u + 8 * c), e = E::at(columns.curvature + 8 * c),
                   q = y * y / (e + k);
      s1 += q, s2 += q * E::at(D + 8 * c), s3 += q * e;
    }
    const Vector slope = s2 + k * s1 * s2 / s3;
    for (int i = 0; i < 8; ++i) {
      t[k0 + i] += some[i] ? static_cast<double>(norm2[i]) : 0.0;
      s[k0 + i] += some[i] ? static_cast<double>(slope[i]) : 0.0;
    }
  }

  double solve_irregular(int64_t k0, int k, int64_t offset, Real* y) {
    const Group<Real> g = group_at(k0, k, offset);
    return solve_group(g, threshold_group(g, y), theta[k0 + k], shared[k0 + k], y);
  }

  Group<Real> group_at(int64_t k0, int k, int64_t offset) const {
    offset += k * a.C;
    return group_of(levels, k0 + k, a.v + offset, a.metric ? a.metric + offset : nullptr, a.C);
  }

  void add_irregular(int64_t k0, int k, int64_t offset) {
    Buffer<Real> y(a.C);
    const double norm2 = solve_irregular(k0, k, offset, y.get());
    t[k0 + k] += norm2;
    s[k0 + k] +=
        feature_slope(group_at(k0, k, offset), y.get(), norm2, theta[k0 + k], shared[k0 + k]);
  }

  void write() {
    over([&](int64_t k0, int64_t offset) {
      solve(k0);
      columns.store(a.x + offset, [&](int64_t k) { return k0 + k < width && !roots.irregular[k]; });
      for (int k = 0; k < 8 && k0 + k < width; ++k) {
        Real* x = a.x + offset + k * a.C;
        const Real norm = static_cast<Real>(theta[k0 + k]);
        if (roots.irregular[k]) solve_irregular(k0, k, offset, x);
        for (int64_t c = 0; c < a.C; ++c) x[c] = norm == 0 ? Real(0) : norm * x[c];
      }
    });
  }
};

SPARSEDIS_END
