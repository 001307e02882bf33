// Symmetric positive definite systems of several tasks at once, one in each lane of the vectors; or
// one system, and right sides of several tasks.
//
// A small system leaves much of a vector empty and waits for its own pivots; side by side they do
// not. A lane sees the same operations wherever its task stands and whatever the others are.
//
// What is an array of a task is an array of vectors here; strides are in vectors.
#pragma once

#include "lane_vectors.h"

SPARSEDIS_BEGIN

#if defined(__AVX512F__)
constexpr int kLaneRows = 5;  // of a tile, whose sums stay in registers
#else
constexpr int kLaneRows = 3;
#endif

constexpr int64_t whole_tiles(int64_t n) { return (n + kLaneRows - 1) / kLaneRows * kLaneRows; }

// to[j * stride] = value j < count of every task, where values(t, j) is the vector of task t from j
// on.
template <typename Real, typename F>
inline void interleave(F values, int64_t count, Lanes<Real>* to, int64_t stride) {
  constexpr int64_t lanes = Simd<Real>::kLanes;
  for (int64_t first = 0; first < count; first += lanes) {
    Lanes<Real> x[lanes];
    for (int64_t t = 0; t < lanes; ++t) x[t] = values(t, first);
    transpose_lanes<Real>(x);
    for (int64_t j = 0; j < lanes && first + j < count; ++j) to[(first + j) * stride] = x[j];
  }
}

// Back: row(t) is where the values of task t go, and zeros after them, to the end of a vector.
template <typename Real, typename F>
inline void deinterleave(const Lanes<Real>* from, int64_t stride, int64_t count, F row) {
  constexpr int64_t lanes = Simd<Real>::kLanes;
  for (int64_t first = 0; first < count; first += lanes) {
    Lanes<Real> x[lanes] = {};
    for (int64_t j = 0; j < lanes && first + j < count; ++j) x[j] = from[(first + j) * stride];
    transpose_lanes<Real>(x);
    for (int64_t t = 0; t < lanes; ++t) *reinterpret_cast<Lanes<Real>*>(row(t) + first) = x[t];
  }
}

// A block of sums in registers: some rows, and columns that are rows' partners or right sides.
template <int columns, typename Sum>
struct LaneTile {
  Lanes<Sum> v[kLaneRows][columns];

  void clear() {
    for (auto& row : v)
      for (auto& sum : row) sum = Lanes<Sum>{};
  }
  void load(const Lanes<Sum>* from, int64_t row, int64_t column) {
    for (int r = 0; r < kLaneRows; ++r)
      for (int c = 0; c < columns; ++c) v[r][c] = from[r * row + c * column];
  }
  void store(Lanes<Sum>* to, int64_t row) const {
    for (int r = 0; r < kLaneRows; ++r)
      for (int c = 0; c < columns; ++c) to[r * row + c] = v[r][c];
  }
  // Where a vector of another type is as long as several of these: to what belongs to the part.
  void store_part(Sum* to, int64_t row, int64_t lanes) const {
    for (int r = 0; r < kLaneRows; ++r)
      for (int c = 0; c < columns; ++c)
        *reinterpret_cast<Lanes<Sum>*>(to + (r * row + c) * lanes) = v[r][c];
  }
  void add(const LaneTile& other) {
    for (int r = 0; r < kLaneRows; ++r)
      for (int c = 0; c < columns; ++c) v[r][c] += other.v[r][c];
  }
  void take(const LaneTile& other) {
    for (int r = 0; r < kLaneRows; ++r)
      for (int c = 0; c < columns; ++c) v[r][c] -= other.v[r][c];
  }

  // v[r][c] += x[r * row] y[c], of vectors of `Value` the part from value `from` on.
  template <typename Value>
  void add_product(const Lanes<Value>* x, int64_t row, const Lanes<Value>* y, int64_t from = 0) {
    add_products<Value>([=](int r) { return part<Value>(x + r * row, from); }, y, from);
  }
  // The same for x that all tasks share.
  template <typename Value>
  void add_product(const Value* x, int64_t row, const Lanes<Value>* y, int64_t from = 0) {
    add_products<Value>([=](int r) { return static_cast<Sum>(x[r * row]); }, y, from);
  }

