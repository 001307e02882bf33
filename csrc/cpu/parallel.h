// Calls a lambda over pieces of a range, in parallel.
#pragma once

#include "../core/args.h"
#include "../core/isa.h"

SPARSEDIS_BEGIN

template <typename F>
void parallel_for(ParallelFor run, int64_t count, int64_t grain, F body) {
  if (count <= 0) return;
  run(
      count, grain < 1 ? 1 : grain,
      [](int64_t begin, int64_t end, void* context) { (*static_cast<F*>(context))(begin, end); },
      &body);
}

SPARSEDIS_END
