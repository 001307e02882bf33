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

// A level is an array, a number, or an array times a number. The pointer lives as long as the
// dictionary's own array: a converted copy would not.
template <typename Real>
Strength<Real> strength(const py::dict& levels, const char* level) {
  if (!levels.contains(level)) return {nullptr, 0, 0, 0.0};
  py::object given = levels[level];
  double scale = 1;
  if (py::isinstance<py::tuple>(given)) {
    const auto pair = given.cast<py::tuple>();
    scale = pair[1].cast<double>(), given = pair[0];
  }
  if (py::isinstance<py::float_>(given)) return {nullptr, 0, 0, given.cast<double>()};
  const auto value = given.cast<py::array_t<Real, 0>>();
  if (!value.is(given)) throw py::type_error(std::string(level) + ": wrong dtype");
  const auto stride = [&](int axis) { return value.strides(axis) / int64_t{sizeof(Real)}; };
  if (value.ndim() == 1) return {value.data(), 0, stride(0), scale};
  return {value.data(), stride(0), stride(1), scale};
}

// `levels` holds l1, group, ridge (T, M) and shared (M), as far as they are there, and nonneg.
template <typename Real>
PenaltyArgs<Real> penalty(const py::dict& levels) {
  return {strength<Real>(levels, "l1"), strength<Real>(levels, "group"),
          strength<Real>(levels, "shared"), strength<Real>(levels, "ridge"),
          levels.contains("nonneg")};
}

using Offsets = std::optional<Array<int64_t>>;

template <typename Real>
SamplesArgs<Real> samples(const Array<Real>& z, const Array<Real>& y, const Offsets& offsets,
                          const Maybe<Real>& weight, int64_t loss) {
  const int64_t M = z.shape(z.ndim() - 1), C = y.shape(y.ndim() - 1);
  const int64_t T = offsets ? offsets->size() - 1 : y.shape(0), n = offsets ? 0 : y.shape(1);
  return {T,
          n,
          M,
          C,
          z.data(),
          y.data(),
          offsets ? offsets->data() : nullptr,
          data(weight),
          !offsets && z.ndim() == 2,
          weight && weight->ndim() == 2,
          true,
          loss};
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
