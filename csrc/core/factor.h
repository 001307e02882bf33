// The Cholesky factor K = U'U of one task's matrices, U upper triangular, by blocks of rows.
//
// Matrices are (n, ld) with rows of whole tiles; of K the part right of the diagonal is read. Left
// of it a factor holds its transpose.
#pragma once

#include "dense.h"

SPARSEDIS_BEGIN

// A block on U's diagonal, and how it solves: rows of a tile stand for its unknowns.
template <int rows, typename Real>
struct Pivot {
  Real inverse[rows];  // of its diagonal
  Real U[rows][rows];

  // From the block of a factor.
  explicit Pivot(const Real* block, int64_t ld) {
    for (int r = 0; r < rows; ++r) {
      inverse[r] = 1 / block[r * ld + r];
      for (int s = r + 1; s < rows; ++s) U[r][s] = block[r * ld + s];
    }
  }
  Pivot() = default;

  // Factors a block of what is left of K; false where it is not positive definite.
  bool factor(const Real* block, int64_t ld) {
    for (int r = 0; r < rows; ++r) {
      Real pivot = block[r * ld + r];
      for (int q = 0; q < r; ++q) pivot -= U[q][r] * U[q][r];
      if (!(pivot > 0)) return false;
      inverse[r] = 1 / std::sqrt(pivot);
      for (int s = r + 1; s < rows; ++s) {
        Real value = block[r * ld + s];
        for (int q = 0; q < r; ++q) value -= U[q][r] * U[q][s];
        U[r][s] = value * inverse[r];
      }
    }
    return true;
  }

  // x <- U^-T x, for every column of x.
  template <typename Row>
  void forward(Row* x) const {
    for (int r = 0; r < rows; ++r) {
      for (int q = 0; q < r; ++q) x[r] -= U[q][r] * x[q];
      x[r] *= inverse[r];
    }
  }
  // x <- U^-1 x
  template <typename Row>
  void backward(Row* x) const {
    for (int r = rows - 1; r >= 0; --r) {
      for (int q = r + 1; q < rows; ++q) x[r] -= U[r][q] * x[q];
      x[r] *= inverse[r];
    }
  }
};

// Calls body(i, rows) for blocks of four rows and then single ones; stops where it returns false.
template <typename F>
inline bool for_each_block(int64_t n, F body) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    if (!body(i, std::integral_constant<int, 4>())) return false;
  for (; i < n; ++i)
    if (!body(i, std::integral_constant<int, 1>())) return false;
  return true;
}

// Rows i.. of `X`, columns b.., less what rows [first, i) of U take from them.
template <int rows, typename Real>
inline Tile<rows, Real> reduced(const Real* U, int64_t ld, int64_t first, int64_t i, const Real* X,
                                int64_t ldx, int64_t b) {
  Tile<rows, Real> tile, taken;
  tile.load(X + i * ldx + b, ldx);
  taken.clear();
  taken.accumulate(U + first * ld + i, ld, 1, X + first * ldx + b, ldx, i - first);
  tile.add(-1, taken);
  return tile;
}

template <int rows, typename Real>
inline void solve_tile(const Pivot<rows, Real>& pivot, Tile<rows, Real>& tile) {
  typename Tile<rows, Real>::Vector half[rows];
  for (int h = 0; h < 2; ++h) {
    for (int r = 0; r < rows; ++r) half[r] = tile.v[r][h];
    pivot.forward(half);
    for (int r = 0; r < rows; ++r) tile.v[r][h] = half[r];
  }
}

// K -> U in place; false where K is not positive definite.
template <typename Real>
inline bool cholesky(Real* U, int64_t n, int64_t ld) {
  constexpr int64_t width = Simd<Real>::kTile;
  const auto factor_rows = [=](int64_t i, auto count) {
    constexpr int rows = decltype(count)::value;
    const int64_t first = i / width * width;
    reduced<rows>(U, ld, 0, i, U, ld, first).store(U + i * ld + first, ld);
    Pivot<rows, Real> pivot;
    if (!pivot.factor(U + i * ld + i, ld)) return false;
    for (int64_t b = first; b < n; b += width) {
      Tile<rows, Real> tile;
      if (b == first)
        tile.load(U + i * ld + b, ld);
      else
        tile = reduced<rows>(U, ld, 0, i, U, ld, b);
      solve_tile(pivot, tile);
      tile.store(U + i * ld + b, ld);
    }
    return true;
  };
  if (!for_each_block(n, factor_rows)) return false;
  return for_each_block(n, [=](int64_t i, auto count) {
    constexpr int rows = decltype(count)::value;
    for (int64_t r = i; r < i + rows; ++r)
      for (int64_t s = r + 1; s < i + rows; ++s) U[s * ld + r] = U[r * ld + s];
    const int64_t after = i + rows;
    transpose(U + i * ld + after, ld, rows, n - after, U + after * ld + i, ld);
    return true;
  });
}

