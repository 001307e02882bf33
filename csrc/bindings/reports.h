// lambda_max and duality_gap of tensors, whatever device's kernels serve them.
//
// A Device has the type of its samples, made from tensors, and lambda_max(samples, args) and
// duality_gap(samples, args), which fill args.value; there is at least one task.
#pragma once

#include "args.h"

namespace sparsedis {

// The dispatcher goes by the device of any one tensor; kernels are given the pointers of all.
inline void check_devices(const char* op, const Samples& s, const MaybeTensor& weight = {}) {
  for (const MaybeTensor& t : {MaybeTensor(s.y), s.offsets, s.weight, weight})
    STD_TORCH_CHECK(
        !t || (t->is_cuda() == s.z.is_cuda() && t->get_device_index() == s.z.get_device_index()),
        op, ": y, offsets, sample_weight and weight must be on the device of z");
}

template <typename Device>
Tensor lambda_max(Tensor z, Tensor y, MaybeTensor offsets, MaybeTensor sample_weight, int64_t loss,
                  MaybeTensor l1, MaybeTensor group, MaybeTensor shared, Numbers scale,
                  bool fit_intercept, bool nonneg) {
  const typename Device::Samples s(z, y, offsets, sample_weight, loss, fit_intercept);
  check_devices("lambda_max", s);
  const bool coupled = shared || scale[2] != 0;
  const std::vector<int64_t> shape{coupled ? 1 : s.T()};
  if (s.T() == 0) return torch::stable::new_zeros(s.z, shape);
  Tensor value = make(s.z, shape);
  dispatch("lambda_max", s.z, [&](auto real) {
    using Real = decltype(real);
    PenaltyArgs<Real> strengths = penalty<Real>(l1, group, shared, std::nullopt, scale, nonneg);
    strengths.ridge.scale = 0;
    Device::lambda_max(
        s, HeadsReportArgs<Real>{s.template args<Real>(), strengths, nullptr, output<Real>(value)});
  });
  return value;
}

template <typename Device>
Tensor duality_gap(Tensor weight, Tensor z, Tensor y, MaybeTensor offsets,
                   MaybeTensor sample_weight, int64_t loss, MaybeTensor l1, MaybeTensor group,
                   MaybeTensor shared, MaybeTensor ridge, Numbers scale, bool nonneg,
                   bool fit_intercept) {
  const typename Device::Samples s(z, y, offsets, sample_weight, loss, fit_intercept);
  check_devices("duality_gap", s, weight);
  weight = packed(weight);
  Tensor value = make(s.z, {s.T()});
  if (s.T() == 0) return value;
  dispatch("duality_gap", s.z, [&](auto real) {
    using Real = decltype(real);
    Device::duality_gap(
        s, HeadsReportArgs<Real>{s.template args<Real>(),
                                 penalty<Real>(l1, group, shared, ridge, scale, nonneg),
                                 data<Real>(weight), output<Real>(value)});
  });
  return value;
}

}  // namespace sparsedis
