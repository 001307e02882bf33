// Consecutive groups of C entries by vectors: sums over each of them, and their entries mapped by
// numbers of their group.
//
// Short groups go by eights, or by as many as a vector has lanes where their length is a common one
// (short_groups.h). Long ones go one by one. Terms are summed in `Real` over few entries and in
// double over many.
#pragma once

#include "../core/buffer.h"
#include "../core/dense.h"
#include "../core/eight.h"
#include "short_groups.h"

SPARSEDIS_BEGIN

constexpr int64_t kLongGroup = 128;  // entries from which a group is taken alone
constexpr int64_t kMostLanes = 16;   // of any vector, with a group in each
constexpr int64_t kGroups = 256;     // taken at a time at most, where they are short,
constexpr int64_t kEntries = 1024;   // and about how many entries they have

// Squares beyond these, of norms or of their ratio to a level, may leave the range of `Real`.
template <typename Real>
constexpr Real kLeastSquare = sizeof(Real) == 4 ? Real(1e-26) : Real(1e-240);
template <typename Real>
constexpr Real kMostSquare = sizeof(Real) == 4 ? Real(1e26) : Real(1e240);

// Whether a square, or which of them, is within.
template <typename Real, typename Squares>
auto in_range(const Squares& square) {
  return (square > kLeastSquare<Real>)&(square < kMostSquare<Real>);
}

// Where the entries of eight groups of C lie among the C vectors that hold them.
template <typename Real>
struct Layout {
  using Mask = typename Eight<Real>::Mask;
  int64_t C;           // entries of a group
  Mask rest{};         // lanes of a vector with those of its entries that fill none of their own
  Buffer<Mask> group;  // of every lane of all C vectors

  explicit Layout(int64_t C) : C(C), group(C < kLongGroup ? C : 0) {
    if (C >= kLongGroup) return;
    for (int64_t i = 0; i < C % 8; ++i) rest[i] = -1;
    auto* of_entry = reinterpret_cast<typename Eight<Real>::Index*>(group.get());
    for (int64_t k = 0; k < 8; ++k)
      std::fill_n(of_entry + k * C, C, static_cast<typename Eight<Real>::Index>(k));
  }
};

// The vector that starts with entry `first` of `count`, of which the last ones start earlier and
// are turned, so that an entry's lane does not depend on where its group lies.
template <typename Real>
void load_from(const Real* x, int64_t first, int64_t count, typename Eight<Real>::Vector& out) {
  out = Eight<Real>::at(x + std::min(first, count - 8));
  if (first <= count - 8) return;
  typename Eight<Real>::Mask lane = {0, 1, 2, 3, 4, 5, 6, 7};
  lane = (lane + static_cast<typename Eight<Real>::Index>(first - (count - 8))) & 7;
  Eight<Real>::pick(lane, typename Eight<Real>::Vector(out), out);
}

// Calls body(k, v) with `lanes` groups of C at a time, of which k is the first; what is left is
// followed by zeros, so that a group's sum does not depend on how many there are.
template <int64_t lanes, int64_t most, typename Real, typename F>
void for_each_lanes(const Real* v, int64_t groups, int64_t C, F body) {
  int64_t k = 0;
  for (; k + lanes <= groups; k += lanes) body(k, v + k * C);
  if (k == groups) return;
  Real rest[lanes * most];
  std::fill(std::copy(v + k * C, v + groups * C, rest), rest + lanes * C, Real(0));
  body(k, rest);
}

// Sums over the entries of eight groups of C at once, each entry as `term(of_entries, x)` leaves
// it. For any array with a number for each group, `of_entries(array, out)` gives those of
// the entries in x. Where C is a constant, the loops are unrolled.
template <typename Real, typename Length, typename Term>
void eight_sums(const Real* v, int64_t k0, Length C, const Layout<Real>& layout, Term term,
                Real* out) {
  using Vector = typename Eight<Real>::Vector;
  Vector sums[8], total;
#pragma GCC unroll 8
  for (int64_t k = 0; k < 8; ++k) {
    const Real* row = v + k * C;
    const auto of_entries = [=](const Real* of_groups, Vector& out) {
      out = Vector{} + of_groups[k0 + k];
    };
    Vector x;
    load_from(v, k * C + C / 8 * 8, 8 * C, x);
    // Masked last, it is no product that may or may not be fused with the sum.
    term(of_entries, x);
    Eight<Real>::keep(layout.rest, x);
    sums[k] = x;
    for (int64_t c = 0; c < C / 8 * 8; c += 8) {
      x = Eight<Real>::at(row + c);
      term(of_entries, x);
      sums[k] += x;
    }
  }
  Eight<Real>::sum_rows(sums, total);
  Eight<Real>::at(out) = total;
}

