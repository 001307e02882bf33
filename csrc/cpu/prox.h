// The prox over (T, M, C) arrays: tasks in parallel, or slabs of features where
// the shared level couples the tasks.
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

// Groups that no level couples. `update(offset, count)` is called for entries that are about to be
// read, and returns their metric, or null where there is none.
template <typename Real, typename Update>
void prox_groups(const ProxArgs<Real>& a, int64_t begin, int64_t end, Update update) {
  Groups<Real> all(a);
  Columns<Real> columns{a.C};
  all.for_each(begin, end, [&](int64_t i, int64_t groups) {
    const int64_t offset = i * a.C;
    const Real* metric = update(offset, groups * a.C);
    metric ? solve_groups(a.v + offset, metric, groups, all.levels, columns, a.x + offset)
           : all.prox(i, groups);
  });
}

// Whole blocks of groups for each thread, so that no group's sum depends on where one begins;
// `make_update` gives each its own `update`.
template <typename Real, typename MakeUpdate>
void prox_blocks(const ProxArgs<Real>& a, ParallelFor run, MakeUpdate make_update) {
  const int64_t groups = a.T * a.M, block = groups_of(a.C);
  parallel_for(run, (groups + block - 1) / block,
               kParallelElements / (block * std::max<int64_t>(a.C, 1)),
               [&](int64_t begin, int64_t end) {
                 prox_groups(a, begin * block, std::min(groups, end * block), make_update());
               });
}

template <typename Real>
void prox(const ProxArgs<Real>& a, ParallelFor run) {
  if (!present(a.penalty.shared)) {
    prox_blocks(a, run, [&] {
      return [&](int64_t offset, int64_t) { return a.metric ? a.metric + offset : nullptr; };
    });
  } else if (is_uniform(a)) {
    scale_features(a, run, [&](int64_t offset, int64_t count) { fetch(a.v + offset, count); });
  } else {
    for_each_slab(run, a.M, a.T * a.M * a.C,
                  [&](int64_t m0, int64_t width) { FeatureProx<Real>(a, m0, width).run(); });
  }
}

SPARSEDIS_END
