// The prox with the shared level where a feature is more than scaled: with x = theta y, where theta
// is the norm of the feature over all tasks, (D theta + shared) y + group y / ||y|| = u in each
// task and sum ||y||^2 = 1 over them, a scalar equation in theta.
#pragma once

#include "metric_prox.h"

SPARSEDIS_BEGIN

constexpr int64_t kSlab = 64;  // features that are solved together

// Entries of a slab from which its rows, which lie far apart, are asked for two tasks early: the
// processor itself does not.
constexpr int64_t kFarEntries = 1 << 17;

// A Newton step that moves a feature's norm by less has squared that relative error.
template <typename Real>
constexpr Real kLastNewton = sizeof(Real) == 4 ? Real(1e-4) : Real(4e-9);

// Whether the shared level only scales features, for lack of anything that differs inside them.
template <typename Real>
bool is_uniform(const ProxArgs<Real>& a) {
  return a.metric == nullptr && a.penalty.ridge.task_stride == 0;
}

// Calls body(offset) for every task with the strengths of its features [m0, m0 + width), of which
// the first entry is at `offset`. Args are those of a prox or its backward, which read `arrays`.
template <typename Args, typename Real, typename F>
void for_each_row(const Args& a, int64_t m0, int64_t width,
                  std::initializer_list<const Real*> arrays, Levels<Real>& levels, F body) {
  const bool far = a.T * width * a.C >= kFarEntries;
  for (int64_t task = 0; task < a.T; ++task) {
    const int64_t first = task * a.M + m0, offset = first * a.C;
    for (const Real* array : arrays)
      if (far && array && task + 2 < a.T) prefetch(array + offset + 2 * a.M * a.C, width * a.C);
    levels.load(a.penalty, a.M, a.C, first, width);
    body(offset);
  }
}

// Features [m0, m0 + width) over all tasks.
template <typename Real>
class FeatureProx {
  using Vector = Lanes<Real>;
  static constexpr int64_t kLanes = Simd<Real>::kLanes;

 public:
  FeatureProx(const ProxArgs<Real>& args, int64_t m0, int64_t width)
      : a(args), m0(m0), width(width) {
    metric_buffer.reserve(a.C * kSlab / kLanes);
  }

  void run() {
    start();
    bool any = std::any_of(open, open + width, [](bool o) { return o; });
    for (int step = 0; step < kSecularSteps && any; ++step) any = newton();
    write();
  }

 private:
  const ProxArgs<Real>& a;
  int64_t m0, width;
  Columns<Real> columns{a.C, kSlab};
  LaneBuffer<Real> metric_buffer;  // D while the columns hold D theta + shared
  Levels<Real> levels;
  double shared[kSlab] = {}, theta[kSlab] = {}, least[kSlab] = {};
  double t[kSlab] = {}, s[kSlab] = {}, weighted[kSlab] = {}, largest[kSlab] = {};
  Real scale[kSlab] = {}, shift[kSlab] = {};  // theta and shared
  bool open[kSlab] = {};                      // the equation of this feature is not solved yet

  // Calls body(offset) for every task, with the columns of its features loaded.
  template <typename F>
  void over(F body) {
    for_each_row(a, m0, width, {a.v, a.metric}, levels, [&](int64_t offset) {
      columns.load(a.v + offset, a.metric ? a.metric + offset : nullptr, width, levels);
      body(offset);
    });
  }
  // Calls body(block, k, count) for the features k.. of every block of columns.
  template <typename F>
  void each_block(F body) {
    for (int64_t b = 0; b < columns.blocks(); ++b)
      body(b, b * kLanes, std::min(kLanes, width - b * kLanes));
  }

