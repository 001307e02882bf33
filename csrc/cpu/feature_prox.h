// The prox with the shared level where a feature is more than scaled: with x = theta y, where theta
// is the norm of the feature over all tasks, (D theta + shared) y + group y / ||y|| = u in each
// task and sum ||y||^2 = 1 over them, a scalar equation in theta.
//
// Arrays are read and written once: u and D of a few features over all tasks, which few enough
// tasks leave in cache, are kept as columns while the equation is solved: by all threads together
// two to three times the memory of the weights at most. What is read may be brought up to date on
// the way.
#pragma once

#include "metric_prox.h"

SPARSEDIS_BEGIN

constexpr int64_t kSlab = 64;               // features that are solved together, at most
constexpr int64_t kKeptBytes = 512 * 1024;  // of fewer, where all tasks' take more

// Entries of an array from which its rows, which lie far apart, are asked for two tasks early: the
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
template <typename Args, typename Arrays, typename Real, typename F>
void for_each_row(const Args& a, int64_t m0, int64_t width, const Arrays& arrays,
                  Levels<Real>& levels, F body) {
  const bool far = a.T * a.M * a.C >= kFarEntries;
  for (int64_t task = 0; task < a.T; ++task) {
    const int64_t first = task * a.M + m0, offset = first * a.C;
    for (const Real* array : arrays)
      if (far && array && task + 2 < a.T) prefetch(array + offset + 2 * a.M * a.C, width * a.C);
    levels.load(a.penalty, a.M, a.C, first, width);
    body(offset);
  }
}

// What a prox reads, as it is.
template <typename Real>
struct GivenGroups {
  const ProxArgs<Real>& a;

  std::array<const Real*, 4> arrays() const { return {a.v, a.metric}; }
  // Metrics of entries that are read for the first time, and again; null where there is none.
  const Real* take(int64_t offset, int64_t) { return metric(offset, 0); }
  const Real* metric(int64_t offset, int64_t) { return a.metric ? a.metric + offset : nullptr; }
};

// Some features over all tasks; `Source` is what they are read from.
template <typename Real, typename Source>
class FeatureProx {
  using Vector = Lanes<Real>;
  using Mask = LaneMask<Real>;
  static constexpr int64_t kLanes = Simd<Real>::kLanes;

 public:
  template <typename MakeSource>
  FeatureProx(const ProxArgs<Real>& args, MakeSource make_source)
      : a(args),
        source(make_source()),
        grouped(a.C > 1 && present(a.penalty.group)),
        size(2 * a.C + (grouped ? 2 : 0)),
        transposed(a.C) {
    kept.reserve(a.T * width_of(a) / kLanes * size);
    x.reserve(a.C);
  }

  // Features that are solved together.
  static int64_t width_of(const ProxArgs<Real>& a) {
    const int64_t tasks = std::max<int64_t>(a.T, 1);
    const int64_t bytes = tasks * (2 * a.C + 2) * static_cast<int64_t>(sizeof(Vector));
    return kLanes * std::max<int64_t>(1, std::min(kSlab / kLanes, kKeptBytes / bytes));
  }

  void run(int64_t first, int64_t count) {
    m0 = first, width = count;
    load();
    start();
    bool any = std::any_of(open, open + width, [](bool o) { return o; });
    for (int step = 0; step < kSecularSteps && any; ++step) any = newton();
    write();
  }

 private:
  const ProxArgs<Real>& a;
  Source source;
  const bool grouped;  // by a level of its own
  const int64_t size;  // of a block: u and D (C), and with groups their levels and roots
  int64_t m0 = 0, width = 0;
  GroupColumns<Real> transposed;
  LaneBuffer<Real> kept, x;  // (T, blocks, size), (C)
  Levels<Real> levels;
  double theta[kSlab] = {}, least[kSlab] = {}, t[kSlab] = {}, s[kSlab] = {};
  Real largest[kSlab] = {}, scale[kSlab] = {}, shift[kSlab] = {};  // D; theta and shared
  bool open[kSlab] = {};  // the equation of this feature is not solved yet

  // Adds `terms` to the double sums of a block's features.
  static void add(const Vector& terms, double* sums) {
    const Real* values = reinterpret_cast<const Real*>(&terms);
    for (int64_t k = 0; k < kLanes; k += Simd<double>::kLanes)
      lanes_at(sums + k) += load_vector<double>(values + k);
  }

