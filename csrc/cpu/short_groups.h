// Consecutive groups of a few entries C, as many as a vector has lanes, in C vectors. C is a
// constant, so that the compiler knows which lane holds an entry of which group.
#pragma once

#include <utility>

#include "../core/eight.h"

SPARSEDIS_BEGIN

template <typename Real, int C>
struct ShortGroups {
  using Vector = typename Simd<Real>::Vector;
  typedef typename Eight<Real>::Index Mask __attribute__((vector_size(kVectorBytes)));
  static constexpr int kLanes = Simd<Real>::kLanes;
  using Lanes = std::make_integer_sequence<int, kLanes>;

  static const Vector& at(const Real* x) { return *reinterpret_cast<const Vector*>(x); }
  static Vector& at(Real* x) { return *reinterpret_cast<Vector*>(x); }

  // Calls body(i) for every vector i, a constant.
  template <typename F>
  static void for_each_vector(F body) {
    call(body, std::make_integer_sequence<int, C>());
  }

  // What each entry's group has, for the entries of vector i.
  template <int i>
  static void spread(const Vector& of_groups, Vector& out) {
    spread<i>(of_groups, out, Lanes());
  }

  // Entry c of every group into columns[stride * c], from the vectors that hold the groups.
  static void take_columns(const Vector* x, Vector* columns, int64_t stride = 1) {
    if constexpr (C > 1 && C % 2 == 0) {
      Vector even[C / 2], odd[C / 2];
      for (int i = 0; i < C / 2; ++i) part_pairs(x[2 * i], x[2 * i + 1], even[i], odd[i], Lanes());
      ShortGroups<Real, C / 2>::take_columns(even, columns, 2 * stride);
      ShortGroups<Real, C / 2>::take_columns(odd, columns + stride, 2 * stride);
    } else {
      for_each_vector([&](auto c) { take_column<c>(x, columns[stride * c]); });
    }
  }
  // Back.
  static void put_columns(const Vector* columns, Vector* x, int64_t stride = 1) {
    if constexpr (C > 1 && C % 2 == 0) {
      Vector even[C / 2], odd[C / 2];
      ShortGroups<Real, C / 2>::put_columns(columns, even, 2 * stride);
      ShortGroups<Real, C / 2>::put_columns(columns + stride, odd, 2 * stride);
      for (int i = 0; i < C / 2; ++i) join_pairs(even[i], odd[i], x[2 * i], x[2 * i + 1], Lanes());
    } else {
      for_each_vector([&](auto i) { put_vector<i>(columns, stride, x[i]); });
    }
  }

  // The sum of each group; x is overwritten.
  static void sum(Vector* x, Vector& sums) {
    if constexpr (C == 1) {
      sums = x[0];
    } else if constexpr (C % 2 == 0) {
      Vector even, odd;
      for (int i = 0; i < C / 2; ++i) {
        part_pairs(x[2 * i], x[2 * i + 1], even, odd, Lanes());
        x[i] = even + odd;
      }
      ShortGroups<Real, C / 2>::sum(x, sums);
    } else {
      Vector column;
      take_column<0>(x, sums);
      for_each_vector([&](auto c) {
        if constexpr (c > 0) take_column<c>(x, column), sums += column;
      });
    }
  }

 private:
  template <typename F, int... i>
  static void call(F body, std::integer_sequence<int, i...>) {
    (body(std::integral_constant<int, i>()), ...);
  }
  template <int i, int... k>
  static void spread(const Vector& of_groups, Vector& out, std::integer_sequence<int, k...>) {
    out = SPARSEDIS_SHUFFLE(Mask, of_groups, of_groups, ((i * kLanes + k) / C)...);
  }
  template <int... k>
  static void part_pairs(const Vector& a, const Vector& b, Vector& even, Vector& odd,
                         std::integer_sequence<int, k...>) {
    even = SPARSEDIS_SHUFFLE(Mask, a, b, (2 * k)...);
    odd = SPARSEDIS_SHUFFLE(Mask, a, b, (2 * k + 1)...);
  }
  template <int... k>
  static void join_pairs(const Vector& even, const Vector& odd, Vector& a, Vector& b,
                         std::integer_sequence<int, k...>) {
    a = SPARSEDIS_SHUFFLE(Mask, even, odd, (k / 2 + k % 2 * kLanes)...);
    b = SPARSEDIS_SHUFFLE(Mask, even, odd, ((k + kLanes) / 2 + k % 2 * kLanes)...);
  }
  // The c-th entry of each group, from the first two vectors at once and from each that follows.
  template <int c>
  static void take_column(const Vector* x, Vector& column) {
    if constexpr (C == 1) column = x[0];
    for_each_vector([&](auto i) {
      if constexpr (i > 0) take<c, i>(i == 1 ? x[0] : column, x[i], column, Lanes());
    });
  }
  template <int c, int i, int... k>
  static void take(const Vector& before, const Vector& x, Vector& column,
                   std::integer_sequence<int, k...>) {
    column = SPARSEDIS_SHUFFLE(Mask, before, x, source<c, i>(k)...);
  }
  // Where the entry of group k is, among what has been taken before and vector i.
  template <int c, int i>
  static constexpr int source(int k) {
    const int from = (k * C + c) / kLanes, lane = (k * C + c) % kLanes;
    if (from == i) return kLanes + lane;
    return i == 1 && from == 0 ? lane : k;
  }
  // Vector i, from the first two columns at once and from each that follows.
  template <int i>
  static void put_vector(const Vector* columns, int64_t stride, Vector& x) {
    if constexpr (C == 1) x = columns[0];
    for_each_vector([&](auto c) {
      if constexpr (c > 0) put<i, c>(c == 1 ? columns[0] : x, columns[stride * c], x, Lanes());
    });
  }
  template <int i, int c, int... k>
  static void put(const Vector& before, const Vector& column, Vector& x,
                  std::integer_sequence<int, k...>) {
    x = SPARSEDIS_SHUFFLE(Mask, before, column, destination<i, c>(k)...);
  }
  // Where entry k of vector i is, among what has been put before and column c.
  template <int i, int c>
  static constexpr int destination(int k) {
    const int group = (i * kLanes + k) / C, of = (i * kLanes + k) % C;
    if (of == c) return kLanes + group;
    return c == 1 && of == 0 ? group : k;
  }
};

// Calls body(C as a constant) where C is one of those that kernels are compiled for. The entries of
// longer groups lie in more vectors, which takes more shuffles than it saves unless these are wide.
template <typename Real, typename F>
bool with_constant(int64_t C, F body) {
  switch (C) {
    case 1:
      return body(std::integral_constant<int, 1>()), true;
    case 2:
      return body(std::integral_constant<int, 2>()), true;
    case 3:
      return body(std::integral_constant<int, 3>()), true;
    case 4:
      return body(std::integral_constant<int, 4>()), true;
  }
  if constexpr (Simd<Real>::kLanes >= 16) switch (C) {
      case 5:
        return body(std::integral_constant<int, 5>()), true;
      case 8:
        return body(std::integral_constant<int, 8>()), true;
      case 10:
        return body(std::integral_constant<int, 10>()), true;
    }
  return false;
}

SPARSEDIS_END
