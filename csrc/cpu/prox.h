// The prox over (T, M, C) arrays: by ranges of groups, or where the shared level couples the tasks
// in two passes over blocks of them, and else by slabs of features.
#pragma once

#include <algorithm>
#include <memory>

#include "feature_prox.h"

SPARSEDIS_BEGIN

// Slabs of features; `size` is the number of elements of the whole array. `make_body` gives each
// thread its own body(m0, width).
template <typename F>
void for_each_slab(ParallelFor run, int64_t M, int64_t width, int64_t size, F make_body) {
  const int64_t slabs = (M + width - 1) / width;
  parallel_for(run, slabs, size < kParallelElements ? slabs : 1, [&](int64_t begin, int64_t end) {
    auto body = make_body();
    for (int64_t slab = begin; slab < end; ++slab)
      body(slab * width, std::min(width, M - slab * width));
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

// Features that the shared level more than scales; `make_source` gives each thread what it reads.
template <typename Real, typename MakeSource>
void prox_features(const ProxArgs<Real>& a, ParallelFor run, MakeSource make_source) {
  using Features = FeatureProx<Real, decltype(make_source())>;
  for_each_slab(run, a.M, Features::width_of(a), a.T * a.M * a.C, [&] {
    return [features = std::make_unique<Features>(a, make_source)](int64_t m0, int64_t width) {
      features->run(m0, width);
    };
  });
}

template <typename Real>
void prox(const ProxArgs<Real>& a, ParallelFor run) {
  if (!present(a.penalty.shared) && !a.metric) {
    prox_uniform(a, run);
  } else if (!present(a.penalty.shared)) {
    prox_ranges(a, run, [&] {
      return [&](int64_t offset, int64_t count, ReadAhead<Real>& ahead) {
        ahead.start({a.v, a.metric, a.x}, offset, count);
        return a.metric + offset;
      };
    });
  } else if (is_uniform(a)) {
    scale_features(a, run, [&](int64_t offset, int64_t count) { fetch(a.v + offset, count); });
  } else {
    prox_features(a, run, [&] { return GivenGroups<Real>{a}; });
  }
}

SPARSEDIS_END