 private:
  template <typename Value>
  static Lanes<Sum> part(const Lanes<Value>* of, int64_t from) {
    return load_vector<Sum>(reinterpret_cast<const Value*>(of) + from);
  }
  template <typename Value, typename F>
  void add_products(F left, const Lanes<Value>* y, int64_t from) {
    Lanes<Sum> right[columns];
    for (int c = 0; c < columns; ++c) right[c] = part<Value>(y + c, from);
    for (int r = 0; r < kLaneRows; ++r) {
      const auto factor = left(r);
      for (int c = 0; c < columns; ++c) v[r][c] += factor * right[c];
    }
  }
};

// A block on the diagonal of a factor U, and how it solves.
template <typename Real, bool shared>
struct LanePivot {
  using Entry = typename LaneEntry<Real, shared>::Type;
  Entry inverse[kLaneRows];  // of its diagonal
  Entry U[kLaneRows][kLaneRows];

  // Of what is left of every task's K there. Where that is not positive definite, NaN or
  // infinities.
  void factor(const LaneTile<kLaneRows, Real>& left) {
    for (int r = 0; r < kLaneRows; ++r) {
      Lanes<Real> pivot = left.v[r][r];
      for (int q = 0; q < r; ++q) pivot -= U[q][r] * U[q][r];
      take_root(pivot);
      inverse[r] = 1 / pivot;
      for (int c = r + 1; c < kLaneRows; ++c) {
        Lanes<Real> value = left.v[r][c];
        for (int q = 0; q < r; ++q) value -= U[q][r] * U[q][c];
        U[r][c] = value * inverse[r];
      }
    }
  }

  // x <- U^-T x
  template <int columns>
  void forward(LaneTile<columns, Real>& x) const {
    for (int r = 0; r < kLaneRows; ++r)
      for (int c = 0; c < columns; ++c) {
        for (int q = 0; q < r; ++q) x.v[r][c] -= U[q][r] * x.v[q][c];
        x.v[r][c] *= inverse[r];
      }
  }
  // x <- U^-1 x
  template <int columns>
  void backward(LaneTile<columns, Real>& x) const {
    for (int r = kLaneRows - 1; r >= 0; --r)
      for (int c = 0; c < columns; ++c) {
        for (int q = r + 1; q < kLaneRows; ++q) x.v[r][c] -= U[r][q] * x.v[q][c];
        x.v[r][c] *= inverse[r];
      }
  }
};

// The matrices of as many systems as a vector has lanes, of N unknowns, or one that is `shared`.
// `ld` is N in whole tiles; unknowns past N have a diagonal of one.
template <typename Real, bool shared>
struct LaneMatrix {
  int64_t N, ld;
  LaneBuffer<Real, shared> K;  // (ld, ld): on and left of the diagonal's tiles; right of them U
  LaneBuffer<Real, shared> pivots;  // (ld / kLaneRows) LanePivot

  void shape(int64_t unknowns) {
    N = unknowns, ld = whole_tiles(N);
    K.reserve(ld * ld), pivots.reserve(ld * (kLaneRows + 1));
  }
  LanePivot<Real, shared>& pivot(int64_t i) const {
    return reinterpret_cast<LanePivot<Real, shared>*>(pivots.get())[i / kLaneRows];
  }
};

// C right sides of each, zeros past N, and what solves for them.
template <typename Real>
struct LaneSides {
  int64_t ld, C;
  LaneBuffer<Real> rhs, x, e;  // (ld, C)
  Buffer<double> product;      // (ld, C, lanes): K x

  void shape(int64_t unknowns, int64_t outputs) {
    ld = unknowns, C = outputs;
    for (LaneBuffer<Real>* side : {&rhs, &x, &e}) side->reserve(ld * C);
    product.reserve(size());
  }
  int64_t size() const { return ld * C * Simd<Real>::kLanes; }
};

// Calls body(first, count) for five right sides at a time, then for two, then for the last.
template <typename F>
inline void for_each_sides(int64_t C, F body) {
  int64_t c = 0;
  for (; C - c >= 5; c += 5) body(c, std::integral_constant<int, 5>());
  for (; C - c >= 2; c += 2) body(c, std::integral_constant<int, 2>());
  if (c < C) body(c, std::integral_constant<int, 1>());
}