// The same of as many groups as a vector has lanes.
template <int C, typename Real, typename Term>
void short_sums(const Real* v, int64_t k0, Term term, Real* out) {
  using Short = ShortGroups<Real, C>;
  using Vector = typename Short::Vector;
  Vector x[C];
  Short::for_each_vector([&](auto i) {
    const auto of_entries = [=](const Real* of_groups, Vector& out) {
      Short::template spread<i>(Short::at(of_groups + k0), out);
    };
    x[i] = Short::at(v + i * Short::kLanes);
    term(of_entries, x[i]);
  });
  Short::sum(x, Short::at(out));
}

// The same of any number of groups.
template <typename Real, typename Term>
void group_sums(const Real* v, int64_t groups, const Layout<Real>& layout, Term term, Real* out) {
  const auto shorts = [=](auto C) __attribute__((flatten)) {
    for_each_lanes<Simd<Real>::kLanes, C>(
        v, groups, C, [=](int64_t k, const Real* some) { short_sums<C>(some, k, term, out + k); });
  };
  if (with_constant<Real>(layout.C, shorts)) return;
  const auto eights = [&](auto C) __attribute__((flatten)) {
    for_each_lanes<8, kLongGroup>(v, groups, C, [&, C](int64_t k, const Real* some) {
      eight_sums(some, k, C, layout, term, out + k);
    });
  };
  switch (layout.C) {
    case 5:
      return eights(std::integral_constant<int64_t, 5>());
    case 8:
      return eights(std::integral_constant<int64_t, 8>());
    case 10:
      return eights(std::integral_constant<int64_t, 10>());
  }
  eights(layout.C);
}

template <typename Sum>
constexpr int64_t kSumLanes = 4 * Simd<Sum>::kLanes;
template <typename Sum>
constexpr int64_t kSumBlock = 32 * kSumLanes<Sum>;  // entries that are summed in `Sum`

// Adds the sums of N terms over [from, to), from a whole block on: in `Sum` over a block, in double
// over blocks. `term(c, q)` writes the N terms of entry c.
template <typename Sum, int N, typename F>
void add_blocks(int64_t from, int64_t to, double (&totals)[N], F term) {
  using Vector = typename Simd<Sum>::Vector;
  constexpr int64_t lanes = kSumLanes<Sum>, block = kSumBlock<Sum>;
  for (int64_t begin = from; begin < to; begin += block) {
    const int64_t end = std::min(to, begin + block);
    Sum sums[N][lanes];
    for (int k = 0; k < N; ++k)
      for (int64_t i = 0; i < lanes; i += Simd<Sum>::kLanes)
        *reinterpret_cast<Vector*>(sums[k] + i) = Vector{};
    // The terms of entries c.. but for the first `skipped` ones.
    const auto add = [&](int64_t c, int64_t i, int64_t skipped) {
      Sum q[N];
      term(c + i, q);
#pragma GCC unroll 3
      for (int k = 0; k < N; ++k) sums[k][i] += i < skipped ? 0 : q[k];
    };
    int64_t c = begin;
    for (; c + lanes <= end; c += lanes)
#pragma omp simd
      for (int64_t i = 0; i < lanes; ++i) add(c, i, 0);
    if (c < end && end >= lanes) {
      const int64_t skipped = lanes - (end - c);
#pragma omp simd
      for (int64_t i = 0; i < lanes; ++i) add(c - skipped, i, skipped);
    } else {
      for (int64_t i = 0; i < end - c; ++i) add(c, i, 0);
    }
    for (int k = 0; k < N; ++k) {
#pragma GCC unroll 8
      for (int64_t half = lanes / 2; half > 0; half /= 2)
        for (int64_t i = 0; i < half; ++i) sums[k][i] += sums[k][i + half];
      totals[k] += sums[k][0];
    }
  }
}

// The sums over [0, C).
template <typename Sum, int N, typename F>
void sum_blocks(int64_t C, double (&totals)[N], F term) {
  std::fill_n(totals, N, 0.0);
  add_blocks<Sum>(0, C, totals, term);
}

// One sum of a long group.
template <typename Real, typename F>
Real long_sum(int64_t C, F term) {
  double sum[1];
  sum_blocks<Real>(C, sum, [term](int64_t c, Real(&q)[1]) { q[0] = term(c); });
  return static_cast<Real>(sum[0]);
}

// sum |w| of consecutive groups: 0 exactly where every entry is 0.
template <typename Real>
void magnitudes(const Real* w, int64_t groups, const Layout<Real>& layout, Real* out) {
  const int64_t C = layout.C;
  const auto magnitude = [](const auto&, auto& x) { absolute(x); };
  if (C < kLongGroup) return group_sums(w, groups, layout, magnitude, out);
  for (int64_t k = 0; k < groups; ++k) {
    const Real* row = w + k * C;
    out[k] = long_sum<Real>(C, [row](int64_t c) { return std::fabs(row[c]); });
  }
}

// ||w||^2 and, where it is wanted or a square says too little, sum |w| of consecutive groups.
template <typename Real>
struct SafeSquares {
  Real magnitude[kGroups], square[kGroups];
  int64_t odd;  // how many of them may leave the range of `Real`, though not all is 0

