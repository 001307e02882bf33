// Dense linear algebra of one task: products, Gram matrices, a Cholesky factor. Row-major.
#pragma once

#include <algorithm>
#include <type_traits>

#include "buffer.h"
#include "threshold.h"

SPARSEDIS_BEGIN

#if defined(__AVX512F__)
constexpr int64_t kVectorBytes = 64;
constexpr int kGramRows = 8;  // of a tile: with 32 registers more loads are shared
#elif defined(__AVX__)
constexpr int64_t kVectorBytes = 32;
constexpr int kGramRows = 4;
#else
constexpr int64_t kVectorBytes = 16;
constexpr int kGramRows = 4;
#endif

template <typename Real>
struct Simd {
  typedef Real Vector __attribute__((vector_size(kVectorBytes), aligned(alignof(Real)), may_alias));
  static constexpr int64_t kLanes = kVectorBytes / sizeof(Real);
  static constexpr int64_t kTile = 2 * kLanes;  // columns of a Gram tile
};

// Rows are padded with zeros to whole tiles, and to whole blocks of the eight features that a pass
// moves on.
template <typename Real>
constexpr int64_t padded(int64_t n) {
  constexpr int64_t block = std::max<int64_t>(Simd<Real>::kTile, 8);
  return (n + block - 1) / block * block;
}

constexpr int64_t kLineBytes = 64;  // of the caches

// Whether the rows of a column, so far apart, meet in few of the cache's sets.
template <typename Real>
constexpr bool meets_in_few_sets(int64_t ld) {
  return ld * static_cast<int64_t>(sizeof(Real)) % (4 * kLineBytes) == 0;
}

// From one sample to the next: a line more than padded(n) where columns would meet in few sets, or
// where no room is left for the rows that a tile of lanes.h may have beyond n.
template <typename Real>
constexpr int64_t sample_stride(int64_t n) {
  const int64_t ld = padded<Real>(n);
  return meets_in_few_sets<Real>(ld) || ld - n < 4 ? ld + kLineBytes / sizeof(Real) : ld;
}