// K = X'X for X (count, ld), or K + X'X, unless these are the `first` rows.
template <typename Real>
inline void gram_lanes(const Lanes<Real>* X, int64_t count, bool first,
                       LaneMatrix<Real, false>& s) {
  for (int64_t a = 0; a < s.ld; a += kLaneRows)
    for (int64_t b = 0; b <= a; b += kLaneRows) {
      Lanes<Real>* K = s.K.get() + a * s.ld + b;
      LaneTile<kLaneRows, Real> sum, before;
      sum.clear();
      for (int64_t k = 0; k < count; ++k)
        sum.template add_product<Real>(X + k * s.ld + a, 1, X + k * s.ld + b);
      if (!first) {
        before.load(K, s.ld, 1);
        sum.add(before);
      }
      sum.store(K, s.ld);
    }
}

template <typename Real>
inline Lanes<Real> largest_diagonal(const LaneMatrix<Real, false>& s) {
  Lanes<Real> largest{};
  for (int64_t i = 0; i < s.N; ++i) {
    const Lanes<Real> value = s.K.get()[i * (s.ld + 1)];
    largest = value > largest ? value : largest;
  }
  return largest;
}

// K = U'U
template <typename Real>
inline void factor_lanes(LaneMatrix<Real, false>& s) {
  Lanes<Real>* K = s.K.get();
  const int64_t ld = s.ld;
  const auto left = [=](int64_t i, int64_t j) {
    LaneTile<kLaneRows, Real> tile, taken;
    taken.clear();
    for (int64_t q = 0; q < i; ++q)
      taken.template add_product<Real>(K + q * ld + i, 1, K + q * ld + j);
    tile.load(K + j * ld + i, 1, ld);
    tile.take(taken);
    return tile;
  };
  for (int64_t i = 0; i < ld; i += kLaneRows) {
    LanePivot<Real, false>& pivot = s.pivot(i);
    pivot.factor(left(i, i));
    for (int64_t j = i + kLaneRows; j < ld; j += kLaneRows) {
      LaneTile<kLaneRows, Real> tile = left(i, j);
      pivot.forward(tile);
      tile.store(K + i * ld + j, ld);
    }
  }
}

// Of one over the pivots, the largest.
template <typename Real>
inline Lanes<Real> largest_inverse(const LaneMatrix<Real, false>& s) {
  Lanes<Real> largest{};
  for (int64_t i = 0; i < s.N; ++i) {
    const Lanes<Real> value = s.pivot(i).inverse[i % kLaneRows];
    largest = value > largest ? value : largest;
  }
  return largest;
}

// e <- K^-1 e
template <typename Real, bool shared>
inline void solve_lanes(const LaneMatrix<Real, shared>& s, LaneSides<Real>& sides) {
  const auto* K = s.K.get();
  const int64_t ld = s.ld, C = sides.C;
  for_each_sides(C, [&](int64_t first, auto count) {
    using Tile = LaneTile<decltype(count)::value, Real>;
    Lanes<Real>* e = sides.e.get() + first;
    // Rows i.. less what U's rows or columns take from them, for unknowns [begin, end).
    const auto left = [=](int64_t i, int64_t begin, int64_t end, int64_t row, int64_t step) {
      Tile tile, taken;
      taken.clear();
      for (int64_t q = begin; q < end; ++q)
        taken.template add_product<Real>(K + i * row + q * step, row, e + q * C);
      tile.load(e + i * C, C, 1);
      tile.take(taken);
      return tile;
    };
    for (int64_t i = 0; i < ld; i += kLaneRows) {
      Tile tile = left(i, 0, i, 1, ld);
      s.pivot(i).forward(tile);
      tile.store(e + i * C, C);
    }
    for (int64_t i = ld - kLaneRows; i >= 0; i -= kLaneRows) {
      Tile tile = left(i, i + kLaneRows, ld, ld, 1);
      s.pivot(i).backward(tile);
      tile.store(e + i * C, C);
    }
  });
}

