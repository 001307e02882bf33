// The prox without a metric, where a group is only scaled: x = f ST(v, l1), with
// f = (1 - group / ||ST(v, l1)||)_+ / (1 + ridge), and one more factor for a feature that tasks
// share.
// Norms are summed in double where rounding may decide.
#pragma once

#include <array>

#include "group_vectors.h"
#include "parallel.h"

SPARSEDIS_BEGIN

constexpr int64_t kReadAhead = 2 * kEntries;  // by which entries are fetched early
constexpr int64_t kLongEntries = 4096;        // of long groups that are updated at a time

// A strength below this may be compared with norms whose squares vanish in `Real`.
template <typename Real>
constexpr Real kLeastStrength = sizeof(Real) == 4 ? Real(1e-15) : Real(1e-140);

// Relative distance between a norm and its level up to which rounding of the sum may decide.
template <typename Real>
constexpr Real kNear = sizeof(Real) == 4 ? Real(1e-5) : Real(0);

// A strength of consecutive groups, which lie in whole rows of features, then 0 to a whole vector.
template <typename Real>
void fill(const Strength<Real>& s, int64_t M, int64_t index, int64_t count, Real* out) {
  const Real scale = static_cast<Real>(s.scale);
  std::fill(out + count, out + (count + kMostLanes - 1) / kMostLanes * kMostLanes, Real(0));
  if (!s.data) return static_cast<void>(std::fill_n(out, count, scale));
  for (int64_t k = 0; k < count;) {
    const int64_t t = (index + k) / M, m = (index + k) % M, run = std::min(count - k, M - m);
    const Real* row = s.data + t * s.task_stride + m * s.feature_stride;
    if (s.feature_stride == 1)
      for (int64_t i = 0; i < run; ++i) out[k + i] = scale * row[i];
    else
      for (int64_t i = 0; i < run; ++i) out[k + i] = scale * row[i * s.feature_stride];
    k += run;
  }
}

// Strengths of consecutive groups.
template <typename Real>
struct Levels {
  Real l1[kGroups] = {}, low[kGroups] = {}, group[kGroups] = {}, ridge[kGroups] = {};
  Real rest[kGroups] = {};  // 1 / (1 + ridge), what the ridge leaves of a group
  bool same;                // everywhere
  bool entries, groups;     // thresholded by entries, by groups

  void load(const PenaltyArgs<Real>& p, int64_t M, int64_t C, int64_t index, int64_t count) {
    fill(p.l1, M, index, count, l1);
    fill(p.group, M, index, count, group);
    fill(p.ridge, M, index, count, ridge);
    using E = Eight<Real>;
    const typename E::Vector zero{}, lowest = zero - std::numeric_limits<Real>::infinity();
    typename E::Mask some{}, grouped{};
    for (int64_t k = 0; k < count; k += 8) {
      typename E::Vector &high = E::at(l1 + k), &level = E::at(group + k);
      if (C == 1) high += level, level = zero;  // an entry has both thresholds at once
      E::at(low + k) = p.nonneg ? lowest : -high;
      E::at(rest + k) = 1 / (1 + E::at(ridge + k));
      some |= high > zero, grouped |= level > zero;
    }
    entries = p.nonneg || any_lane(some), groups = any_lane(grouped);
  }
};

// ST(x, l1), by the strengths that `of_entries` takes for the entries in x.
template <typename Real, typename OfEntries, typename Vector>
void threshold(const Levels<Real>& at, const OfEntries& of_entries, Vector& x) {
  Vector low, high;
  of_entries(at.low, low), of_entries(at.l1, high);
  shrink(x, low, high);
}

// ST(x, high) or what is positive of it, of one number.
template <bool entries, typename Real>
Real shrunk(Real x, Real low, Real high) {
  const Real above = x < low ? low : x;
  return entries ? x - (above > high ? high : above) : x;
}

// Adds the squares of entries [from, to) of ST(v, l1), from a whole block on.
template <bool entries, typename Real>
void add_long_squares(const Real* v, int64_t from, int64_t to, Real low, Real high,
                      double (&total)[1]) {
  add_blocks<Real>(from, to, total, [=](int64_t c, Real(&q)[1]) {
    const Real u = shrunk<entries>(v[c], low, high);
    q[0] = u * u;
  });
}