  // Calls body(block, k, count, offset) for the features k.. of every block of a task, whose first
  // is at `offset`.
  template <typename F>
  void each_block(int64_t task, F body) {
    const int64_t blocks = (width + kLanes - 1) / kLanes;
    for (int64_t b = 0; b < blocks; ++b)
      body(kept.get() + (task * blocks + b) * size, b * kLanes,
           std::min(kLanes, width - b * kLanes), (task * a.M + m0 + b * kLanes) * a.C);
  }
  template <typename F>
  void each_block(F body) {
    for (int64_t task = 0; task < a.T; ++task) each_block(task, body);
  }

  Vector& level(Vector* block) { return block[2 * a.C]; }
  Vector& root(Vector* block) { return block[2 * a.C + 1]; }

  // u and D of all tasks; what they sum up to over tasks at theta = 0, into t, s and `largest`.
  void load() {
    std::fill_n(t, kSlab, 0.0), std::fill_n(s, kSlab, 0.0), std::fill_n(largest, kSlab, Real(0));
    int64_t task = 0;
    for_each_row(a, m0, width, source.arrays(), levels, [&](int64_t row) {
      const Real* metric = source.take(row, width * a.C);
      each_block(task++, [&](Vector* block, int64_t k, int64_t count, int64_t offset) {
        load_block(block, k, count, offset, metric ? metric + (offset - row) : nullptr);
      });
    });
  }

  void load_block(Vector* u, int64_t k, int64_t count, int64_t offset, const Real* metric) {
    const Vector low = lanes_at(levels.low + k), high = lanes_at(levels.l1 + k), one = Vector{} + 1;
    Vector *D = u + a.C, square{}, weighted{}, most{};
    transposed.take(a.v + offset, count, 0, u);
    if (metric) transposed.take(metric, count, 1, D);
    for (int64_t c = 0; c < a.C; ++c) {
      const Vector d = metric ? D[c] : one;
      u[c] *= d;
      shrink(u[c], low, high);
      D[c] = d + lanes_at(levels.ridge + k);
      const Vector q = u[c] * u[c];
      square += q, weighted += q * D[c];
      most = most < D[c] ? D[c] : most;
    }
    if (grouped) level(u) = lanes_at(levels.group + k), root(u) = Vector{};
    Vector& all = lanes_at(largest + k);
    all = all < most ? most : all;
    const Mask beyond = square >= kMostSquare<Real>;
    if (any_lane(beyond))
      for (int64_t i = 0; i < count; ++i)
        if (beyond[i]) add_irregular_start(k + i, offset + i * a.C);
    Vector norm = square;
    take_root(norm);
    const Vector left = norm - lanes_at(levels.group + k), share = left / norm;
    const Mask some = ~beyond & ((left > Vector{}) | (norm != norm));
    add(some ? left * left : Vector{}, t + k);
    add(some ? share * share * weighted : Vector{}, s + k);
  }

  void add_irregular_start(int64_t k, int64_t offset) {
    Buffer<Real> u(a.C);
    const Group<Real> g = group_at(k, offset);
    const double norm = threshold_group(g, u.get()), left = std::max(norm - levels.group[k], 0.0);
    double weight = 0;
    for (int64_t c = 0; c < a.C; ++c)
      weight += curvature(g, c) * static_cast<double>(u.get()[c]) * u.get()[c];
    t[k] += left * left, s[k] += left == 0 ? 0 : left / norm * (left / norm) * weight;
  }

  // theta = 0 where the feature is zero, else an estimate, which is exact where D is uniform.
  void start() {
    for (int64_t k = 0; k < width; ++k) {
      const double shared = at(a.penalty.shared, 0, m0 + k), excess = std::sqrt(t[k]) - shared;
      shift[k] = static_cast<Real>(shared);
      least[k] = excess / largest[k];
      theta[k] = std::max(least[k], excess * t[k] / s[k]);
      if (excess <= 0) theta[k] = 0;
      if (shared == 0) theta[k] = 1;
      open[k] = theta[k] != 0 && shared > 0;
    }
    take_thetas();
  }

  void take_thetas() {
    for (int64_t k = 0; k < width; ++k) scale[k] = static_cast<Real>(theta[k]);
  }

