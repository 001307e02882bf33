// Eight numbers as one vector, whatever the registers of the instruction set.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>

#include "dense.h"

SPARSEDIS_BEGIN

template <typename Real>
struct Eight {
  using Index = std::conditional_t<sizeof(Real) == 4, int32_t, int64_t>;
  typedef Real Vector
      __attribute__((vector_size(8 * sizeof(Real)), aligned(alignof(Real)), may_alias));
  typedef Index Mask __attribute__((vector_size(8 * sizeof(Real))));

  static const Vector& at(const Real* x) { return *reinterpret_cast<const Vector*>(x); }
  static Vector& at(Real* x) { return *reinterpret_cast<Vector*>(x); }

  // x where the mask is -1, 0 where it is 0.
  static void keep(const Mask& mask, Vector& x) {
    x = reinterpret_cast<Vector>(reinterpret_cast<Mask>(x) & mask);
  }

  // x[index[i]]
  static void pick(const Mask& index, const Vector& x, Vector& out) {
#ifdef __clang__
    for (int i = 0; i < 8; ++i) out[i] = x[index[i]];
#else
    out = __builtin_shuffle(x, index);
#endif
  }

  // Lane j of x in all lanes.
  template <int j>
  static void spread(const Vector& x, Vector& out) {
    out = SPARSEDIS_SHUFFLE(Mask, x, x, j, j, j, j, j, j, j, j);
  }

  // sums[k] = the sum of x[k], for eight rows at once. Halves of vectors are shuffled alike, from
  // either source as one instruction can.
  static void sum_rows(const Vector* x, Vector& sums) {
    Vector pairs[4], fours[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Vector &a = x[2 * i], &b = x[2 * i + 1];
      pairs[i] = SPARSEDIS_SHUFFLE(Mask, a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
                 SPARSEDIS_SHUFFLE(Mask, a, b, 1, 3, 9, 11, 5, 7, 13, 15);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const Vector &a = pairs[2 * i], &b = pairs[2 * i + 1];
      fours[i] = SPARSEDIS_SHUFFLE(Mask, a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
                 SPARSEDIS_SHUFFLE(Mask, a, b, 1, 3, 9, 11, 5, 7, 13, 15);
    }
    sums = SPARSEDIS_SHUFFLE(Mask, fours[0], fours[1], 0, 1, 2, 3, 8, 9, 10, 11) +
           SPARSEDIS_SHUFFLE(Mask, fours[0], fours[1], 4, 5, 6, 7, 12, 13, 14, 15);
  }

  // Eight rows become eight columns.
  static void transpose(Vector* x) {
    Vector pairs[8], fours[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      pairs[i] = SPARSEDIS_SHUFFLE(Mask, x[i], x[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
      pairs[i + 1] = SPARSEDIS_SHUFFLE(Mask, x[i], x[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Vector &a = pairs[i / 2 * 4 + i % 2], &b = pairs[i / 2 * 4 + i % 2 + 2];
      fours[2 * i] = SPARSEDIS_SHUFFLE(Mask, a, b, 0, 1, 8, 9, 4, 5, 12, 13);
      fours[2 * i + 1] = SPARSEDIS_SHUFFLE(Mask, a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      x[i] = SPARSEDIS_SHUFFLE(Mask, fours[i], fours[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
      x[i + 4] = SPARSEDIS_SHUFFLE(Mask, fours[i], fours[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
  }
};

// u with the sign of w, or 0 where w has none: numbers, or vectors that a register holds.
template <typename Number>
inline Number signed_like(const Number& w, const Number& u) {
  const Number zero{};
  return w > zero ? u : (w < zero ? -u : zero);
}

template <typename Mask>
inline bool any_lane(const Mask& mask) {
  std::decay_t<decltype(mask[0])> some = 0;
#pragma omp simd reduction(| : some)
  for (size_t i = 0; i < sizeof(Mask) / sizeof(some); ++i) some |= mask[i];
  return some != 0;
}

// The roots of all entries.
template <typename Vector>
inline void take_root(Vector& x) {
  using Real = std::decay_t<decltype(x[0])>;
  Real* roots = reinterpret_cast<Real*>(&x);
#pragma omp simd
  for (size_t i = 0; i < sizeof(Vector) / sizeof(Real); ++i) roots[i] = std::sqrt(roots[i]);
}

// |x|, by its bits: a comparison would take three instructions.
template <typename Vector>
inline void absolute(Vector& x) {
  using Index = std::conditional_t<sizeof(x[0]) == 4, int32_t, int64_t>;
  typedef Index Bits __attribute__((vector_size(sizeof(Vector))));
  x = reinterpret_cast<Vector>(reinterpret_cast<Bits>(x) & std::numeric_limits<Index>::max());
}

// x less its part within [low, high]: ST(x, high) where low = -high, or what is positive of it
// where low is -infinity. NaN stays NaN.
template <typename Vector>
inline void shrink(Vector& x, const Vector& low, const Vector& high) {
  const Vector above = x < low ? low : x;
  x -= above > high ? high : above;
}

SPARSEDIS_END