// ||ST(v, l1)|| of one group in double, whatever the range of its squares.
template <bool entries, typename Real>
double careful_norm(const Real* v, int64_t C, Real low, Real high) {
  double most = 0, sum = 0;
  for (int64_t c = 0; c < C; ++c)
    most = std::max(most, std::fabs(static_cast<double>(shrunk<entries>(v[c], low, high))));
  const double scale = most > 0 && most <= std::numeric_limits<Real>::max() ? most : 1.0;
  for (int64_t c = 0; c < C; ++c) {
    const double u = shrunk<entries>(v[c], low, high) / scale;
    sum += u * u;
  }
  return scale * std::sqrt(sum);
}

// ||ST(v, l1)|| of consecutive groups.
template <bool entries, typename Real>
void norms(const Real* v, int64_t groups, const Levels<Real>& at, const Layout<Real>& layout,
           Real* norm) {
  const int64_t C = layout.C;
  if (C >= kLongGroup) {
    for (int64_t k = 0; k < groups; ++k) {
      double square[1] = {};
      add_long_squares<entries>(v + k * C, 0, C, at.low[k], at.l1[k], square);
      norm[k] = static_cast<Real>(std::sqrt(square[0]));
    }
    return;
  }
  const auto square = [&at](const auto& of_entries, auto& x) {
    if (entries) threshold(at, of_entries, x);
    x *= x;
  };
  group_sums(v, groups, layout, square, norm);
#pragma omp simd
  for (int64_t k = 0; k < groups; ++k) norm[k] = std::sqrt(norm[k]);
}

// x = factor ST(v, l1) of eight groups at once; x may be v.
template <bool entries, typename Real>
void scale_eight(const Real* v, const Levels<Real>& at, int64_t k0, const Layout<Real>& layout,
                 const Real* factor, Real* x) {
  using E = Eight<Real>;
  typename E::Vector low = E::at(at.low + k0), high = E::at(at.l1 + k0);
  for (int64_t i = 0; i < layout.C; ++i) {
    const typename E::Mask& group = layout.group.get()[i];
    typename E::Vector u = E::at(v + 8 * i), by;
    if (entries && !at.same) {
      E::pick(group, E::at(at.low + k0), low);
      E::pick(group, E::at(at.l1 + k0), high);
    }
    if (entries) shrink(u, low, high);
    E::pick(group, E::at(factor), by);
    E::at(x + 8 * i) = u * by;
  }
}

// The same of one group of C, or of so many entries of one; what comes `ahead` entries later is
// fetched.
template <bool entries, typename Real>
void scale_one(const Real* v, int64_t C, Real low, Real high, Real factor, Real* x,
               int64_t ahead = kLongEntries) {
  constexpr int64_t line = 64 / sizeof(Real);
  const auto moved = [=](int64_t c) { return factor * shrunk<entries>(v[c], low, high); };
  if (C < line) {
    for (int64_t c = 0; c < C; ++c) x[c] = moved(c);
    return;
  }
  Real last[line];  // taken whole, over entries of the line before; x may be v
#pragma omp simd
  for (int64_t i = 0; i < line; ++i) last[i] = moved(C - line + i);
  for (int64_t c = 0; c + line < C; c += line) {
    __builtin_prefetch(v + ahead + c);
#pragma omp simd
    for (int64_t i = c; i < c + line; ++i) x[i] = moved(i);
  }
  std::copy_n(last, line, x + C - line);
}

// The same of as many groups as a vector has lanes.
template <bool entries, int C, typename Real>
void scale_short(const Real* v, const Levels<Real>& at, int64_t k0, const Real* factor, Real* x) {
  using Short = ShortGroups<Real, C>;
  using Vector = typename Short::Vector;
  Short::for_each_vector([&](auto i) {
    const auto of_entries = [=](const Real* of_groups, Vector& out) {
      Short::template spread<i>(Short::at(of_groups + k0), out);
    };
    Vector u = Short::at(v + i * Short::kLanes), by;
    if (entries) threshold(at, of_entries, u);
    of_entries(factor, by);
    Short::at(x + i * Short::kLanes) = u * by;
  });
}