// From one row of a square matrix, whose mirror is written by columns, to the next: whole tiles.
template <typename Real>
constexpr int64_t matrix_stride(int64_t n) {
  const int64_t ld = padded<Real>(n);
  return meets_in_few_sets<Real>(ld) ? ld + Simd<Real>::kTile : ld;
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

// A vector of `Sum` from consecutive values of another type or the same.
template <typename Sum, typename Value>
inline typename Simd<Sum>::Vector load_vector(const Value* from) {
  if constexpr (sizeof(Value) == sizeof(Sum)) {
    return *reinterpret_cast<const typename Simd<Sum>::Vector*>(from);
  } else {  // lane by lane, of which GCC makes one conversion; of a vector's it makes two
    typename Simd<Sum>::Vector out{};
#pragma GCC unroll 8
    for (int i = 0; i < Simd<Sum>::kLanes; ++i) out[i] = static_cast<Sum>(from[i]);
    return out;
  }
}

// `rows` rows of two vectors, or of one, in registers.
template <int rows, typename Sum, int vectors = 2>
struct Tile {
  using Vector = typename Simd<Sum>::Vector;
  static constexpr int64_t lanes = Simd<Sum>::kLanes;
  Vector v[rows][vectors];

  void clear() {
    for (int r = 0; r < rows; ++r)
      for (int half = 0; half < vectors; ++half) v[r][half] = Vector{};
  }
  void load(const Sum* from, int64_t ld) {
    for (int r = 0; r < rows; ++r)
      for (int half = 0; half < vectors; ++half)
        v[r][half] = load_vector<Sum>(from + r * ld + half * lanes);
  }
  void store(Sum* to, int64_t ld) const {
    for (int r = 0; r < rows; ++r)
      for (int half = 0; half < vectors; ++half)
        *reinterpret_cast<Vector*>(to + r * ld + half * lanes) = v[r][half];
  }
  // Adds `scale` times another tile.
  void add(Sum scale, const Tile& other) {
    for (int r = 0; r < rows; ++r)
      for (int half = 0; half < vectors; ++half) v[r][half] += scale * other.v[r][half];
  }

  // Adds sum_k X[k, r] Y[k, :] to every row r: X is read at k * step + r * row, Y at k * ldy.
  template <typename X, typename Y>
  void accumulate(const X* x, int64_t step, int64_t row, const Y* y, int64_t ldy, int64_t count) {
    if constexpr (rows * vectors <= 5) {  // few sums: those of odd k run beside those of even k
      Tile odd;
      odd.clear();
      const int64_t pairs = count / 2;
      for (int64_t k = 0; k < pairs; ++k) {
        add_product(x + 2 * k * step, row, y + 2 * k * ldy);
        odd.add_product(x + (2 * k + 1) * step, row, y + (2 * k + 1) * ldy);
      }
      add(1, odd);
      x += 2 * pairs * step, y += 2 * pairs * ldy, count -= 2 * pairs;
    }
    for (int64_t k = 0; k < count; ++k) add_product(x + k * step, row, y + k * ldy);
  }

  template <typename X, typename Y>
  void add_product(const X* x, int64_t row, const Y* y) {
    Vector right[vectors];
    for (int half = 0; half < vectors; ++half) right[half] = load_vector<Sum>(y + half * lanes);
    for (int r = 0; r < rows; ++r) {
      const Sum factor = static_cast<Sum>(x[r * row]);
      for (int half = 0; half < vectors; ++half) v[r][half] += factor * right[half];
    }
  }
};

// Rows of a Gram matrix's factor that are summed before the next ones: so few that the columns of a
// tile stay in the first cache, whatever the stride, and that float32 sums keep their accuracy.
constexpr int64_t kGramBlock = 64;

// G[a:a+rows, b:b+width] = Z[:, a:a+rows]' Z[:, b:b+width] for kGramRows rows of G, columns of so
// many vectors, and up to kGramBlock rows of Z; added to what is there, unless these are the
// `first` rows of Z.
template <int vectors, typename Real>
inline void gram_tile(const Real* Z, int64_t n, int64_t ld, int64_t a, int64_t b, bool first,
                      Real* G, int64_t ldg) {
  Tile<kGramRows, Real, vectors> part, before;
  part.clear();
  part.accumulate(Z + a, ld, 1, Z + b, ld, n);
  if (!first) {
    before.load(G + a * ldg + b, ldg);
    part.add(1, before);
  }
  part.store(G + a * ldg + b, ldg);
}

// Rows [begin, end) of G left of the diagonal and on it, from up to kGramBlock rows of Z.
template <typename Real>
inline void gram_block(const Real* Z, int64_t n, int64_t ld, int64_t begin, int64_t end, bool first,
                       Real* G, int64_t ldg) {
  for (int64_t a = begin / kGramRows * kGramRows; a < end; a += kGramRows) {
    int64_t b = 0;
    for (; b + Simd<Real>::kLanes < a + kGramRows; b += Simd<Real>::kTile)
      gram_tile<2>(Z, n, ld, a, b, first, G, ldg);
    if (b < a + kGramRows) gram_tile<1>(Z, n, ld, a, b, first, G, ldg);
  }
}

#ifdef __clang__
#define SPARSEDIS_SHUFFLE(Mask, x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define SPARSEDIS_SHUFFLE(Mask, x, y, ...) __builtin_shuffle(x, y, Mask{__VA_ARGS__})
#endif

// Four by four values, transposed in registers and times `scale` of their column, if there is one.
template <typename Real>
inline void transpose_block(const Real* from, int64_t ldf, const Real* scale, Real* to,
                            int64_t ldt) {
  typedef Real Row
      __attribute__((vector_size(4 * sizeof(Real)), aligned(alignof(Real)), may_alias));
  Row rows[4];
  for (int r = 0; r < 4; ++r) {
    rows[r] = *reinterpret_cast<const Row*>(from + r * ldf);
    if (scale != nullptr) rows[r] *= *reinterpret_cast<const Row*>(scale);
  }
  using Index = std::conditional_t<sizeof(Real) == 4, int32_t, int64_t>;
  typedef Index Mask __attribute__((vector_size(4 * sizeof(Real))));
  const Row low[2] = {SPARSEDIS_SHUFFLE(Mask, rows[0], rows[1], 0, 4, 1, 5),
                      SPARSEDIS_SHUFFLE(Mask, rows[2], rows[3], 0, 4, 1, 5)};
  const Row high[2] = {SPARSEDIS_SHUFFLE(Mask, rows[0], rows[1], 2, 6, 3, 7),
                       SPARSEDIS_SHUFFLE(Mask, rows[2], rows[3], 2, 6, 3, 7)};
  const Row columns[4] = {SPARSEDIS_SHUFFLE(Mask, low[0], low[1], 0, 1, 4, 5),
                          SPARSEDIS_SHUFFLE(Mask, low[0], low[1], 2, 3, 6, 7),
                          SPARSEDIS_SHUFFLE(Mask, high[0], high[1], 0, 1, 4, 5),
                          SPARSEDIS_SHUFFLE(Mask, high[0], high[1], 2, 3, 6, 7)};
  for (int r = 0; r < 4; ++r) *reinterpret_cast<Row*>(to + r * ldt) = columns[r];
}

// to (columns, ldt) = the transpose of from (rows, ldf), of which `scale` may have a factor for
// every column.
template <typename Real>
inline void transpose(const Real* from, int64_t ldf, int64_t rows, int64_t columns, Real* to,
                      int64_t ldt, const Real* scale = nullptr) {
  const int64_t whole = columns / 4 * 4;
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4)
    for (int64_t j = 0; j < whole; j += 4)
      transpose_block(from + i * ldf + j, ldf, scale ? scale + j : nullptr, to + j * ldt + i, ldt);
  for (int64_t k = 0; k < rows; ++k)
    for (int64_t j = k < i ? whole : 0; j < columns; ++j)
      to[j * ldt + k] = from[k * ldf + j] * (scale ? scale[j] : Real(1));
}

