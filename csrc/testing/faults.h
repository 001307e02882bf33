// Kernels called wrongly on purpose: what the sanitizers must catch, or their silence means
// nothing.
#pragma once

#include "batch.h"

namespace sparsedis {
namespace testing {

// One feature more than the arrays hold: reads and writes behind their ends.
inline void overrun() {
  const Array<double> v = make<double>({1, 8, 1});
  Array<double> x = make<double>({1, 8, 1});
  table<double>().prox({1, 9, 1, v.data(), nullptr, {}, x.mutable_data()}, run);
}

// Two threads are given the same range, so both write every entry. Large enough to be shared out.
inline void race() {
  const Array<double> v = make<double>({50, 330, 2});
  Array<double> x = make<double>({50, 330, 2});
  const ParallelFor twice = [](int64_t count, int64_t, Body body, void* context) {
    std::thread other(body, 0, count, context);
    body(0, count, context);
    other.join();
  };
  table<double>().prox({50, 330, 2, v.data(), nullptr, {}, x.mutable_data()}, twice);
}

// T * M does not fit its type.
inline void overflow() {
  table<double>().prox({int64_t{1} << 62, 4, 1, nullptr, nullptr, {}, nullptr}, run);
}

}  // namespace testing
}  // namespace sparsedis