template <bool entries, typename Real>
void scale(const Real* v, int64_t groups, const Levels<Real>& at, const Layout<Real>& layout,
           const Real* factor, Real* x) {
  const int64_t C = layout.C;
  int64_t k = 0;
  const auto shorts = [&](auto C) __attribute__((flatten)) {
    constexpr int64_t lanes = Simd<Real>::kLanes;
    for (; k + lanes <= groups; k += lanes)
      scale_short<entries, C>(v + k * C, at, k, factor, x + k * C);
  };
  if (C < kLongGroup && !with_constant<Real>(C, shorts))
    for (; k + 8 <= groups; k += 8)
      scale_eight<entries>(v + k * C, at, k, layout, factor + k, x + k * C);
  for (; k < groups; ++k)
    scale_one<entries>(v + k * C, C, at.low[k], at.l1[k], factor[k], x + k * C);
}

// What is left of a group after its own threshold: (1 - group / norm)_+. NaN stays NaN, and a group
// without a strength is whole even where its squares vanish in `Real`.
template <typename Real>
Real kept(Real norm, Real group) {
  const Real share = norm > group ? 1 - group / norm : (norm != norm ? norm : Real(0));
  return group == 0 ? Real(1) : share;
}

// Whether a sum in `Real` may say too little of a norm: near its level rounding decides, beyond
// the range nothing is left of it, and below a level of next to nothing neither.
template <typename Real>
bool is_unsure(Real norm, Real level) {
  const bool faint = (level > 0) & (level < kLeastStrength<Real>);
  return (std::fabs(norm - level) < kNear<Real> * level) | faint | !std::isfinite(norm);
}
template <typename Real>
bool any_unsure(const Real* norm, const Real* level, int64_t groups) {
  int any = 0;
#pragma omp simd reduction(| : any)
  for (int64_t k = 0; k < groups; ++k) any |= is_unsure(norm[k], level[k]);
  return any != 0;
}

// What is left of consecutive groups of C, by their norms; those that are not sure, or all of them,
// are taken in double first.
template <bool entries, typename Real>
void shares(const Real* v, int64_t C, const Levels<Real>& at, int64_t k0, int64_t groups,
            bool all_unsure, Real* norm, Real* share) {
  const Real* level = at.group + k0;
#pragma omp simd
  for (int64_t k = 0; k < groups; ++k) share[k] = kept(norm[k], level[k]);
  if (!all_unsure && !any_unsure(norm, level, groups)) return;
  for (int64_t k = 0; k < groups; ++k) {
    if (!all_unsure && !is_unsure(norm[k], level[k])) continue;
    const double exact = careful_norm<entries>(v + k * C, C, at.low[k0 + k], at.l1[k0 + k]);
    norm[k] = static_cast<Real>(exact);
    share[k] = static_cast<Real>(kept<double>(exact, level[k]));
  }
}

// The prox of groups by their norms, one by one: rare, so it must not cost registers elsewhere.
template <bool entries, typename Real>
__attribute__((noinline)) void prox_each(const Real* v, int64_t C, const Levels<Real>& at,
                                         int64_t k0, int64_t groups, Real* norm, Real* x) {
  Real share[kGroups];
  shares<entries>(v, C, at, k0, groups, false, norm, share);
  for (int64_t k = 0; k < groups; ++k)
    scale_one<entries>(v + k * C, C, at.low[k0 + k], at.l1[k0 + k], share[k] * at.rest[k0 + k],
                       x + k * C);
}

