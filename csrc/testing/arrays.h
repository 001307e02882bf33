// NumPy arrays as the plain pointers that kernels take, and the runner of a batch.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <thread>
#include <vector>

#include "../core/args.h"

namespace sparsedis {
namespace testing {

namespace py = pybind11;

template <typename Real>
using Array = py::array_t<Real, py::array::c_style>;
template <typename Real>
using Maybe = std::optional<Array<Real>>;
using Shape = std::vector<int64_t>;

// Filled with NaN (integers: with their least value), so that an entry no kernel wrote is seen.
template <typename Real>
Array<Real> make(const Shape& shape) {
  using Limits = std::numeric_limits<Real>;
  Array<Real> array(shape);
  std::fill_n(array.mutable_data(), array.size(),
              Limits::has_quiet_NaN ? Limits::quiet_NaN() : Limits::min());
  return array;
}

template <typename Real>
const Real* data(const Maybe<Real>& array) {
  return array ? array->data() : nullptr;
}

// The pointer lives as long as the dictionary's own array: a converted copy would not.
template <typename Real>
Strength<Real> strength(const py::dict& levels, const char* level) {
  if (!levels.contains(level)) return {nullptr, 0, 0, 0.0};
  const py::object given = levels[level];
  const auto value = given.cast<py::array_t<Real, 0>>();
  if (!value.is(given)) throw py::type_error(std::string(level) + ": wrong dtype");
  const auto stride = [&](int axis) { return value.strides(axis) / int64_t{sizeof(Real)}; };
  if (value.ndim() == 1) return {value.data(), 0, stride(0), 1.0};
  return {value.data(), stride(0), stride(1), 1.0};
}

// `levels` holds l1, group, ridge (T, M) and shared (M), as far as they are there, and nonneg.
template <typename Real>
PenaltyArgs<Real> penalty(const py::dict& levels) {
  return {strength<Real>(levels, "l1"), strength<Real>(levels, "group"),
          strength<Real>(levels, "shared"), strength<Real>(levels, "ridge"),
          levels.contains("nonneg")};
}

inline int64_t threads = 1, threads_started = 0;

// Splits the range whatever the grain, so that there are threads to race.
inline void run(int64_t count, int64_t, Body body, void* context) {
  const int64_t pieces = std::min(threads, count);
  if (pieces == 1) return body(0, count, context);
  threads_started += pieces;
  std::vector<std::thread> workers;
  for (int64_t k = 0; k < pieces; ++k)
    workers.emplace_back(body, count * k / pieces, count * (k + 1) / pieces, context);
  for (std::thread& worker : workers) worker.join();
}

}  // namespace testing
}  // namespace sparsedis
