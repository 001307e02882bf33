// Vectors as long as the instruction set has them, with something else in each lane.
#pragma once

#include <utility>

#include "eight.h"

SPARSEDIS_BEGIN

template <typename Real>
using Lanes = typename Simd<Real>::Vector;

// For every lane -1 or 0.
template <typename Real>
struct LaneBits {
  using Index = std::conditional_t<sizeof(Real) == 4, int32_t, int64_t>;
  typedef Index Mask __attribute__((vector_size(sizeof(Lanes<Real>))));
};
template <typename Real>
using LaneMask = typename LaneBits<Real>::Mask;

// What stands for a number of every task: a vector of them, or where all share it, itself.
template <typename Real, bool shared>
struct LaneEntry {
  typedef Lanes<Real> Type;
};
template <typename Real>
struct LaneEntry<Real, true> {
  typedef Real Type;
};

// Memory for such entries.
template <typename Real, bool shared = false>
class LaneBuffer {
 public:
  using Entry = typename LaneEntry<Real, shared>::Type;

  Entry* reserve(int64_t size) {
    memory_.reserve(size * (sizeof(Entry) / sizeof(Real)));
    return get();
  }
  Entry* get() const { return reinterpret_cast<Entry*>(memory_.get()); }
  Real* values() const { return memory_.get(); }

 private:
  Buffer<Real> memory_;
};

// The vector that starts at x.
template <typename Real>
inline const Lanes<Real>& lanes_at(const Real* x) {
  return *reinterpret_cast<const Lanes<Real>*>(x);
}
template <typename Real>
inline Lanes<Real>& lanes_at(Real* x) {
  return *reinterpret_cast<Lanes<Real>*>(x);
}

// The lanes with this bit of two rows trade places.
template <typename Real, int bit, int... lane>
inline void exchange_lanes(Lanes<Real>& a, Lanes<Real>& b, std::integer_sequence<int, lane...>) {
  constexpr int lanes = sizeof...(lane);
  using Mask = LaneMask<Real>;
  const Lanes<Real> low =
      SPARSEDIS_SHUFFLE(Mask, a, b, (lane & bit ? lane - bit + lanes : lane)...);
  b = SPARSEDIS_SHUFFLE(Mask, a, b, (lane & bit ? lane + lanes : lane + bit)...);
  a = low;
}

// As many rows as a vector has lanes become as many columns.
template <typename Real, int bit = 1>
inline void transpose_lanes(Lanes<Real>* x) {
  constexpr int lanes = Simd<Real>::kLanes;
  if constexpr (bit < lanes) {
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i)
      if ((i & bit) == 0)
        exchange_lanes<Real, bit>(x[i], x[i + bit], std::make_integer_sequence<int, lanes>());
    transpose_lanes<Real, 2 * bit>(x);
  }
}

SPARSEDIS_END