// The prox of groups so long that one after another is taken: while one is scaled, the squares of
// the next are summed, so that memory always has something to bring.
template <bool entries, typename Real>
void prox_longs(const Real* v, int64_t groups, int64_t C, const Levels<Real>& at, Real* x) {
  double square[1] = {};
  const auto add = [&](int64_t k, int64_t from, int64_t to) {
    add_long_squares<entries>(v + k * C, from, to, at.low[k], at.l1[k], square);
  };
  add(0, 0, C);
  for (int64_t k = 0; k < groups; ++k) {
    Real norm = static_cast<Real>(std::sqrt(square[0])), share;
    shares<entries>(v + k * C, C, at, k, 1, false, &norm, &share);
    square[0] = 0;
    for (int64_t from = 0; from < C; from += kSumBlock<Real>) {
      const int64_t first = k * C + from, to = std::min(C, from + kSumBlock<Real>);
      if (k + 1 < groups) add(k + 1, from, to);
      scale_one<entries>(v + first, to - from, at.low[k], at.l1[k], share * at.rest[k], x + first,
                         C + kLongEntries);
    }
  }
}

// The prox of short groups, as many as a vector has lanes; their entries are read once.
template <bool entries, int C, typename Real>
inline void prox_short(const Real* v, const Levels<Real>& at, int64_t k0, Real* x) {
  using Short = ShortGroups<Real, C>;
  using Vector = typename Short::Vector;
  constexpr int64_t lanes = Short::kLanes;
  Vector u[C], squares[C];
  Short::for_each_vector([&](auto i) {
    const auto of_entries = [=](const Real* of_groups, Vector& out) {
      Short::template spread<i>(Short::at(of_groups + k0), out);
    };
    u[i] = Short::at(v + i * lanes);
    if (entries) threshold(at, of_entries, u[i]);
    squares[i] = u[i] * u[i];
  });
  Real norm[lanes], factor[lanes];
  Short::sum(squares, Short::at(norm));
#pragma omp simd
  for (int64_t k = 0; k < lanes; ++k) norm[k] = std::sqrt(norm[k]);
  if (any_unsure(norm, at.group + k0, lanes))
    return prox_each<entries>(v, C, at, k0, lanes, norm, x);
#pragma omp simd
  for (int64_t k = 0; k < lanes; ++k) factor[k] = kept(norm[k], at.group[k0 + k]) * at.rest[k0 + k];
  Short::for_each_vector([&](auto i) {
    Vector by;
    Short::template spread<i>(Short::at(factor), by);
    Short::at(x + i * lanes) = u[i] * by;
  });
}

template <bool entries, int C, typename Real>
__attribute__((flatten)) void prox_shorts(const Real* v, int64_t groups, const Levels<Real>& at,
                                          Real* x) {
  constexpr int64_t lanes = Simd<Real>::kLanes;
  Real rest[lanes * C];
  for (int64_t k = 0; k < groups; k += lanes) {
    const bool whole = k + lanes <= groups;
    if (!whole) std::fill(std::copy(v + k * C, v + groups * C, rest), rest + lanes * C, Real(0));
    prox_short<entries, C>(whole ? v + k * C : rest, at, k, whole ? x + k * C : rest);
    if (!whole) std::copy(rest, rest + (groups - k) * C, x + k * C);
  }
}

// How many groups of C are updated at a time. Short ones are whole vectors that stay in the nearest
// cache; of long ones each waits for its norm, and several do so together.
inline int64_t groups_of(int64_t C) {
  if (C >= kLongGroup) return std::max<int64_t>(kLongEntries / C, 1);
  return std::clamp(kEntries / std::max<int64_t>(C, 1) / kMostLanes * kMostLanes, kMostLanes,
                    kGroups);
}

// Calls body(begin, end) for ranges of groups of C, of which each thread takes whole blocks, so
// that no group's sum depends on where a range begins.
template <typename F>
void for_each_range(int64_t groups, int64_t C, ParallelFor run, F body) {
  const int64_t block = groups_of(C), entries = block * std::max<int64_t>(C, 1);
  parallel_for(
      run, (groups + block - 1) / block, kParallelElements / entries,
      [&](int64_t begin, int64_t end) { body(begin * block, std::min(groups, end * block)); });
}

// Asks for entries that are about to be read, which the processor itself does only near by. A call,
// as it has no effect that the compiler knows of, would be left out.
template <typename Real>
__attribute__((always_inline)) inline void prefetch(const Real* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / sizeof(Real)) __builtin_prefetch(from + i);
}