  // theta = 0 where the feature is zero, else an estimate, which is exact where D is uniform.
  void start() {
    over([&](int64_t offset) {
      each_block([&](int64_t b, int64_t k0, int64_t count) {
        Vector square, weight, most, norm;
        columns.measure(b, square, weight, most);
        norm = square;
        take_root(norm);
        for (int64_t k = 0; k < count; ++k)
          square[k] < kMostSquare<Real> ? add_group(k0 + k, norm[k], weight[k], most[k])
                                        : add_irregular_group(k0 + k, offset);
      });
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
  void add_group(int64_t k, double norm, double weight, double most) {
    const double left = norm <= levels.group[k] ? 0 : norm - levels.group[k];
    const double share = left == 0 ? 0 : left / norm;
    t[k] += left * left;
    weighted[k] += share * share * weight;
    largest[k] = std::max(largest[k], most);
  }

  void add_irregular_group(int64_t k, int64_t offset) {
    Buffer<Real> u(a.C);
    const Group<Real> g = group_at(k, offset);
    const double norm = threshold_group(g, u.get());
    double weight = 0, most = 0;
    for (int64_t c = 0; c < a.C; ++c) {
      const double D = curvature(g, c), square = static_cast<double>(u.get()[c]) * u.get()[c];
      weight += square * D, most = std::max(most, D);
    }
    add_group(k, norm, weight, most);
  }

  // One reciprocal Newton step of every open feature; false when none is left.
  bool newton() {
    std::fill_n(t, width, 0.0);
    std::fill_n(s, width, 0.0);
    over([&](int64_t offset) {
      solve();
      each_block([&](int64_t b, int64_t k0, int64_t count) { add(b, k0, count); });
      columns.for_each_irregular([&](int64_t k, auto) { add_irregular(k, offset); });
    });
    bool any = false;
    for (int64_t k = 0; k < width; ++k) {
      if (!open[k]) continue;
      const double next = std::max(least[k], theta[k] + t[k] * (std::sqrt(t[k]) - 1) / s[k]);
      open[k] = std::fabs(next - theta[k]) > kLastNewton<Real> * theta[k];
      theta[k] = next;
      any |= open[k];
    }
    return any;
  }

  Vector* D(int64_t block) { return metric_buffer.get() + a.C * block; }

  // y of the features into the columns, D theta + shared in place of D.
  void solve() {
    for (int64_t k = 0; k < width; ++k)
      scale[k] = static_cast<Real>(theta[k]), shift[k] = static_cast<Real>(shared[k]);
    each_block([&](int64_t b, int64_t k0, int64_t) {
      Vector* e = columns.curvature(b);
      for (int64_t c = 0; c < a.C; ++c) {
        D(b)[c] = e[c];
        e[c] = e[c] * lanes_at(scale + k0) + lanes_at(shift + k0);
      }
    });
    columns.solve();
  }

  // ||y||^2 and its slope in theta up to the factor -2, as `feature_slope`.
  void add(int64_t b, int64_t k0, int64_t count) {
    const Vector *y = columns.u(b), *e = columns.curvature(b);
    const Roots<Real>& roots = columns.roots(b);
    Vector norm2{}, norm, s1{}, s2{}, s3{};
    for (int64_t c = 0; c < a.C; ++c) norm2 += y[c] * y[c];
    norm = norm2;
    take_root(norm);
    const LaneMask<Real> some = (norm2 > Vector{}) & ~roots.irregular;
    const Vector level = some ? roots.level / norm : Vector{};
    for (int64_t c = 0; c < a.C; ++c) {
      const Vector q = y[c] * y[c] / (e[c] + level);
      s1 += q, s2 += q * D(b)[c], s3 += q * e[c];
    }
    const Vector slope = s2 + level * s1 * s2 / s3;
    for (int64_t i = 0; i < count; ++i) {
      t[k0 + i] += some[i] ? static_cast<double>(norm2[i]) : 0.0;
      s[k0 + i] += some[i] ? static_cast<double>(slope[i]) : 0.0;
    }
  }

  double solve_irregular(int64_t k, int64_t offset, Real* y) {
    const Group<Real> g = group_at(k, offset);
    return solve_group(g, threshold_group(g, y), theta[k], shared[k], y);
  }

  Group<Real> group_at(int64_t k, int64_t offset) const {
    offset += k * a.C;
    return group_of(levels, k, a.v + offset, a.metric ? a.metric + offset : nullptr, a.C);
  }

  void add_irregular(int64_t k, int64_t offset) {
    Buffer<Real> y(a.C);
    const double norm2 = solve_irregular(k, offset, y.get());
    t[k] += norm2;
    s[k] += feature_slope(group_at(k, offset), y.get(), norm2, theta[k], shared[k]);
  }

  void write() {
    over([&](int64_t offset) {
      solve();
      columns.for_each_irregular([&](int64_t k, auto set) {
        Buffer<Real> y(a.C);
        solve_irregular(k, offset, y.get());
        set(y.get());
      });
      each_block([&](int64_t b, int64_t k0, int64_t) {
        const Vector norm = lanes_at(scale + k0), zero{};
        for (int64_t c = 0; c < a.C; ++c) {
          Vector& x = columns.u(b)[c];
          x = norm == zero ? zero : norm * x;
        }
      });
      columns.store(a.x + offset);
    });
  }
};

SPARSEDIS_END