// Takes the solved unknowns [i, i + rows) from `solved` (C, ldx) to the columns [begin, end) of X:
// X -= their rows of U times them. The first and last tile may reach beyond these columns.
template <int rows, typename Real>
inline void substitute(const Real* U, int64_t ld, int64_t i, const Real* solved, int64_t C,
                       int64_t ldx, int64_t begin, int64_t end, Real* X) {
  constexpr int64_t width = Simd<Real>::kTile;
  for_each_rows(C, [=](int64_t c, auto outputs) {
    Tile<decltype(outputs)::value, Real> tile, taken;
    for (int64_t b = begin / width * width; b < end; b += width) {
      taken.clear();
      for (int r = 0; r < rows; ++r)
        taken.add_product(solved + c * ldx + i + r, ldx, U + (i + r) * ld + b);
      tile.load(X + c * ldx + b, ldx);
      tile.add(-1, taken);
      tile.store(X + c * ldx + b, ldx);
    }
  });
}

// X <- K^-1 X for C right sides, the rows of X (C, ldx) in whole tiles; what they hold past n is
// lost. `room` is as large.
template <typename Real>
inline void cholesky_solve(const Real* U, int64_t n, int64_t ld, Real* X, int64_t C, int64_t ldx,
                           Real* room) {
  for_each_block(n, [=](int64_t i, auto count) {
    constexpr int rows = decltype(count)::value;
    const Pivot<rows, Real> pivot(U + i * ld + i, ld);
    for (int64_t c = 0; c < C; ++c) {
      std::copy_n(X + c * ldx + i, rows, room + c * ldx + i);
      pivot.forward(room + c * ldx + i);
    }
    substitute<rows>(U, ld, i, room, C, ldx, i + rows, n, X);
    return true;
  });
  const auto backward = [=](int64_t i, auto count) {
    constexpr int rows = decltype(count)::value;
    const Pivot<rows, Real> pivot(U + i * ld + i, ld);
    for (int64_t c = 0; c < C; ++c) {
      std::copy_n(room + c * ldx + i, rows, X + c * ldx + i);
      pivot.backward(X + c * ldx + i);
    }
    substitute<rows>(U, ld, i, X, C, ldx, 0, i, room);
  };
  for (int64_t i = n; i % 4 != 0;) backward(--i, std::integral_constant<int, 1>());
  for (int64_t i = n / 4 * 4; i > 0;) backward(i -= 4, std::integral_constant<int, 4>());
}

// K^-1, symmetric, from the factor: V'V for V = U^-T, whose room is (n, ld). `inverse` has room for
// padded(n) rows.
template <typename Real>
inline void invert(const Real* U, int64_t n, int64_t ld, Real* V, Real* inverse) {
  constexpr int64_t tile = Simd<Real>::kTile;
  std::fill_n(V, n * ld, Real(0));
  for (int64_t i = 0; i < n; ++i) V[i * ld + i] = 1;
  for_each_block(n, [=](int64_t i, auto count) {
    constexpr int rows = decltype(count)::value;
    const Pivot<rows, Real> pivot(U + i * ld + i, ld);
    for (int64_t b = 0; b < i + rows; b += tile) {
      Tile<rows, Real> part = reduced<rows>(U, ld, b, i, V, ld, b);
      solve_tile(pivot, part);
      part.store(V + i * ld + b, ld);
    }
    return true;
  });
  for (int64_t a = 0; a < n; a += kGramRows)
    for (int64_t b = 0; b < a + kGramRows; b += tile)
      for (int64_t i = a; i < n; i += kGramBlock)
        gram_tile<2>(V + i * ld, std::min(kGramBlock, n - i), ld, a, b, i == a, inverse, ld);
  mirror(0, n, inverse, ld);
}

SPARSEDIS_END