// product (ld, C) = K x for x (ld, C), summed in its own type.
template <typename Sum, typename Real, bool shared>
inline void multiply_lanes(const LaneMatrix<Real, shared>& s, const Lanes<Real>* x, int64_t C,
                           Sum* product) {
  constexpr int64_t lanes = Simd<Real>::kLanes, part = Simd<Sum>::kLanes;
  const auto* K = s.K.get();
  const int64_t ld = s.ld;
  for_each_sides(C, [&](int64_t first, auto count) {
    LaneTile<decltype(count)::value, Sum> sum;
    for (int64_t i = 0; i < ld; i += kLaneRows)
      for (int64_t from = 0; from < lanes; from += part) {
        sum.clear();
        for (int64_t j = 0; j < i + kLaneRows; ++j)
          sum.template add_product<Real>(K + i * ld + j, ld, x + j * C + first, from);
        for (int64_t j = i + kLaneRows; j < ld; ++j)
          sum.template add_product<Real>(K + j * ld + i, 1, x + j * C + first, from);
        sum.store_part(product + (i * C + first) * lanes + from, C, lanes);
      }
  });
}

// product (rows, C) = X Y, summed in its own type: row i of X is at i * row, its entries `step`
// apart, of every task or shared, and rows are whole tiles.
template <typename Real, typename Entry, typename Sum>
inline void multiply_rows(const Entry* X, int64_t row, int64_t step, int64_t rows, int64_t count,
                          const Lanes<Real>* Y, int64_t C, Sum* product) {
  constexpr int64_t lanes = Simd<Real>::kLanes, part = Simd<Sum>::kLanes;
  for_each_sides(C, [&](int64_t first, auto outputs) {
    LaneTile<decltype(outputs)::value, Sum> sum;
    for (int64_t i = 0; i < rows; i += kLaneRows)
      for (int64_t from = 0; from < lanes; from += part) {
        sum.clear();
        for (int64_t k = 0; k < count; ++k)
          sum.template add_product<Real>(X + i * row + k * step, row, Y + k * C + first, from);
        sum.store_part(product + (i * C + first) * lanes + from, C, lanes);
      }
  });
}

// What is asked of the systems, and what came of them.
template <typename Real>
struct LaneReport {
  double target[Simd<Real>::kLanes], reached[Simd<Real>::kLanes];
  int64_t steps[Simd<Real>::kLanes];
};

// As `solve_system`, for all lanes of a matrix that is factored: x solves to gap(e) <= target,
// where `gap` adds what a residual e leaves to every lane's number. A lane that is done does not
// move any more.
template <typename Real, bool shared, typename Gap>
inline void solve_system_lanes(const LaneMatrix<Real, shared>& matrix, LaneSides<Real>& s,
                               int64_t refinements, Gap gap, LaneReport<Real>& report) {
  constexpr int64_t lanes = Simd<Real>::kLanes;
  LaneMask<Real> moves;
  for (int64_t t = 0; t < lanes; ++t)
    moves[t] = -1, report.reached[t] = std::numeric_limits<double>::infinity();
  std::fill_n(s.x.values(), s.size(), Real(0));
  std::copy_n(s.rhs.values(), s.size(), s.e.values());
  for (int64_t step = 1; step <= refinements && any_lane(moves); ++step) {
    solve_lanes(matrix, s);
    for (int64_t i = 0; i < s.ld * s.C; ++i) {
      const Lanes<Real> moved = s.x.get()[i] + s.e.get()[i];
      s.x.get()[i] = moves ? moved : s.x.get()[i];
    }
    multiply_lanes(matrix, s.x.get(), s.C, s.product.get());
#pragma omp simd
    for (int64_t i = 0; i < s.size(); ++i)
      s.e.values()[i] = static_cast<Real>(s.rhs.values()[i] - s.product.get()[i]);
    double now[lanes] = {};
    gap(s.e.values(), now);
    for (int64_t t = 0; t < lanes; ++t) {
      if (!moves[t]) continue;
      const bool done = now[t] <= report.target[t] || !(now[t] < report.reached[t] / 4);
      report.reached[t] = now[t], report.steps[t] = step;
      moves[t] = done ? 0 : -1;
    }
  }
}

SPARSEDIS_END
