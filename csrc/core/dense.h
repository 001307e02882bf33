// Dense linear algebra of one task: products, Gram matrices, a Cholesky factor. Row-major.
#pragma once

#include <algorithm>

#include "buffer.h"
#include "threshold.h"

SPARSEDIS_BEGIN

#if defined(__AVX512F__)
constexpr int64_t kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
#endif

template <typename Real>
struct Simd {
  typedef Real Vector __attribute__((vector_size(kVectorBytes), aligned(alignof(Real)), may_alias));
  static constexpr int64_t kLanes = kVectorBytes / sizeof(Real);
  static constexpr int64_t kTile = 2 * kLanes;  // columns of a Gram tile
};

// Rows are padded with zeros to whole tiles.
template <typename Real>
constexpr int64_t padded(int64_t n) {
  constexpr int64_t tile = Simd<Real>::kTile;
  return (n + tile - 1) / tile * tile;
}

template <typename Sum, typename A, typename B>
inline Sum dot(const A* a, const B* b, int64_t n) {
  Sum sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += static_cast<Sum>(a[i]) * static_cast<Sum>(b[i]);
  return sum;
}

template <typename X, typename Y>
inline void axpy(Y alpha, const X* x, Y* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] += alpha * static_cast<Y>(x[i]);
}

// G[a:a+4, b:b+tile] = Z[:, a:a+4]' Z[:, b:b+tile], summed in blocks of rows so that float32 sums
// over many samples keep their accuracy.
template <typename Real>
inline void gram_tile(const Real* Z, int64_t n, int64_t ld, int64_t a, int64_t b, Real* G,
                      int64_t ldg) {
  using Vector = typename Simd<Real>::Vector;
  constexpr int64_t lanes = Simd<Real>::kLanes, block = 256;
  for (int64_t i0 = 0; i0 < std::max<int64_t>(n, 1); i0 += block) {
    Vector sum[4][2] = {};
    for (int64_t i = i0; i < std::min(n, i0 + block); ++i) {
      const Real* row = Z + i * ld;
      const Vector left = *reinterpret_cast<const Vector*>(row + b);
      const Vector right = *reinterpret_cast<const Vector*>(row + b + lanes);
      for (int r = 0; r < 4; ++r) {
        sum[r][0] += row[a + r] * left;
        sum[r][1] += row[a + r] * right;
      }
    }
    for (int r = 0; r < 4; ++r) {
      Vector* out = reinterpret_cast<Vector*>(G + (a + r) * ldg + b);
      out[0] = i0 == 0 ? sum[r][0] : out[0] + sum[r][0];
      Vector* next = reinterpret_cast<Vector*>(G + (a + r) * ldg + b + lanes);
      next[0] = i0 == 0 ? sum[r][1] : next[0] + sum[r][1];
    }
  }
}

// Rows [begin, end) of G = Z'Z against columns [0, end), and their mirror. `ld` and `ldg` are whole
// tiles, columns past `end` hold zeros, and G has room for padded(end) rows.
template <typename Real>
inline void gram_columns(const Real* Z, int64_t n, int64_t ld, int64_t begin, int64_t end, Real* G,
                         int64_t ldg) {
  constexpr int64_t tile = Simd<Real>::kTile;
  for (int64_t a = begin / 4 * 4; a < end; a += 4)
    for (int64_t b = 0; b < a + 4; b += tile) gram_tile(Z, n, ld, a, b, G, ldg);
  for (int64_t a = begin; a < end; ++a)
    for (int64_t b = 0; b < a; ++b) G[b * ldg + a] = G[a * ldg + b];
}

// K = A A' (lower triangle), A of shape (n, ld).
template <typename Real>
inline void gram_rows(const Real* A, int64_t n, int64_t ld, Real* K, int64_t ldk) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j) K[i * ldk + j] = dot<Real>(A + i * ld, A + j * ld, ld);
}

