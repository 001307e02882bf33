// The backward of the prox without a metric, where a group has one curvature d = 1 + ridge: A y =
// b, A as in core/prox_backward.h, has y = alpha b + beta x on the support, with alpha = 1 / (d + k
// + kappa), beta = alpha (lift + k <x, b + lift x> / ((d + kappa) ||x||^2)) and k = group / ||x||.
#pragma once

#include "group_backward.h"

SPARSEDIS_BEGIN

// How the shared level enters the groups of every feature; at first, not at all.
template <typename Real>
struct Couplings {
  Buffer<Real> kappa, lift;
  Buffer<Real> dead;           // 1 where a group that is zero stays
  Buffer<Coupling> in_double;  // the same

  explicit Couplings(int64_t M) : in_double(M) {
    for (Buffer<Real>* row : {&kappa, &lift, &dead})
      std::fill_n(row->reserve(M + kMostLanes), M + kMostLanes, Real(0));
    std::fill_n(in_double.get(), M, Coupling{});
  }
  void set(int64_t m, const Coupling& coupling) {
    in_double.get()[m] = coupling;
    kappa.get()[m] = static_cast<Real>(coupling.kappa);
    lift.get()[m] = static_cast<Real>(coupling.lift);
    dead.get()[m] = !coupling.feature_live;
  }
  const Coupling& at(int64_t m) const { return in_double.get()[m]; }
};

// Consecutive groups of a solution and the right side.
template <typename Real>
class UniformGroups {
 public:
  explicit UniformGroups(const ProxBackwardArgs<Real>& args)
      : a(args), forward{a.T, a.M, a.C, a.x, nullptr, a.penalty, nullptr}, all(forward) {}

  SafeSquares<Real> squares;  // ||x||^2
  Real product[kGroups];      // <x, b>

  const Levels<Real>& levels() const { return all.levels; }

  // Calls body(index, groups) for the groups [begin, end), a few at a time.
  template <typename F>
  void for_each(int64_t begin, int64_t end, F body) {
    all.for_each(begin, end, body);
  }

  void measure(int64_t index, int64_t groups) {
    const Real *x = a.x + index * a.C, *b = a.grad + index * a.C;
    fetch(x, groups * a.C), fetch(b, groups * a.C);
    squares.take(x, groups, all.layout, false);
    inner_products(x, b, groups, all.layout, room.reserve(groups * a.C), product);
    int64_t beyond = 0;
#pragma omp simd reduction(+ : beyond)
    for (int64_t k = 0; k < groups; ++k) beyond += !std::isfinite(product[k]);
    for (int64_t k = 0; k < groups && beyond > 0; ++k)
      if (!std::isfinite(product[k])) squares.take_out(k);
  }

  // Every gradient of the measured groups, the first of which is that of feature m of `couplings`;
  // <x, y> of each is added to `x_y`, unless that is null.
  void write(int64_t index, int64_t groups, const Couplings<Real>& couplings, int64_t m,
             double* x_y) {
    load_factors(groups, couplings, m);
    Real* y = a.grad_v ? a.grad_v + index * a.C : solution.reserve(groups * a.C);
    all.levels.entries ? combine<true>(index, groups, y) : combine<false>(index, groups, y);
    if (wants_along(a)) write_along(index, groups, y, x_y);
    squares.for_each_irregular(groups, [&](int64_t k) {
      const int64_t offset = (index + k) * a.C;
      const double along = write_irregular(a, offset, all.levels, k, couplings.at(m + k));
      if (x_y) x_y[k] += along;
    });
  }

 private:
  const ProxBackwardArgs<Real>& a;
  ProxArgs<Real> forward;
  Groups<Real> all;
  Buffer<Real> room, solution;
  Real alpha[kGroups], beta[kGroups];

  void load_factors(int64_t groups, const Couplings<Real>& couplings, int64_t m) {
    using Vector = Lanes<Real>;
    const Levels<Real>& at = all.levels;
    const Vector zero{}, one = zero + 1;
    for (int64_t k = 0; k < groups; k += Simd<Real>::kLanes) {
      const Vector group = lanes_at(at.group + k), lift = lanes_at(couplings.lift.get() + m + k);
      const Vector square = lanes_at(squares.square + k), norm2 = square > zero ? square : one;
      const Vector d = one + lanes_at(at.ridge + k) + lanes_at(couplings.kappa.get() + m + k);
      Vector norm = norm2;
      take_root(norm);
      const Vector bend = square > zero ? group / norm : zero;
      const Vector turn = bend * (lanes_at(product + k) + lift * norm2) / (d * norm2);
      const Vector held = square > zero ? zero : group + lanes_at(couplings.dead.get() + m + k);
      const Vector scale = held == zero ? one / (d + bend) : zero;
      lanes_at(alpha + k) = scale;
      lanes_at(beta + k) = square > zero ? scale * (lift + turn) : zero;
    }
  }