// The part of a symmetric matrix right of its diagonal from the part left of it, from row `begin`.
template <typename Real>
inline void mirror(int64_t begin, int64_t end, Real* G, int64_t ldg) {
  for (int64_t a = begin; a < end; a += 4) {
    const int64_t rows = std::min<int64_t>(4, end - a);
    transpose(G + a * ldg, ldg, rows, a, G + a, ldg);
    for (int64_t k = a; k < a + rows; ++k)
      for (int64_t b = a; b < k; ++b) G[b * ldg + k] = G[k * ldg + b];
  }
}

// Rows [begin, end) of G = Z'Z against columns [0, end), and their mirror. `ld` and `ldg` are whole
// tiles, columns past `end` hold zeros, and G has room for padded(end) rows.
template <typename Real>
inline void gram_columns(const Real* Z, int64_t n, int64_t ld, int64_t begin, int64_t end, Real* G,
                         int64_t ldg) {
  for (int64_t i = 0; i < std::max<int64_t>(n, 1); i += kGramBlock)
    gram_block(Z + i * ld, std::min(kGramBlock, n - i), ld, begin, end, i == 0, G, ldg);
  mirror(begin, end, G, ldg);
}

// Calls body(c, rows) for blocks of four outputs or five, and for what is left.
template <typename F>
inline void for_each_rows(int64_t C, F body) {
  int64_t c = 0;
  for (; C - c > 5 || C - c == 4; c += 4) body(c, std::integral_constant<int, 4>());
  if (C - c == 5) body(c, std::integral_constant<int, 5>());
  if (C - c == 3) body(c, std::integral_constant<int, 3>());
  if (C - c == 2) body(c, std::integral_constant<int, 2>());
  if (C - c == 1) body(c, std::integral_constant<int, 1>());
}

// Calls body(b, vectors) for blocks of `columns`, which are taken to a whole vector: of as many
// vectors as their sums for `rows` rows leave registers, and of fewer at the end.
template <int rows, typename Sum, typename F>
inline void for_each_columns(int64_t columns, F body) {
  constexpr int64_t lanes = Simd<Sum>::kLanes;
  const int64_t vectors = (columns + lanes - 1) / lanes;
  int64_t k = 0;
  if constexpr (rows == 1)
    for (; vectors - k >= 8; k += 8) body(k * lanes, std::integral_constant<int, 8>());
  if constexpr (rows <= 2)
    for (; vectors - k >= 4; k += 4) body(k * lanes, std::integral_constant<int, 4>());
  for (; vectors - k >= 2; k += 2) body(k * lanes, std::integral_constant<int, 2>());
  if (k < vectors) body(k * lanes, std::integral_constant<int, 1>());
}

// out (C, ldo) = L R for L (C, K; ldl) and R (K, columns; ldr), in `Sum`. `columns` are taken to a
// whole vector, which rows of R and `out` have room for.
template <typename Sum, typename L, typename R>
inline void multiply(const L* l, int64_t C, int64_t ldl, int64_t K, const R* r, int64_t ldr,
                     int64_t columns, Sum* out, int64_t ldo) {
  for_each_rows(C, [=](int64_t c, auto rows) {
    constexpr int count = decltype(rows)::value;
    for_each_columns<count, Sum>(columns, [=](int64_t b, auto vectors) {
      Tile<count, Sum, decltype(vectors)::value> tile;
      tile.clear();
      tile.accumulate(l + c * ldl, 1, ldl, r + b, ldr, K);
      tile.store(out + c * ldo + b, ldo);
    });
  });
}

// R = B - (A W')' for A (n, ld), B and R (C, ldr), W (C, ldw), sums in the type `Sum`.
template <typename Sum, typename Real>
inline void residual(const Real* A, const Real* B, const Real* W, int64_t n, int64_t ld, int64_t C,
                     int64_t ldw, int64_t ldr, Sum* R) {
  for (int64_t c = 0; c < C; ++c) {
    std::fill_n(R + c * ldr, ldr, Sum(0));
    for (int64_t i = 0; i < n; ++i)
      R[c * ldr + i] = static_cast<Sum>(B[c * ldr + i]) - dot<Sum>(A + i * ld, W + c * ldw, ldw);
  }
}

SPARSEDIS_END
