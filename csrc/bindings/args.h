// Tensors of libtorch's stable ABI as the plain arguments of kernels, on any device.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <tuple>
#include <vector>

#include "../core/args.h"
#include "../core/huge_pages.h"

namespace sparsedis {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;
using Numbers = std::vector<double>;
using Flags = std::vector<bool>;

// Calls body with a float or a double, by the dtype of `t`.
template <typename F>
void dispatch(const char* op, const Tensor& t, F body) {
  if (t.scalar_type() == ScalarType::Float) {
    body(float{});
  } else if (t.scalar_type() == ScalarType::Double) {
    body(double{});
  } else {
    STD_TORCH_CHECK(false, op, ": dtype ", static_cast<int>(t.scalar_type()),
                    ", expected float32 or float64");
  }
}

template <typename Real>
const Real* data(const Tensor& t) {
  return static_cast<const Real*>(t.data_ptr());
}

template <typename Real>
const Real* data(const MaybeTensor& t) {
  return t ? data<Real>(*t) : nullptr;
}

// The pointer of an output, null where it was not asked for.
template <typename Real>
Real* output(const Tensor& t, bool wanted = true) {
  return wanted ? static_cast<Real*>(t.mutable_data_ptr()) : nullptr;
}

inline Tensor packed(const Tensor& t) { return torch::stable::contiguous(t); }

inline MaybeTensor packed(const MaybeTensor& t) {
  return t ? MaybeTensor(packed(*t)) : std::nullopt;
}

inline Tensor make(const Tensor& like, std::vector<int64_t> shape, bool wanted = true) {
  if (!wanted) shape = {0};
  Tensor made = torch::stable::new_empty(like, shape);
  const size_t bytes = made.numel() * made.element_size();
  if (made.is_cpu()) SPARSEDIS_ISA::prefer_huge_pages(made.mutable_data_ptr(), bytes);
  return made;
}

inline std::vector<int64_t> shape_of(const Tensor& t) {
  std::vector<int64_t> shape;
  for (int64_t d = 0; d < t.dim(); ++d) shape.push_back(t.size(d));
  return shape;
}

inline Tensor make_like(const Tensor& t) { return make(t, shape_of(t)); }

inline Tensor make_counts(const Tensor& like, int64_t n, ScalarType dtype) {
  return torch::stable::new_empty(like, {n}, dtype);
}

// Strengths keep their strides: a value per task or per feature is never expanded in memory.
template <typename Real>
Strength<Real> strength(const MaybeTensor& t, double scale) {
  if (!t) return {nullptr, 0, 0, scale};
  if (t->dim() == 1) return {data<Real>(*t), 0, t->stride(0), scale};
  return {data<Real>(*t), t->stride(0), t->stride(1), scale};
}

template <typename Real>
PenaltyArgs<Real> penalty(const MaybeTensor& l1, const MaybeTensor& group,
                          const MaybeTensor& shared, const MaybeTensor& ridge, const Numbers& scale,
                          bool nonneg) {
  return {strength<Real>(l1, scale[0]), strength<Real>(group, scale[1]),
          strength<Real>(shared, scale[2]), strength<Real>(ridge, scale[3]), nonneg};
}

// The samples of a batch, made contiguous; lives as long as the pointers into it.
struct Samples {
  Tensor z, y;
  MaybeTensor offsets, weight;
  int64_t loss;
  bool fit_intercept;

  Samples(const Tensor& z_, const Tensor& y_, const MaybeTensor& offsets_,
          const MaybeTensor& weight_, int64_t loss_, bool intercept)
      : z(packed(z_)),
        y(packed(y_)),
        offsets(packed(offsets_)),
        weight(packed(weight_)),
        loss(loss_),
        fit_intercept(intercept) {}

  int64_t T() const { return offsets ? offsets->size(0) - 1 : y.size(0); }
  int64_t M() const { return z.size(z.dim() - 1); }
  int64_t C() const { return y.size(y.dim() - 1); }
  bool one_design() const { return !offsets && z.dim() == 2; }

  template <typename Real>
  SamplesArgs<Real> args() const {
    return {T(),
            offsets ? 0 : y.size(1),
            M(),
            C(),
            data<Real>(z),
            data<Real>(y),
            data<int64_t>(offsets),
            data<Real>(weight),
            one_design(),
            weight && weight->dim() == 2,
            fit_intercept,
            loss};
  }
};

// The outputs of an op that is given no entry: gradients and sums of nothing.
template <typename... Outputs>
std::tuple<Outputs...> zeroed(std::tuple<Outputs...> out) {
  std::apply([](auto&... each) { (torch::stable::zero_(each), ...); }, out);
  return out;
}

}  // namespace sparsedis
