// The Cholesky factor K = U'U of one task's matrices, U upper triangular, by blocks of rows.
//
// Matrices are (n, ld) with rows of whole tiles; of K the part right of the diagonal is read, and
// what a factor holds left of it has no meaning.
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
  return for_each_block(n, [=](int64_t i, auto count) {
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
  });
}

// x <- K^-1 x for one contiguous right side.
template <typename Real>
inline void cholesky_solve(const Real* U, int64_t n, int64_t ld, Real* x) {
  const auto forward = [=](int64_t i, auto count) {
    constexpr int rows = decltype(count)::value;
    Pivot<rows, Real>(U + i * ld + i, ld).forward(x + i);
    const Real* row = U + i * ld;
    Real head[rows];
    std::copy_n(x + i, rows, head);
#pragma omp simd
    for (int64_t j = i + rows; j < n; ++j) {
      Real sum = 0;
      for (int r = 0; r < rows; ++r) sum += row[r * ld + j] * head[r];
      x[j] -= sum;
    }
    return true;
  };
  for_each_block(n, forward);
  const auto backward = [=](int64_t i, auto count) {
    constexpr int rows = decltype(count)::value;
    const int64_t end = i + rows;
    for (int r = 0; r < rows; ++r) x[i + r] -= dot<Real>(U + (i + r) * ld + end, x + end, n - end);
    Pivot<rows, Real>(U + i * ld + i, ld).backward(x + i);
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
  for (int64_t a = 0; a < n; a += 4)
    for (int64_t b = 0; b < a + 4; b += tile) gram_tile(V + a * ld, n - a, ld, a, b, inverse, ld);
  mirror(0, n, inverse, ld);
}

SPARSEDIS_END
