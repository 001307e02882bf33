// The backward of the prox in a metric: A y = grad on the support of x, with A as in
// core/prox_backward.h, and from y every gradient.
//
// Groups are solved as many at a time as a vector has lanes, long ones with their entries across
// lanes, and in double by core/prox_backward.h where squares may leave the range of `Real`.
#pragma once

#include "group_backward.h"

SPARSEDIS_BEGIN

// Groups of a solution and the right side they are solved for, one in each lane of C columns.
template <typename Real>
class SolvedColumns {
 public:
  using Vector = Lanes<Real>;
  using Mask = LaneMask<Real>;
  static constexpr int64_t kLanes = Simd<Real>::kLanes;
  Vector square, norm, inverse, k;  // ||x||^2, ||x||, 1/||x|| or 0, group/||x||
  Mask some, irregular, loose;      // entries that are not 0; entries that are move where `loose`

  explicit SolvedColumns(int64_t C) : C(C), transposed(C), rows(kLanes * C) {
    x = storage.reserve(3 * C), y = x + C, D = y + C;
  }
  void load(const ProxBackwardArgs<Real>& a, int64_t offset, int64_t count, const Levels<Real>& at,
            int64_t k0) {
    const Vector zero{};
    transposed.take(a.x + offset, count, 0, x);
    transposed.take(a.grad + offset, count, 0, y);
    transposed.take(a.metric + offset, count, 1, D);
    square = zero, some = Mask{};
    for (int64_t c = 0; c < C; ++c) {
      D[c] += lanes_at(at.ridge + k0);
      square += x[c] * x[c], some |= x[c] != zero;
    }
    norm = square;
    take_root(norm);
    irregular = some & ~in_range<Real>(square);
    inverse = some ? 1 / norm : zero;
    k = lanes_at(at.group + k0) * inverse;
    loose = (some | (lanes_at(at.group + k0) == zero)) & (lanes_at(at.low + k0) == zero);
  }
  // xh.(y/a), xh.(D xh / a), xh.((D + kappa) xh / a) and xh.(xh / a), a = D + k + kappa.
  void sums(const Vector& kappa, Vector& projection, Vector& slope, Vector& denominator,
            Vector& weight) const {
    projection = slope = denominator = weight = Vector{};
    for (int64_t c = 0; c < C; ++c) {
      const Vector u = x[c] * inverse, d = D[c], s = u / (d + k + kappa);
      projection += x[c] == Vector{} ? Vector{} : s * y[c];  // whatever y is there
      slope += s * u * d, denominator += s * u * (d + kappa), weight += s * u;
    }
  }
  // y = B^-1 (y + lift x) on the support, 0 off it.
  void solve(const Vector& kappa, const Vector& lift, const Mask& moving) {
    Vector projection, slope, denominator, weight;
    const Vector zero{};
    for (int64_t c = 0; c < C; ++c) y[c] += x[c] == zero ? zero : lift * x[c];
    sums(kappa, projection, slope, denominator, weight);
    const Vector along = k == zero ? zero : k * projection / denominator * inverse;
    const Mask free = moving & loose;
    for (int64_t c = 0; c < C; ++c) {
      const Vector solved = (y[c] + along * x[c]) / (D[c] + k + kappa);
      y[c] = (x[c] != zero) | free ? solved : zero;
    }
  }
  // y, group by group.
  const Real* solution(int64_t count) {
    transposed.put(y, count, rows.get());
    return rows.get();
  }
  // Of every group the sums of `Along`.
  void along(Vector& sign, Vector& product) const {
    const Vector zero{};
    sign = product = zero;
    for (int64_t c = 0; c < C; ++c) {
      sign += signed_like(x[c], y[c]);
      product += x[c] * y[c];
    }
  }

 private:
  int64_t C;
  GroupColumns<Real> transposed;
  LaneBuffer<Real> storage;
  Buffer<Real> rows;
  Vector *x, *y, *D;
};