  // One reciprocal Newton step of every open feature; false when none is left.
  bool newton() {
    std::fill_n(t, kSlab, 0.0), std::fill_n(s, kSlab, 0.0);
    each_block([&](Vector* block, int64_t k, int64_t count, int64_t offset) {
      Mask irregular{};
      grouped ? add_block<true>(block, k, irregular) : add_block<false>(block, k, irregular);
      for (int64_t i = 0; i < count && any_lane(irregular); ++i)
        if (irregular[i]) add_irregular(k + i, offset + i * a.C);
    });
    bool any = false;
    for (int64_t k = 0; k < width; ++k) {
      if (!open[k]) continue;
      const double next = std::max(least[k], theta[k] + t[k] * (std::sqrt(t[k]) - 1) / s[k]);
      open[k] = std::fabs(next - theta[k]) > kLastNewton<Real> * theta[k];
      theta[k] = next;
      any |= open[k];
    }
    take_thetas();
    return any;
  }

  // ||y||^2 and its slope in theta up to the factor -2, as `feature_slope`.
  template <bool groups>
  void add_block(Vector* u, int64_t k, Mask& irregular) {
    const Vector norm = lanes_at(scale + k), shared = lanes_at(shift + k), zero{}, *D = u + a.C;
    const Vector pull = groups ? coupling(u, norm, shared, irregular) : zero;
    Vector norm2{}, s1{}, s2{}, s3{};
    for (int64_t c = 0; c < a.C; ++c) {
      const Vector e = D[c] * norm + shared, inverse = 1 / (e + pull), y = u[c] * inverse,
                   square = y * y, q = square * inverse;
      norm2 += square, s2 += q * D[c];
      if constexpr (groups) s1 += q, s3 += q * e;
    }
    if constexpr (groups) s2 += s3 > zero ? pull * s1 * s2 / s3 : zero;
    add(irregular ? zero : norm2, t + k), add(irregular ? zero : s2, s + k);
  }

  // group / ||y|| of a block: infinite where y is zero. Roots start from what they have been.
  Vector coupling(Vector* u, const Vector& norm, const Vector& shared, Mask& irregular) {
    const Vector *D = u + a.C, zero{};
    const auto e = [&](int64_t c) { return D[c] * norm + shared; };
    Roots<Real> roots;
    roots.level = level(u);
    roots.start(u, a.C, e);
    const Vector before = root(u) > roots.least ? root(u) : roots.least;
    roots.r = roots.open & (root(u) > zero) ? before : roots.r;
    bool any = any_lane(roots.open);
    for (int step = 0; step < kSecularSteps && any; ++step) any = roots.step(u, a.C, e);
    root(u) = roots.r, irregular = roots.irregular;
    return roots.level > zero ? roots.level / roots.r : zero;
  }

  double solve_irregular(int64_t k, int64_t offset, Real* y) {
    const Group<Real> g = group_at(k, offset);
    return solve_group(g, threshold_group(g, y), theta[k], shift[k], y);
  }

  // Feature k of a task whose strengths may not be at hand.
  Group<Real> group_at(int64_t k, int64_t offset) {
    levels.load(a.penalty, a.M, a.C, offset / a.C - k, width);
    return group_of(levels, k, a.v + offset, source.metric(offset, a.C), a.C);
  }

  void add_irregular(int64_t k, int64_t offset) {
    Buffer<Real> y(a.C);
    const double norm2 = solve_irregular(k, offset, y.get());
    t[k] += norm2;
    s[k] += feature_slope(group_at(k, offset), y.get(), norm2, theta[k], shift[k]);
  }

  void write() {
    each_block([&](Vector* u, int64_t k, int64_t count, int64_t offset) {
      const Vector norm = lanes_at(scale + k), shared = lanes_at(shift + k), zero{}, *D = u + a.C;
      Mask irregular{};
      const Vector pull = grouped ? coupling(u, norm, shared, irregular) : zero;
      for (int64_t c = 0; c < a.C; ++c) {
        const Vector solved = norm * (u[c] / (D[c] * norm + shared + pull));
        x.get()[c] = norm == zero ? zero : solved;
      }
      for (int64_t i = 0; i < count && any_lane(irregular); ++i)
        if (irregular[i]) write_irregular(k + i, i, offset + i * a.C);
      transposed.put(x.get(), count, a.x + offset);
    });
  }

  void write_irregular(int64_t k, int64_t lane, int64_t offset) {
    Buffer<Real> y(a.C);
    solve_irregular(k, offset, y.get());
    for (int64_t c = 0; c < a.C; ++c)
      x.get()[c][lane] = scale[k] == 0 ? Real(0) : scale[k] * y.get()[c];
  }
};

SPARSEDIS_END