// The same of those that come after `count` entries and a few more.
template <typename Real>
__attribute__((always_inline)) inline void fetch(const Real* from, int64_t count) {
  prefetch(from + kReadAhead, count);
}

// What is read next, asked for in parts while something is computed: only so many lines can be on
// their way, and what asks for more waits.
template <typename Real>
class ReadAhead {
 public:
  // Of each of some arrays, the `count` entries that follow entries [offset, offset + count).
  void start(const std::array<const Real*, 4>& arrays, int64_t offset, int64_t count) {
    arrays_ = arrays, next_ = offset + count, end_ = next_ + count;
    count_ =
        std::count_if(arrays.begin(), arrays.end(), [](const Real* x) { return x != nullptr; });
  }
  void in_parts(int64_t parts) { part_ = (end_ - next_) / parts / kLine * kLine + kLine; }
  __attribute__((always_inline)) void some() {
    const int64_t end = std::min(end_, next_ + part_);
    for (; next_ < end; next_ += kLine)
      for (int64_t i = 0; i < count_; ++i) __builtin_prefetch(arrays_[i] + next_);
  }

 private:
  static constexpr int64_t kLine = 64 / sizeof(Real);
  std::array<const Real*, 4> arrays_{};
  int64_t count_ = 0, next_ = 0, end_ = 0, part_ = 0;
};

// The strengths of consecutive groups, and what they take; loaded again only where they differ.
template <typename Real>
struct Groups {
  const ProxArgs<Real>& a;
  Layout<Real> layout;
  Levels<Real> levels;
  int64_t step;
  bool faint_features = false;  // the shared level compares norms with next to nothing

  explicit Groups(const ProxArgs<Real>& args) : Groups(args, groups_of(args.C)) {}
  Groups(const ProxArgs<Real>& args, int64_t step) : a(args), layout(args.C), step(step) {
    levels.same = !a.penalty.l1.data && !a.penalty.group.data && !a.penalty.ridge.data;
    if (levels.same && a.M > 0) levels.load(a.penalty, a.M, a.C, 0, step);
    for (int64_t m = 0; m < a.M && present(a.penalty.shared); ++m) {
      const Real level = static_cast<Real>(at(a.penalty.shared, 0, m));
      faint_features |= (level > 0) & (level < kLeastStrength<Real>);
    }
  }

  // Calls body(index, groups) for the groups [begin, end), a few at a time.
  template <typename F>
  void for_each(int64_t begin, int64_t end, F body) {
    for (int64_t i = begin; i < end; i += step) {
      const int64_t groups = std::min(step, end - i);
      if (!levels.same) levels.load(a.penalty, a.M, a.C, i, groups);
      body(i, groups);
    }
  }
  void norms(int64_t index, int64_t groups, Real* norm) const {
    const Real* v = a.v + index * a.C;
    levels.entries ? sparsedis::SPARSEDIS_ISA::norms<true>(v, groups, levels, layout, norm)
                   : sparsedis::SPARSEDIS_ISA::norms<false>(v, groups, levels, layout, norm);
  }
  // The same, and what their own threshold leaves of the groups.
  void norms_and_shares(int64_t index, int64_t groups, Real* norm, Real* share) const {
    const Real* v = a.v + index * a.C;
    norms(index, groups, norm);
    levels.entries ? shares<true>(v, a.C, levels, 0, groups, faint_features, norm, share)
                   : shares<false>(v, a.C, levels, 0, groups, faint_features, norm, share);
  }
  void prox(int64_t index, int64_t groups) const {
    if (a.C == 1) return prox_entries(a.v + index, groups, a.x + index);
    if (levels.groups && prox_at_once(index, groups)) return;
    Real norm[kGroups], factor[kGroups];
    std::fill_n(factor, groups, Real(1));
    if (levels.groups) norms_and_shares(index, groups, norm, factor);
#pragma omp simd
    for (int64_t k = 0; k < groups; ++k) factor[k] *= levels.rest[k];
    scale(index, groups, factor);
  }
  // Of groups whose length a kernel is for; false where none is.
  bool prox_at_once(int64_t index, int64_t groups) const {
    const Real* v = a.v + index * a.C;
    Real* x = a.x + index * a.C;
    const auto shorts = [&](auto C) {
      levels.entries ? prox_shorts<true, C>(v, groups, levels, x)
                     : prox_shorts<false, C>(v, groups, levels, x);
    };
    if (with_constant<Real>(a.C, shorts)) return true;
    if (a.C < kLongEntries) return false;
    levels.entries ? prox_longs<true>(v, groups, a.C, levels, x)
                   : prox_longs<false>(v, groups, a.C, levels, x);
    return true;
  }
  void prox_entries(const Real* v, int64_t count, Real* x) const {
#pragma omp simd
    for (int64_t k = 0; k < count; ++k)
      x[k] = shrunk<true>(v[k], levels.low[k], levels.l1[k]) * levels.rest[k];
  }
  void scale(int64_t index, int64_t groups, const Real* factor) const {
    const Real* v = a.v + index * a.C;
    Real* x = a.x + index * a.C;
    levels.entries ? sparsedis::SPARSEDIS_ISA::scale<true>(v, groups, levels, layout, factor, x)
                   : sparsedis::SPARSEDIS_ISA::scale<false>(v, groups, levels, layout, factor, x);
  }
};