  void take(const Real* w, int64_t groups, const Layout<Real>& layout, bool magnitudes_wanted) {
    const int64_t C = layout.C;
    if (C < kLongGroup)
      group_sums(w, groups, layout, [](const auto&, auto& x) { x *= x; }, square);
    else
      for (int64_t k = 0; k < groups; ++k) {
        const Real* row = w + k * C;
        square[k] = long_sum<Real>(C, [row](int64_t c) { return row[c] * row[c]; });
      }
    int beyond = 0;
#pragma omp simd reduction(| : beyond)
    for (int64_t k = 0; k < groups; ++k) beyond |= !in_range<Real>(square[k]);
    if (magnitudes_wanted || beyond) magnitudes(w, groups, layout, magnitude);
    odd = 0;
    if (!beyond) return;
#pragma omp simd reduction(+ : odd)
    for (int64_t k = 0; k < groups; ++k) odd += !in_range<Real>(square[k]) & (magnitude[k] != 0);
  }
  // Calls body(k) for the groups whose squares may leave the range of `Real`, unless all are 0.
  template <typename F>
  void for_each_irregular(int64_t groups, F body) const {
    for (int64_t k = 0; k < groups && odd > 0; ++k)
      if (irregular(k)) body(k);
  }
  // Makes one irregular.
  void take_out(int64_t k) {
    square[k] = std::numeric_limits<Real>::infinity(), magnitude[k] = 1, ++odd;
  }
  bool irregular(int64_t k) const {
    return odd > 0 && !in_range<Real>(square[k]) && magnitude[k] != 0;
  }
};

// <v, w> of consecutive groups, to which entries where v is 0 add nothing, whatever w is there;
// `room` is for as many entries.
template <typename Real>
void inner_products(const Real* v, const Real* w, int64_t groups, const Layout<Real>& layout,
                    Real* room, Real* out) {
  const int64_t C = layout.C;
  const auto multiply = [](const auto& x, const auto& u, auto& product) {
    const std::decay_t<decltype(x)> zero{};
    product = x != zero ? x * u : zero;
  };
  if (C < kLongGroup) {
    using E = Eight<Real>;
    int64_t i = 0;
    for (; i + 8 <= groups * C; i += 8) multiply(E::at(v + i), E::at(w + i), E::at(room + i));
    for (; i < groups * C; ++i) multiply(v[i], w[i], room[i]);
    return group_sums(room, groups, layout, [](const auto&, auto&) {}, out);
  }
  for (int64_t k = 0; k < groups; ++k) {
    const Real *left = v + k * C, *right = w + k * C;
    out[k] = long_sum<Real>(C, [=](int64_t c) {
      Real product;
      multiply(left[c], right[c], product);
      return product;
    });
  }
}

// out = body(of_entries, beside, w) for the entries of consecutive groups, a vector of them at a
// time, or one: `of_entries` is as that of `group_sums`, `beside(array, out)` gives the entries of
// another array that lie where those of w do. `out` may be w.
template <typename Real, typename F>
void map_entries(const Real* w, int64_t groups, const Layout<Real>& layout, F body, Real* out) {
  const int64_t C = layout.C;
  int64_t k = 0;
  const auto shorts = [&](auto length) __attribute__((flatten)) {
    using Short = ShortGroups<Real, length>;
    for (; k + Short::kLanes <= groups; k += Short::kLanes)
      Short::for_each_vector([&](auto i) {
        const int64_t first = k * length + i * Short::kLanes;
        const auto of_entries = [=](const Real* of_groups, typename Short::Vector& out) {
          Short::template spread<i>(Short::at(of_groups + k), out);
        };
        const auto beside = [first](const Real* other, typename Short::Vector& out) {
          out = Short::at(other + first);
        };
        typename Short::Vector u = Short::at(w + first);
        body(of_entries, beside, u);
        Short::at(out + first) = u;
      });
  };
  using E = Eight<Real>;
  if (C < kLongGroup && !with_constant<Real>(C, shorts))
    for (; k + 8 <= groups; k += 8)
      for (int64_t i = 0; i < C; ++i) {
        const auto& group = layout.group.get()[i];
        const auto of_entries = [&group, k](const Real* of_groups, auto& out) {
          E::pick(group, E::at(of_groups + k), out);
        };
        const int64_t first = k * C + 8 * i;
        const auto beside = [first](const Real* other, auto& out) { out = E::at(other + first); };
        typename E::Vector u = E::at(w + first);
        body(of_entries, beside, u);
        E::at(out + first) = u;
      }
  for (; k < groups; ++k) {
    const auto of_entries = [k](const Real* of_groups, auto& out) { out = of_groups[k]; };
#pragma omp simd
    for (int64_t c = k * C; c < (k + 1) * C; ++c) {
      const auto beside = [c](const Real* other, auto& out) { out = other[c]; };
      Real u = w[c];
      body(of_entries, beside, u);
      out[c] = u;
    }
  }
}

SPARSEDIS_END