  // y = alpha b + beta x, 0 off the support: inside a group that moves, an entry that is 0 moves
  // unless the l1 level or the bound holds it there.
  template <bool entries>
  void combine(int64_t index, int64_t groups, Real* y) const {
    const Real *x = a.x + index * a.C, *b = a.grad + index * a.C;
    const auto solve = [this, x](const auto& of_entries, const auto& beside, auto& u) {
      auto scale = u, turn = u, entry = u, low = u;
      const std::decay_t<decltype(u)> zero{};
      of_entries(alpha, scale), of_entries(beta, turn), beside(x, entry);
      u = scale == zero ? zero : scale * u + turn * entry;
      if constexpr (entries) {
        of_entries(all.levels.low, low);
        u = (entry == zero) & (low != zero) ? zero : u;
      }
    };
    map_entries(b, groups, all.layout, solve, y);
  }

  void write_along(int64_t index, int64_t groups, const Real* y, double* x_y) {
    const Real* square = squares.square;
    const auto along = [&](int64_t k) { return alpha[k] * product[k] + beta[k] * square[k]; };
    const auto write = [&](Real* out, double scale, auto value) {
      const Real by = static_cast<Real>(-scale);
#pragma omp simd
      for (int64_t k = 0; k < (out ? groups : 0); ++k) out[index + k] = by * value(k);
    };
    write(a.grad_ridge, a.penalty.ridge.scale, along);
    write(a.grad_group, a.penalty.group.scale,
          [&](int64_t k) { return square[k] > 0 ? along(k) / std::sqrt(square[k]) : Real(0); });
    for (int64_t k = 0; k < (x_y ? groups : 0); ++k)
      x_y[k] += squares.irregular(k) ? 0.0 : static_cast<double>(along(k));
    if (!a.grad_l1) return;
    Real *signs = room.get(), sign[kGroups];
    const Real* x = a.x + index * a.C;
#pragma omp simd
    for (int64_t i = 0; i < groups * a.C; ++i) signs[i] = signed_like(x[i], Real(1));
    inner_products(signs, y, groups, all.layout, signs, sign);
    write(a.grad_l1, a.penalty.l1.scale, [&](int64_t k) { return sign[k]; });
  }
};

// Groups [begin, end) without the shared level.
template <typename Real>
void uniform_backward_groups(const ProxBackwardArgs<Real>& a, int64_t begin, int64_t end) {
  UniformGroups<Real> all(a);
  const Couplings<Real> none(kGroups);
  all.for_each(begin, end, [&](int64_t i, int64_t groups) {
    all.measure(i, groups);
    all.write(i, groups, none, 0, nullptr);
  });
}

// The features that the shared level couples: two passes over the arrays, with a pass over two
// numbers of each group between them. Sums over tasks are those of blocks.
template <typename Real>
class UniformFeatures {
 public:
  UniformFeatures(const ProxBackwardArgs<Real>& args, ParallelFor run)
      : a(args), run(run), blocks(a.T, a.M * a.C) {}

  void backward() {
    measure();
    const Real* kappa = couplings.kappa.get();
    if (std::any_of(kappa, kappa + a.M, [](Real k) { return k > 0; })) project();
    write();
  }

 private:
  const ProxBackwardArgs<Real>& a;
  ParallelFor run;
  TaskBlocks blocks;
  Buffer<Real> square{a.T * a.M}, product{a.T * a.M};  // of groups; -1 where irregular
  Couplings<Real> couplings{a.M};
  Buffer<double> theta{a.M};
  Buffer<double> sums{blocks.count * a.M}, others{blocks.count * a.M};