// In place lower Cholesky factor; false where the matrix is not positive definite.
template <typename Real>
inline bool cholesky(Real* L, int64_t n, int64_t ld) {
  for (int64_t i = 0; i < n; ++i) {
    Real* row = L + i * ld;
    for (int64_t j = 0; j < i; ++j) {
      const Real* other = L + j * ld;
      row[j] = (row[j] - dot<Real>(row, other, j)) / other[j];
    }
    const Real pivot = row[i] - dot<Real>(row, row, i);
    if (!(pivot > 0)) return false;
    row[i] = std::sqrt(pivot);
  }
  return true;
}

// x <- (L L')^-1 x for one contiguous right side.
template <typename Real>
inline void cholesky_solve(const Real* L, int64_t n, int64_t ld, Real* x) {
  for (int64_t i = 0; i < n; ++i) x[i] = (x[i] - dot<Real>(L + i * ld, x, i)) / L[i * ld + i];
  for (int64_t i = n - 1; i >= 0; --i) {
    x[i] /= L[i * ld + i];
    axpy(-x[i], L + i * ld, x, i);
  }
}

// out[0:rows, b:b+tile] = L[0:rows, 0:K] R[0:K, b:b+tile], summed in registers.
template <int rows, typename Real>
inline void multiply_tile(const Real* L, int64_t ldl, int64_t K, const Real* R, int64_t ldr,
                          int64_t b, Real* out, int64_t ldo) {
  using Vector = typename Simd<Real>::Vector;
  constexpr int64_t lanes = Simd<Real>::kLanes;
  Vector sum[rows][2] = {};
  for (int64_t k = 0; k < K; ++k) {
    const Vector left = *reinterpret_cast<const Vector*>(R + k * ldr + b);
    const Vector right = *reinterpret_cast<const Vector*>(R + k * ldr + b + lanes);
    for (int r = 0; r < rows; ++r) {
      sum[r][0] += L[r * ldl + k] * left;
      sum[r][1] += L[r * ldl + k] * right;
    }
  }
  for (int r = 0; r < rows; ++r) {
    *reinterpret_cast<Vector*>(out + r * ldo + b) = sum[r][0];
    *reinterpret_cast<Vector*>(out + r * ldo + b + lanes) = sum[r][1];
  }
}

// out = L R for a flat L (C, K; ldl) and R (K, columns; ldr); `columns` are whole tiles.
template <typename Real>
inline void multiply(const Real* L, int64_t C, int64_t ldl, int64_t K, const Real* R, int64_t ldr,
                     int64_t columns, Real* out, int64_t ldo) {
  for (int64_t b = 0; b < columns; b += Simd<Real>::kTile) {
    int64_t c = 0;
    for (; c + 4 <= C; c += 4) multiply_tile<4>(L + c * ldl, ldl, K, R, ldr, b, out + c * ldo, ldo);
    for (; c < C; ++c) multiply_tile<1>(L + c * ldl, ldl, K, R, ldr, b, out + c * ldo, ldo);
  }
}

// g[c, :] = sum_i R[i, c] A[i, :], g of shape (C, ldg) in the type `Sum`.
template <typename Sum, typename Real, typename Residual>
inline void correlate(const Real* A, const Residual* R, int64_t n, int64_t ld, int64_t C, Sum* g,
                      int64_t ldg) {
  for (int64_t c = 0; c < C; ++c) std::fill_n(g + c * ldg, ld, Sum(0));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t c = 0; c < C; ++c)
      axpy(static_cast<Sum>(R[i * C + c]), A + i * ld, g + c * ldg, ld);
}

// R = B - A W', W of shape (C, ldw), sums in the type `Sum`.
template <typename Sum, typename Real>
inline void residual(const Real* A, const Real* B, const Real* W, int64_t n, int64_t ld, int64_t C,
                     int64_t ldw, Sum* R) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t c = 0; c < C; ++c)
      R[i * C + c] = static_cast<Sum>(B[i * C + c]) - dot<Sum>(A + i * ld, W + c * ldw, ld);
}

SPARSEDIS_END
