// The prox over (T, M, C) arrays: by ranges of groups, or where the shared level couples the tasks
// in two passes over blocks of them, and else by slabs of features.
#pragma once

#include <algorithm>

#include "feature_prox.h"

SPARSEDIS_BEGIN

// Slabs of features; `size` is the number of elements of the whole array.
template <typename F>
void for_each_slab(ParallelFor run, int64_t M, int64_t size, F body) {
  const int64_t slabs = (M + kSlab - 1) / kSlab;
  parallel_for(run, slabs, size < kParallelElements ? slabs : 1, [&](int64_t begin, int64_t end) {
    for (int64_t slab = begin; slab < end; ++slab)
      body(slab * kSlab, std::min(kSlab, M - slab * kSlab));
  });
}

// Groups that no level couples. `update(offset, count, ahead)` is called for entries that are about
// to be read, and returns their metric, or null where there is none; `ahead` may be started.
template <typename Real, typename Update>
void prox_groups(const ProxArgs<Real>& a, int64_t begin, int64_t end, Update update) {
  Groups<Real> all(a);
  Columns<Real> columns(a.C < kLongGroup ? a.C : 0, groups_of(a.C));
  all.for_each(begin, end, [&](int64_t i, int64_t groups) {
    const int64_t offset = i * a.C;
    const Real* metric = update(offset, groups * a.C, columns.ahead);
    metric ? solve_groups(a.v + offset, metric, groups, a.C, all.levels, columns, a.x + offset)
           : all.prox(i, groups);
  });
}

// The same of all groups; `make_update` gives each thread its own `update`.
template <typename Real, typename MakeUpdate>
void prox_ranges(const ProxArgs<Real>& a, ParallelFor run, MakeUpdate make_update) {
  for_each_range(a.T * a.M, a.C, run,
                 [&](int64_t begin, int64_t end) { prox_groups(a, begin, end, make_update()); });
}

// The same where nothing is updated first, so that many groups may be taken at a time.
template <typename Real>
void prox_uniform(const ProxArgs<Real>& a, ParallelFor run) {
  for_each_range(a.T * a.M, a.C, run, [&](int64_t begin, int64_t end) {
    Groups<Real> all(a, a.C < kLongEntries ? groups_of(a.C) : kGroups);
    all.for_each(begin, end, [&](int64_t i, int64_t groups) { all.prox(i, groups); });
  });
}

template <typename Real>
void prox(const ProxArgs<Real>& a, ParallelFor run) {
  if (!present(a.penalty.shared) && !a.metric) {
    prox_uniform(a, run);
  } else if (!present(a.penalty.shared)) {
    prox_ranges(a, run, [&] {
      return [&](int64_t offset, int64_t count, ReadAhead<Real>& ahead) {
        ahead.start({a.v + offset, a.metric + offset, a.x + offset}, count);
        return a.metric + offset;
      };
    });
  } else if (is_uniform(a)) {
    scale_features(a, run, [&](int64_t offset, int64_t count) { fetch(a.v + offset, count); });
  } else {
    for_each_slab(run, a.M, a.T * a.M * a.C,
                  [&](int64_t m0, int64_t width) { FeatureProx<Real>(a, m0, width).run(); });
  }
}

SPARSEDIS_END
