// The batch kernels of the table, over NumPy arrays.
#pragma once

#include <algorithm>

#include "../core/isa.h"
#include "../cpu/kernels.h"
#include "arrays.h"

namespace sparsedis {

namespace SPARSEDIS_ISA {
extern const Kernels kernel_table;
}

namespace testing {

template <typename Real>
const KernelTable<Real>& table() {
  return SPARSEDIS_ISA::kernel_table.of<Real>();
}

template <typename Real>
Array<Real> prox(const Array<Real>& v, const py::dict& levels, const Maybe<Real>& metric) {
  const int64_t T = v.shape(0), M = v.shape(1), C = v.shape(2);
  Array<Real> x = make<Real>({T, M, C});
  table<Real>().prox({T, M, C, v.data(), data(metric), penalty<Real>(levels), x.mutable_data()},
                     run);
  return x;
}

template <typename Real>
py::dict prox_backward(const Array<Real>& grad, const Array<Real>& x, const Array<Real>& v,
                       const py::dict& levels, const Maybe<Real>& metric) {
  const int64_t T = x.shape(0), M = x.shape(1), C = x.shape(2);
  Array<Real> grad_v = make<Real>({T, M, C}), l1 = make<Real>({T, M}), group = make<Real>({T, M}),
              shared = make<Real>({M}), ridge = make<Real>({T, M}), d = make<Real>({T, M, C});
  const bool coupled = levels.contains("shared");
  const Real* of_metric = data(metric);
  table<Real>().prox_backward({T, M, C, grad.data(), x.data(), v.data(), of_metric,
                               penalty<Real>(levels), grad_v.mutable_data(), l1.mutable_data(),
                               group.mutable_data(), coupled ? shared.mutable_data() : nullptr,
                               ridge.mutable_data(), of_metric ? d.mutable_data() : nullptr},
                              run);
  py::dict grads;
  grads["v"] = grad_v, grads["l1"] = l1, grads["group"] = group, grads["ridge"] = ridge;
  if (of_metric) grads["metric"] = d;
  if (coupled) grads["shared"] = shared;
  return grads;
}

// Copies of arrays (T, M, C), which a step changes in place.
template <typename Real>
Array<Real> copy_of(const Array<Real>& a) {
  Array<Real> copy = make<Real>({a.shape(0), a.shape(1), a.shape(2)});
  std::copy_n(a.data(), a.size(), copy.mutable_data());
  return copy;
}

template <typename Real>
ProxArgs<Real> in_place(Array<Real>& w, const py::dict& levels) {
  return {w.shape(0),      w.shape(1), w.shape(2), w.data(), nullptr, penalty<Real>(levels),
          w.mutable_data()};
}

template <typename Real>
py::dict prox_sgd(const Array<Real>& weights, const Array<Real>& grad, const Maybe<Real>& momentum,
                  const py::dict& levels, bool nesterov) {
  Array<Real> w = copy_of(weights);
  Maybe<Real> buffer = momentum ? Maybe<Real>(copy_of(*momentum)) : std::nullopt;
  table<Real>().prox_sgd({in_place(w, levels), grad.data(),
                          buffer ? buffer->mutable_data() : nullptr, 0.3, 0.9, 0.1, nesterov},
                         run);
  py::dict written;
  written["w"] = w;
  if (buffer) written["buffer"] = *buffer;
  return written;
}

template <typename Real>
py::dict prox_adamw(const Array<Real>& weights, const Array<Real>& grad, const Array<Real>& exp_avg,
                    const Array<Real>& exp_avg_sq, const py::dict& levels) {
  Array<Real> w = copy_of(weights), first = copy_of(exp_avg), second = copy_of(exp_avg_sq);
  table<Real>().prox_adamw({in_place(w, levels), grad.data(), first.mutable_data(),
                            second.mutable_data(), 3, 0.3, 0.9, 0.99, 1e-8, 0.1},
                           run);
  py::dict written;
  written["w"] = w, written["first"] = first, written["second"] = second;
  return written;
}

// `strengths` holds strength, step and shape, each (T, M).
template <typename Real>
RadialArgs<Real> radial_args(const Array<Real>& v, const py::dict& strengths, int64_t kind) {
  RadialArgs<Real> args{};
  args.T = v.shape(0), args.M = v.shape(1), args.C = v.shape(2);
  args.v = v.data(), args.kind = kind;
  args.strength = strength<Real>(strengths, "strength");
  args.step = strength<Real>(strengths, "step");
  args.shape = strength<Real>(strengths, "shape");
  return args;
}

template <typename Real>
Array<Real> radial_prox(const Array<Real>& v, const py::dict& strengths, int64_t kind) {
  RadialArgs<Real> args = radial_args(v, strengths, kind);
  Array<Real> x = make<Real>({args.T, args.M, args.C});
  args.x = x.mutable_data();
  table<Real>().radial_prox(args, run);
  return x;
}

template <typename Real>
py::dict radial_prox_backward(const Array<Real>& grad, const Array<Real>& v,
                              const py::dict& strengths, int64_t kind) {
  RadialArgs<Real> args = radial_args(v, strengths, kind);
  Array<Real> grad_v = make<Real>({args.T, args.M, args.C});
  Array<Real> strength = make<Real>({args.T, args.M}), step = make<Real>({args.T, args.M}),
              shape = make<Real>({args.T, args.M});
  args.grad = grad.data(), args.grad_v = grad_v.mutable_data();
  args.grad_strength = strength.mutable_data(), args.grad_step = step.mutable_data();
  args.grad_shape = shape.mutable_data();
  table<Real>().radial_prox_backward(args, run);
  py::dict grads;
  grads["v"] = grad_v, grads["strength"] = strength, grads["step"] = step, grads["shape"] = shape;
  return grads;
}

template <typename Real>
LinfArgs<Real> linf_args(const Array<Real>& v, const py::dict& strengths,
                         const Maybe<Real>& metric) {
  LinfArgs<Real> args{};
  args.T = v.shape(0), args.M = v.shape(1), args.C = v.shape(2);
  args.v = v.data(), args.metric = data(metric);
  args.strength = strength<Real>(strengths, "strength");
  return args;
}

template <typename Real>
Array<Real> linf_prox(const Array<Real>& v, const py::dict& strengths, const Maybe<Real>& metric) {
  LinfArgs<Real> args = linf_args(v, strengths, metric);
  Array<Real> x = make<Real>({args.T, args.M, args.C});
  args.x = x.mutable_data();
  table<Real>().linf_prox(args, run);
  return x;
}

template <typename Real>
py::dict linf_prox_backward(const Array<Real>& grad, const Array<Real>& x, const Array<Real>& v,
                            const py::dict& strengths, const Maybe<Real>& metric) {
  LinfArgs<Real> args = linf_args(v, strengths, metric);
  Array<Real> grad_v = make<Real>({args.T, args.M, args.C}),
              d = make<Real>({args.T, args.M, args.C}), strength = make<Real>({args.T, args.M});
  args.grad = grad.data(), args.solution = x.data(), args.grad_v = grad_v.mutable_data();
  args.grad_strength = strength.mutable_data(), args.grad_metric = d.mutable_data();
  table<Real>().linf_prox_backward(args, run);
  py::dict grads;
  grads["v"] = grad_v, grads["strength"] = strength, grads["metric"] = d;
  return grads;
}

template <typename Real>
PenaltyValueArgs<Real> value_args(const Array<Real>& w, const py::dict& levels) {
  PenaltyValueArgs<Real> args{};
  args.T = w.shape(0), args.M = w.shape(1), args.C = w.shape(2);
  args.w = w.data(), args.penalty = penalty<Real>(levels);
  return args;
}

template <typename Real>
Array<Real> penalty_value(const Array<Real>& w, const py::dict& levels) {
  PenaltyValueArgs<Real> args = value_args(w, levels);
  Array<Real> value = make<Real>({1});
  args.value = value.mutable_data();
  table<Real>().penalty_value(args, run);
  return value;
}

template <typename Real>
py::dict penalty_value_backward(double grad, const Array<Real>& w, const py::dict& levels) {
  PenaltyValueArgs<Real> args = value_args(w, levels);
  const int64_t T = args.T, M = args.M;
  Array<Real> grad_w = make<Real>({T, M, args.C}), l1 = make<Real>({T, M}),
              group = make<Real>({T, M}), shared = make<Real>({M}), ridge = make<Real>({T, M});
  args.grad = grad, args.grad_w = grad_w.mutable_data(), args.grad_l1 = l1.mutable_data();
  args.grad_group = group.mutable_data(), args.grad_shared = shared.mutable_data();
  args.grad_ridge = ridge.mutable_data();
  table<Real>().penalty_value_backward(args, run);
  py::dict grads;
  grads["w"] = grad_w, grads["l1"] = l1, grads["group"] = group, grads["shared"] = shared;
  grads["ridge"] = ridge;
  return grads;
}

template <typename Real>
py::dict feature_usage(const Array<Real>& w) {
  const int64_t T = w.shape(0), M = w.shape(1);
  Array<Real> magnitude = make<Real>({M});
  Array<int64_t> tasks = make<int64_t>({M}), features = make<int64_t>({T});
  table<Real>().feature_usage({T, M, w.shape(2), w.data(), nullptr, magnitude.mutable_data(),
                               tasks.mutable_data(), features.mutable_data(), nullptr},
                              run);
  py::dict usage;
  usage["magnitude"] = magnitude, usage["tasks_per_feature"] = tasks;
  usage["features_per_task"] = features;
  return usage;
}

template <typename Real>
Array<Real> feature_usage_backward(const Array<Real>& grad, const Array<Real>& w) {
  const int64_t T = w.shape(0), M = w.shape(1), C = w.shape(2);
  Array<Real> grad_w = make<Real>({T, M, C});
  table<Real>().feature_usage_backward(
      {T, M, C, w.data(), grad.data(), nullptr, nullptr, nullptr, grad_w.mutable_data()}, run);
  return grad_w;
}

template <typename Real>
py::dict fit_heads(const Array<Real>& z, const Array<Real>& y, const py::dict& levels,
                   const Offsets& offsets, const Maybe<Real>& sample_weight,
                   const Maybe<Real>& init, double tol, int64_t max_iter, int64_t loss) {
  const SamplesArgs<Real> s = samples(z, y, offsets, sample_weight, loss);
  Array<Real> weight = make<Real>({s.T, s.M, s.C}), bias = make<Real>({s.T, s.C}),
              gap = make<Real>({s.T});
  Array<int32_t> n_iter = make<int32_t>({s.T}), status = make<int32_t>({s.T});
  table<Real>().fit_heads(
      {s, penalty<Real>(levels), data(init), tol, max_iter, weight.mutable_data(),
       bias.mutable_data(), gap.mutable_data(), n_iter.mutable_data(), status.mutable_data()},
      run);
  py::dict fit;
  fit["weight"] = weight, fit["bias"] = bias, fit["gap"] = gap;
  fit["n_iter"] = n_iter, fit["status"] = status;
  return fit;
}

template <typename Real>
py::dict fit_heads_backward(const Array<Real>& z, const Array<Real>& y, const py::dict& levels,
                            const Array<Real>& weight, const Array<Real>& grad_weight,
                            const Array<Real>& grad_bias, const Offsets& offsets,
                            const Maybe<Real>& sample_weight, int64_t loss) {
  const SamplesArgs<Real> s = samples(z, y, offsets, sample_weight, loss);
  const auto like = [](const Array<Real>& a) {
    return make<Real>(Shape(a.shape(), a.shape() + a.ndim()));
  };
  // Of the levels that there are: others would keep ridge from the gradient of its own.
  const auto level = [&](const char* name, const Shape& shape) {
    return levels.contains(name) ? Maybe<Real>(make<Real>(shape)) : std::nullopt;
  };
  Array<Real> grad_z = like(z), grad_y = like(y);
  Maybe<Real> l1 = level("l1", {s.T, s.M}), group = level("group", {s.T, s.M}),
              shared = level("shared", {s.M}), ridge = level("ridge", {s.T, s.M});
  Maybe<Real> grad_sample = sample_weight ? Maybe<Real>(like(*sample_weight)) : std::nullopt;
  const auto at = [](Maybe<Real>& grad) { return grad ? grad->mutable_data() : nullptr; };
  table<Real>().fit_heads_backward({s, penalty<Real>(levels), weight.data(), grad_weight.data(),
                                    grad_bias.data(), grad_z.mutable_data(), grad_y.mutable_data(),
                                    at(grad_sample), at(l1), at(group), at(shared), at(ridge)},
                                   run);
  py::dict grads;
  grads["z"] = grad_z, grads["y"] = grad_y;
  const auto give = [&](const char* name, const Maybe<Real>& grad) {
    if (grad) grads[name] = *grad;
  };
  give("l1", l1), give("group", group), give("shared", shared), give("ridge", ridge);
  give("sample_weight", grad_sample);
  return grads;
}

template <typename Real>
Array<Real> lambda_max(const Array<Real>& z, const Array<Real>& y, const py::dict& levels,
                       const Offsets& offsets, const Maybe<Real>& sample_weight, int64_t loss) {
  const SamplesArgs<Real> s = samples(z, y, offsets, sample_weight, loss);
  Array<Real> value = make<Real>({levels.contains("shared") ? 1 : s.T});
  table<Real>().lambda_max({s, penalty<Real>(levels), nullptr, value.mutable_data()}, run);
  return value;
}

template <typename Real>
Array<Real> duality_gap(const Array<Real>& z, const Array<Real>& y, const py::dict& levels,
                        const Array<Real>& weight, const Offsets& offsets,
                        const Maybe<Real>& sample_weight, int64_t loss) {
  const SamplesArgs<Real> s = samples(z, y, offsets, sample_weight, loss);
  Array<Real> value = make<Real>({s.T});
  table<Real>().duality_gap({s, penalty<Real>(levels), weight.data(), value.mutable_data()}, run);
  return value;
}

}  // namespace testing
}  // namespace sparsedis