// A group whose entries lie across lanes, without the shared level.
template <typename Real>
void write_long(const ProxBackwardArgs<Real>& a, int64_t offset, const Levels<Real>& at) {
  const Real *x = a.x + offset, *b = a.grad + offset, *metric = a.metric + offset;
  const Real ridge = at.ridge[0], group = at.group[0];
  const auto D = [=](int64_t c) { return metric[c] + ridge; };
  double square[1], sums[2];
  sum_blocks<Real>(a.C, square, [=](int64_t c, Real(&q)[1]) { q[0] = x[c] * x[c]; });
  const bool some = std::any_of(x, x + a.C, [](Real u) { return u != 0; });
  if (some && !in_range<Real>(Real(square[0])))
    return static_cast<void>(write_irregular(a, offset, at, 0, Coupling{}));
  const Real inverse = some ? static_cast<Real>(1 / std::sqrt(square[0])) : Real(0);
  const Real k = group * inverse;
  sum_blocks<Real>(a.C, sums, [=](int64_t c, Real(&q)[2]) {
    const Real u = x[c] * inverse, s = u / (D(c) + k);
    q[0] = u == 0 ? Real(0) : s * b[c], q[1] = s * u * D(c);
  });
  const Real along = k == 0 ? Real(0) : static_cast<Real>(k * sums[0] / sums[1]) * inverse;
  const bool free = (some || group == 0) && at.low[0] == 0;
  const auto y = [=](int64_t c) {
    const Real solved = (b[c] + along * x[c]) / (D(c) + k);
    return (x[c] != 0) | free ? solved : Real(0);
  };
  write_group(a, offset, inverse, y);
}

// Every gradient of the groups in the columns, the k-th at offset + k C and the (k0 + k)-th of
// `at`; calls body(k, <x, y>) for each. `coupling(k)` is asked of those that take doubles.
template <typename Real, typename Couples, typename F>
void write_columns(const ProxBackwardArgs<Real>& a, int64_t offset, int64_t count,
                   const Levels<Real>& at, int64_t k0, SolvedColumns<Real>& columns,
                   Couples coupling, F body) {
  const Real* y = columns.solution(count);
  write_entries(a, offset, count * a.C, [y](int64_t i) { return y[i]; });
  Lanes<Real> sign{}, product{};
  if (wants_along(a)) columns.along(sign, product);
  for (int64_t k = 0; k < count; ++k) {
    const int64_t from = offset + k * a.C;
    if (columns.irregular[k]) {
      body(k, write_irregular(a, from, at, k0 + k, coupling(k)));
    } else if (wants_along(a)) {
      write_strengths(a, from / a.C, columns.inverse[k], {sign[k], product[k]});
      body(k, product[k]);
    }
  }
}

// Groups [begin, end) of more than one entry, without the shared level.
template <typename Real>
void metric_backward_groups(const ProxBackwardArgs<Real>& a, int64_t begin, int64_t end) {
  using Vector = Lanes<Real>;
  constexpr int64_t kLanes = Simd<Real>::kLanes;
  const int64_t C = a.C, step = C < kLongGroup ? groups_of(C) : 1;
  Levels<Real> levels;
  SolvedColumns<Real> columns(C < kLongGroup ? C : 0);
  for (int64_t i = begin; i < end; i += step) {
    const int64_t groups = std::min(step, end - i);
    levels.load(a.penalty, a.M, C, i, groups);
    if (C >= kLongGroup) write_long(a, i * C, levels);
    for (int64_t k0 = 0; k0 < groups && C < kLongGroup; k0 += kLanes) {
      const int64_t count = std::min(kLanes, groups - k0), offset = (i + k0) * C;
      columns.load(a, offset, count, levels, k0);
      columns.solve(Vector{}, Vector{}, ~LaneMask<Real>{});
      write_columns(
          a, offset, count, levels, k0, columns, [](int64_t) { return Coupling{}; },
          [](int64_t, double) {});
    }
  }
}

// Features [m0, m0 + width) over all tasks, which the shared level couples.
template <typename Real>
class FeatureAdjoint {
  using Vector = Lanes<Real>;
  using Mask = LaneMask<Real>;
  static constexpr int64_t kLanes = Simd<Real>::kLanes;

 public:
  FeatureAdjoint(const ProxBackwardArgs<Real>& args, int64_t m0, int64_t width)
      : a(args), m0(m0), width(width) {}