  // Calls body(groups, sums, others, index, count, m) for consecutive groups of a task, of which m
  // is the first feature and the sums of a block are those from m on, which start at 0.
  template <typename F>
  void over(F body, bool backwards = false) {
    blocks.for_each(
        run,
        [&](int64_t b, int64_t begin, int64_t end) {
          UniformGroups<Real> all(a);
          double *one = sums.get() + b * a.M, *other = others.get() + b * a.M;
          std::fill_n(one, a.M, 0.0), std::fill_n(other, a.M, 0.0);
          for (int64_t first = begin * a.M; first < end * a.M; first += a.M)
            all.for_each(first, first + a.M, [&](int64_t i, int64_t groups) {
              body(all, one + i - first, other + i - first, i, groups, i - first);
            });
        },
        backwards);
  }
  double total(const Buffer<double>& of_blocks, int64_t m) const {
    double sum = 0;
    for (int64_t b = 0; b < blocks.count; ++b) sum += of_blocks.get()[b * a.M + m];
    return sum;
  }

  // theta = ||x_m||, kappa = shared / theta
  void measure() {
    over([&](auto& all, double* theta2, double*, int64_t index, int64_t groups, int64_t) {
      all.measure(index, groups);
      Real *squares = square.get() + index, *products = product.get() + index;
#pragma omp simd
      for (int64_t k = 0; k < groups; ++k) {
        squares[k] = all.squares.square[k], products[k] = all.product[k];
        theta2[k] += all.squares.irregular(k) ? 0.0 : static_cast<double>(squares[k]);
      }
      all.squares.for_each_irregular(groups, [&](int64_t k) {
        squares[k] = -1, theta2[k] += sum_of_squares(a.x + (index + k) * a.C, a.C);
      });
    });
    for (int64_t m = 0; m < a.M; ++m) {
      const double norm = theta.get()[m] = std::sqrt(total(sums, m));
      const double shared = at(a.penalty.shared, 0, m);
      couplings.set(m, {norm > 0 ? shared / norm : 0.0, 0, norm > 0 || shared == 0});
    }
  }

  // What each feature's rank-one term needs, theta and theta^2 times that of `feature_sums`.
  void project() {
    over([&](auto& all, double* projection, double* denominator, int64_t index, int64_t groups,
             int64_t m) {
      const Levels<Real>& at = all.levels();
      const Real *squares = square.get() + index, *products = product.get() + index;
      const Real* kappa = couplings.kappa.get() + m;
#pragma omp simd
      for (int64_t k = 0; k < groups; ++k) {
        const bool some = squares[k] > 0;
        const double s = some ? static_cast<double>(squares[k]) : 1.0, d = 1.0 + at.ridge[k];
        const double bend = at.group[k] / std::sqrt(s), shifted = d + kappa[k];
        const double share = (1 + bend / shifted) / (shifted + bend);
        projection[k] += some ? share * products[k] : 0.0;
        denominator[k] += some ? share * s * d : 0.0;
      }
      for (int64_t k = 0; k < groups; ++k)
        if (squares[k] < 0 && kappa[k] > 0)
          add_irregular(at, index, k, m, projection[k], denominator[k]);
    });
    for (int64_t m = 0; m < a.M; ++m) {
      const double denominator = total(others, m);
      Coupling coupling = couplings.at(m);
      coupling.lift = denominator > 0 ? coupling.kappa * total(sums, m) / denominator : 0;
      couplings.set(m, coupling);
    }
  }

  void add_irregular(const Levels<Real>& at, int64_t index, int64_t k, int64_t m,
                     double& projection, double& denominator) const {
    const int64_t offset = (index + k) * a.C;
    const double norm = theta.get()[m + k];
    const SolvedGroup<Real> s = solved_at(a, offset, at, k, couplings.at(m + k));
    const FeatureSums sums = feature_sums(s, a.grad + offset, norm);
    projection += norm * sums.projection, denominator += norm * norm * sums.denominator;
  }

  void write() {
    over(
        [&](auto& all, double* x_y, double*, int64_t index, int64_t groups, int64_t m) {
          all.measure(index, groups);
          all.write(index, groups, couplings, m, x_y);
        },
        true);
    for (int64_t m = 0; m < a.M && a.grad_shared; ++m) {
      const double norm = theta.get()[m], along = norm > 0 ? total(sums, m) / norm : 0.0;
      a.grad_shared[m] = static_cast<Real>(-a.penalty.shared.scale * along);
    }
  }
};

SPARSEDIS_END
