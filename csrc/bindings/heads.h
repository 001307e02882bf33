// fit_heads and its gradient of tensors, whatever device's kernels serve them.
//
// A Device has the type of its samples, and fit_heads(samples, args) and
// fit_heads_backward(samples, args), which fill the outputs; there is at least one task.
#pragma once

#include <tuple>

#include "reports.h"

namespace sparsedis {

using FitOutputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
using HeadGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <typename Device>
FitOutputs fit_heads(Tensor z, Tensor y, MaybeTensor offsets, MaybeTensor sample_weight,
                     int64_t loss, MaybeTensor l1, MaybeTensor group, MaybeTensor shared,
                     MaybeTensor ridge, Numbers scale, bool nonneg, bool fit_intercept,
                     MaybeTensor init, double tol, int64_t max_iter) {
  const typename Device::Samples s(z, y, offsets, sample_weight, loss, fit_intercept);
  check_devices("fit_heads", s, init);
  const int64_t T = s.T(), M = s.M(), C = s.C();
  init = packed(init);
  FitOutputs out{make(s.z, {T, M, C}), make(s.z, {T, C}), make(s.z, {T}),
                 make_counts(s.z, T, ScalarType::Int), make_counts(s.z, T, ScalarType::Int)};
  if (T == 0) return out;
  dispatch("fit_heads", s.z, [&](auto real) {
    using Real = decltype(real);
    Device::fit_heads(
        s, HeadsArgs<Real>{s.template args<Real>(),
                           penalty<Real>(l1, group, shared, ridge, scale, nonneg), data<Real>(init),
                           tol, max_iter, output<Real>(std::get<0>(out)),
                           output<Real>(std::get<1>(out)), output<Real>(std::get<2>(out)),
                           output<int32_t>(std::get<3>(out)), output<int32_t>(std::get<4>(out))});
  });
  return out;
}

template <typename Device>
HeadGradients fit_heads_backward(Tensor grad_weight, Tensor grad_bias, Tensor weight, Tensor z,
                                 Tensor y, MaybeTensor offsets, MaybeTensor sample_weight,
                                 int64_t loss, MaybeTensor l1, MaybeTensor group,
                                 MaybeTensor shared, MaybeTensor ridge, Numbers scale, bool nonneg,
                                 bool fit_intercept, Flags needs) {
  const typename Device::Samples s(z, y, offsets, sample_weight, loss, fit_intercept);
  check_devices("fit_heads_backward", s, weight);
  grad_weight = packed(grad_weight), grad_bias = packed(grad_bias), weight = packed(weight);
  const int64_t T = s.T(), M = s.M();
  const std::vector<int64_t> none{0};
  HeadGradients out{make(s.z, shape_of(s.z), needs[0]),
                    make(s.z, shape_of(s.y), needs[1]),
                    make(s.z, s.weight ? shape_of(*s.weight) : none, needs[2]),
                    make(s.z, {T, M}, needs[3]),
                    make(s.z, {T, M}, needs[4]),
                    make(s.z, {M}, needs[5]),
                    make(s.z, {T, M}, needs[6])};
  if (T == 0) return zeroed(out);
  dispatch("fit_heads_backward", s.z, [&](auto real) {
    using Real = decltype(real);
    Device::fit_heads_backward(
        s, HeadsBackwardArgs<Real>{
               s.template args<Real>(), penalty<Real>(l1, group, shared, ridge, scale, nonneg),
               data<Real>(weight), data<Real>(grad_weight), data<Real>(grad_bias),
               output<Real>(std::get<0>(out), needs[0]), output<Real>(std::get<1>(out), needs[1]),
               output<Real>(std::get<2>(out), needs[2]), output<Real>(std::get<3>(out), needs[3]),
               output<Real>(std::get<4>(out), needs[4]), output<Real>(std::get<5>(out), needs[5]),
               output<Real>(std::get<6>(out), needs[6])});
  });
  return out;
}

}  // namespace sparsedis
