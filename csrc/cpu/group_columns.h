// As many consecutive groups as a vector has lanes, as columns: entry c of every group in vector c.
#pragma once

#include "../core/lane_vectors.h"
#include "short_groups.h"

SPARSEDIS_BEGIN

template <typename Real>
class GroupColumns {
 public:
  using Vector = Lanes<Real>;
  static constexpr int64_t kLanes = Simd<Real>::kLanes;

  explicit GroupColumns(int64_t C) : C_(C), rows_((C + 1) * kLanes) {}

  // The columns of `count` groups at x; lanes beyond them are filled.
  void take(const Real* x, int64_t count, Real filler, Vector* columns) const {
    const auto constant = [&](auto C) {
      using Short = ShortGroups<Real, C>;
      Vector groups[C];
      if (count < kLanes) x = copied(x, count, filler);
      for (int64_t i = 0; i < C; ++i) groups[i] = Short::at(x + i * kLanes);
      Short::take_columns(groups, columns);
    };
    if (with_constant<Real>(C_, constant)) return;
    if (count < kLanes || C_ < kLanes) x = copied(x, count, filler);
    for_each_block([&](int64_t c, int64_t width) {
      Vector block[kLanes];
      for (int64_t k = 0; k < kLanes; ++k) block[k] = lanes_at(x + k * C_ + c);
      transpose_lanes<Real>(block);
      for (int64_t i = 0; i < width; ++i) columns[c + i] = block[i];
    });
  }

  // Back.
  void put(const Vector* columns, int64_t count, Real* x) const {
    const auto constant = [&](auto C) {
      using Short = ShortGroups<Real, C>;
      Vector groups[C];
      Short::put_columns(columns, groups);
      if (count == kLanes)
        for (int64_t i = 0; i < C; ++i) Short::at(x + i * kLanes) = groups[i];
      else
        std::copy_n(reinterpret_cast<const Real*>(groups), count * C_, x);
    };
    if (with_constant<Real>(C_, constant)) return;
    const bool direct = count == kLanes && C_ >= kLanes;
    Real* rows = direct ? x : rows_.get();
    for_each_block([&](int64_t c, int64_t width) {
      Vector block[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) block[i] = columns[std::min(c + i, c + width - 1)];
      transpose_lanes<Real>(block);
      for (int64_t k = 0; k < kLanes; ++k) lanes_at(rows + k * C_ + c) = block[k];
    });
    if (!direct) std::copy_n(rows, count * C_, x);
  }

 private:
  int64_t C_;
  Buffer<Real> rows_;  // of a copy, with room for the end of the last one

  const Real* copied(const Real* x, int64_t count, Real filler) const {
    Real* rows = rows_.get();
    std::fill(std::copy_n(x, count * C_, rows), rows + C_ * kLanes, filler);
    return rows;
  }
  // Calls body(first, width) for square blocks of columns, of which the last may overlap. What a
  // narrow one has beyond its width is the start of the next group, which is written after it.
  template <typename F>
  void for_each_block(F body) const {
    if (C_ < kLanes) return body(0, C_);
    for (int64_t c = 0; c < C_; c += kLanes) body(std::min(c, C_ - kLanes), kLanes);
  }
};

SPARSEDIS_END