  void run() {
    measure();
    if (std::any_of(kappa, kappa + width, [](double k) { return k > 0; })) project();
    write();
    for (int64_t k = 0; k < width && a.grad_shared; ++k)
      a.grad_shared[m0 + k] =
          static_cast<Real>(theta[k] > 0 ? -a.penalty.shared.scale * x_y[k] / theta[k] : 0.0);
  }

 private:
  const ProxBackwardArgs<Real>& a;
  int64_t m0, width;
  Levels<Real> levels;
  SolvedColumns<Real> columns{a.C};
  double theta[kSlab] = {}, kappa[kSlab] = {};
  Real kappas_[kSlab] = {};
  double projection[kSlab] = {}, denominator[kSlab] = {}, x_y[kSlab] = {};

  // Calls body(k0, offset, count) for as many features at a time as a vector has lanes, of every
  // task, in the columns.
  template <typename F>
  void over(F body) {
    const std::array<const Real*, 3> arrays{a.x, a.grad, a.metric};
    for_each_row(a, m0, width, arrays, levels, [&](int64_t offset) {
      for (int64_t k0 = 0; k0 < width; k0 += kLanes) {
        const int64_t count = std::min(kLanes, width - k0);
        columns.load(a, offset + k0 * a.C, count, levels, k0);
        body(k0, offset + k0 * a.C, count);
      }
    });
  }

  // theta = ||x_m||, kappa = shared / theta
  void measure() {
    over([&](int64_t k0, int64_t offset, int64_t count) {
      for (int64_t k = 0; k < count; ++k)
        theta[k0 + k] += columns.irregular[k] ? sum_of_squares(a.x + offset + k * a.C, a.C)
                                              : static_cast<double>(columns.square[k]);
    });
    for (int64_t k = 0; k < width; ++k) {
      theta[k] = std::sqrt(theta[k]);
      kappa[k] = theta[k] > 0 ? at(a.penalty.shared, 0, m0 + k) / theta[k] : 0.0;
      kappas_[k] = static_cast<Real>(kappa[k]);
    }
  }

  // What each feature's rank-one term needs, as `feature_sums`.
  void project() {
    over([&](int64_t k0, int64_t offset, int64_t count) {
      Vector along, slope, inner, weight;
      columns.sums(kappas(k0), along, slope, inner, weight);
      for (int64_t k = 0; k < count; ++k) {
        if (columns.irregular[k]) {
          add_irregular(k0, k, offset + k * a.C);
        } else if (columns.some[k] && kappa[k0 + k] > 0) {
          const double share = columns.norm[k] / theta[k0 + k];
          const double boost = 1 + static_cast<double>(columns.k[k]) * weight[k] / inner[k];
          projection[k0 + k] += share * boost * along[k];
          denominator[k0 + k] += share * share * boost * slope[k];
        }
      }
    });
  }

  void add_irregular(int64_t k0, int64_t k, int64_t offset) {
    if (kappa[k0 + k] == 0) return;
    const SolvedGroup<Real> s = solved_at(a, offset, levels, k0 + k, coupling(k0 + k));
    const FeatureSums sums = feature_sums(s, a.grad + offset, theta[k0 + k]);
    projection[k0 + k] += sums.projection, denominator[k0 + k] += sums.denominator;
  }

  void write() {
    over([&](int64_t k0, int64_t offset, int64_t count) {
      Vector lift{};
      Mask moving{};
      for (int64_t k = 0; k < count; ++k) {
        const Coupling feature = coupling(k0 + k);
        lift[k] = static_cast<Real>(feature.lift), moving[k] = feature.feature_live ? -1 : 0;
      }
      columns.solve(kappas(k0), lift, moving);
      write_columns(
          a, offset, count, levels, k0, columns, [&](int64_t k) { return coupling(k0 + k); },
          [&](int64_t k, double along) { x_y[k0 + k] += along; });
    });
  }

  const Vector& kappas(int64_t k0) const { return lanes_at(kappas_ + k0); }

  Coupling coupling(int64_t k) const {
    const double lift =
        denominator[k] > 0 ? kappa[k] * projection[k] / (denominator[k] * theta[k]) : 0;
    return {kappa[k], lift, theta[k] > 0 || at(a.penalty.shared, 0, m0 + k) == Real(0)};
  }
};

SPARSEDIS_END