// Adds the squares of what is left of every feature in tasks [begin, end) below the shared level.
// `update(offset, count)` is called for entries that are about to be read for the first time.
template <typename Real, typename Update>
void add_squares(const ProxArgs<Real>& a, int64_t begin, int64_t end, double* squares,
                 Update update) {
  Groups<Real> all(a);
  for (int64_t first = begin * a.M; first < end * a.M; first += a.M)
    all.for_each(first, first + a.M, [&](int64_t i, int64_t groups) {
      Real norm[kGroups], share[kGroups];
      update(i * a.C, groups * a.C);
      all.norms_and_shares(i, groups, norm, share);
      double* sum = squares + i - first;
#pragma omp simd
      for (int64_t k = 0; k < groups; ++k) {
        const double rest = static_cast<double>(norm[k]) * share[k];
        sum[k] += rest * rest;
      }
    });
}

// x of tasks [begin, end), where the shared level keeps the part `left` of every feature.
template <typename Real>
void scale_tasks(const ProxArgs<Real>& a, int64_t begin, int64_t end, const double* left) {
  Groups<Real> all(a);
  for (int64_t first = begin * a.M; first < end * a.M; first += a.M)
    all.for_each(first, first + a.M, [&](int64_t i, int64_t groups) {
      Real norm[kGroups], factor[kGroups];
      fetch(a.v + i * a.C, groups * a.C);
      std::fill_n(factor, groups, Real(1));
      if (all.levels.groups) all.norms_and_shares(i, groups, norm, factor);
      const double* by = left + i - first;
#pragma omp simd
      for (int64_t k = 0; k < groups; ++k)
        factor[k] = static_cast<Real>(by[k] * factor[k] * all.levels.rest[k]);
      all.scale(i, groups, factor);
    });
}

// The prox with a shared level that scales every feature, in two passes over all tasks.
template <typename Real, typename Update>
void scale_features(const ProxArgs<Real>& a, ParallelFor run, Update update) {
  const TaskBlocks blocks(a.T, a.M * a.C);
  Buffer<double> squares(blocks.count * a.M), left(a.M);
  std::fill_n(squares.get(), blocks.count * a.M, 0.0);
  blocks.for_each(run, [&](int64_t b, int64_t begin, int64_t end) {
    add_squares(a, begin, end, squares.get() + b * a.M, update);
  });
  for (int64_t m = 0; m < a.M; ++m) {
    double square = 0;
    for (int64_t b = 0; b < blocks.count; ++b) square += squares.get()[b * a.M + m];
    left.get()[m] = kept<double>(std::sqrt(square), at(a.penalty.shared, 0, m));
  }
  const auto scale = [&](int64_t, int64_t begin, int64_t end) {
    scale_tasks(a, begin, end, left.get());
  };
  blocks.for_each(run, scale, true);
}

SPARSEDIS_END
