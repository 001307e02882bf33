// Registers the CPU kernels with the dispatcher, through libtorch's stable ABI. Schemas are written
// in Python.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <exception>
#include <initializer_list>
#include <optional>
#include <tuple>
#include <vector>

#include "../cpu/kernels.h"
#include "heads.h"
#include "reports.h"

namespace sparsedis {
namespace {

void run_in_parallel(int64_t count, int64_t grain, Body body, void* context) {
  torch::stable::parallel_for(0, count, grain,
                              [&](int64_t begin, int64_t end) { body(begin, end, context); });
}

void run_prox(Tensor x, const Tensor& v, const MaybeTensor& l1, const MaybeTensor& group,
              const MaybeTensor& shared, const MaybeTensor& ridge, const MaybeTensor& metric,
              const Numbers& scale, bool nonneg) {
  if (v.numel() == 0) return;
  const MaybeTensor d = packed(metric);
  dispatch("prox", v, [&](auto real) {
    using Real = decltype(real);
    kernels().of<Real>().prox(
        {v.size(0), v.size(1), v.size(2), data<Real>(v), data<Real>(d),
         penalty<Real>(l1, group, shared, ridge, scale, nonneg), output<Real>(x)},
        run_in_parallel);
  });
}

Tensor prox(Tensor v, MaybeTensor l1, MaybeTensor group, MaybeTensor shared, MaybeTensor ridge,
            MaybeTensor metric, Numbers scale, bool nonneg) {
  v = packed(v);
  Tensor x = make_like(v);
  run_prox(x, v, l1, group, shared, ridge, metric, scale, nonneg);
  return x;
}

// A tensor that is changed in place: contiguous in `memory`, stored back where that is a copy.
struct InPlace {
  Tensor target, memory;

  explicit InPlace(const Tensor& t) : target(t), memory(packed(t)) {}
  void store() {
    if (!target.is_contiguous()) torch::stable::copy_(target, memory);
  }
};

void prox_(Tensor v, MaybeTensor l1, MaybeTensor group, MaybeTensor shared, MaybeTensor ridge,
           MaybeTensor metric, Numbers scale, bool nonneg) {
  InPlace x(v);
  run_prox(x.memory, x.memory, l1, group, shared, ridge, metric, scale, nonneg);
  x.store();
}

using Tensors = std::vector<Tensor>;

// The strengths of the weights of a step: lists as long as theirs, or empty without tensors.
struct Levels {
  Tensors l1, group, shared, ridge;
  Numbers scale;
  bool nonneg;

  // Arguments of the prox of weight i, in place, with every strength times `factor`.
  template <typename Real>
  ProxArgs<Real> prox(size_t i, const Tensor& w, double factor) const {
    const auto level = [i](const Tensors& t) { return t.empty() ? MaybeTensor() : t[i]; };
    Numbers scaled = scale;
    for (double& s : scaled) s *= factor;
    return {w.size(0),
            w.size(1),
            w.size(2),
            data<Real>(w),
            nullptr,
            penalty<Real>(level(l1), level(group), level(shared), level(ridge), scaled, nonneg),
            output<Real>(w)};
  }
};

// Counts a step that begins; returns its number, from 1.
double begin_step(const char* op, const Tensor& step) {
  double number = 0;
  dispatch(op, step, [&](auto real) { number = *output<decltype(real)>(step) += 1; });
  return number;
}

// Kernels read and write every array of a step in the dtype of its weight.
void check_alike(const char* op, const Tensor& w, std::initializer_list<Tensor> others) {
  for (const Tensor& t : others)
    STD_TORCH_CHECK(t.scalar_type() == w.scalar_type(), op, ": dtype ",
                    static_cast<int>(t.scalar_type()), " beside weights of dtype ",
                    static_cast<int>(w.scalar_type()));
}

void prox_sgd_(Tensors weights, Tensors grads, Tensors buffers, Tensors steps, Tensors l1,
               Tensors group, Tensors shared, Tensors ridge, Numbers scale, bool nonneg, double lr,
               double momentum, bool nesterov, double weight_decay) {
  constexpr auto op = "prox_sgd_";
  const Levels levels{l1, group, shared, ridge, scale, nonneg};
  for (size_t i = 0; i < weights.size(); ++i) {
    InPlace w(weights[i]);
    std::optional<InPlace> buffer;
    if (!buffers.empty()) buffer.emplace(buffers[i]);
    check_alike(op, w.target, {grads[i], buffer ? buffer->target : w.target});
    const Tensor grad = packed(grads[i]);
    const double number = begin_step(op, steps[i]) + nesterov;
    if (w.target.numel() == 0) continue;
    const double summed = buffers.empty() ? 1 : (1 - std::pow(momentum, number)) / (1 - momentum);
    dispatch(op, w.memory, [&](auto real) {
      using Real = decltype(real);
      kernels().of<Real>().prox_sgd(
          {levels.prox<Real>(i, w.memory, summed), data<Real>(grad),
           buffer ? output<Real>(buffer->memory) : nullptr, lr, momentum, weight_decay, nesterov},
          run_in_parallel);
    });
    w.store();
    if (buffer) buffer->store();
  }
}

void prox_adamw_(Tensors weights, Tensors grads, Tensors exp_avgs, Tensors exp_avg_sqs,
                 Tensors steps, Tensors l1, Tensors group, Tensors shared, Tensors ridge,
                 Numbers scale, bool nonneg, double lr, double beta1, double beta2, double eps,
                 double weight_decay) {
  constexpr auto op = "prox_adamw_";
  const Levels levels{l1, group, shared, ridge, scale, nonneg};
  for (size_t i = 0; i < weights.size(); ++i) {
    InPlace w(weights[i]), first(exp_avgs[i]), second(exp_avg_sqs[i]);
    check_alike(op, w.target, {grads[i], first.target, second.target});
    const Tensor grad = packed(grads[i]);
    const double number = begin_step(op, steps[i]);
    if (w.target.numel() == 0) continue;
    dispatch(op, w.memory, [&](auto real) {
      using Real = decltype(real);
      kernels().of<Real>().prox_adamw(
          {levels.prox<Real>(i, w.memory, 1), data<Real>(grad), output<Real>(first.memory),
           output<Real>(second.memory), number, lr, beta1, beta2, eps, weight_decay},
          run_in_parallel);
    });
    for (InPlace* written : {&w, &first, &second}) written->store();
  }
}

using Six = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Six prox_backward(Tensor grad, Tensor x, MaybeTensor v, MaybeTensor l1, MaybeTensor group,
                  MaybeTensor shared, MaybeTensor ridge, MaybeTensor metric, Numbers scale,
                  bool nonneg, Flags needs) {
  grad = packed(grad), x = packed(x), v = packed(v), metric = packed(metric);
  const int64_t T = x.size(0), M = x.size(1), C = x.size(2);
  Six out{make(x, {T, M, C}, needs[0]), make(x, {T, M}, needs[1]), make(x, {T, M}, needs[2]),
          make(x, {M}, needs[3]),       make(x, {T, M}, needs[4]), make(x, {T, M, C}, needs[5])};
  if (x.numel() == 0) return zeroed(out);
  dispatch("prox_backward", x, [&](auto real) {
    using Real = decltype(real);
    kernels().of<Real>().prox_backward(
        {T, M, C, data<Real>(grad), data<Real>(x), data<Real>(v), data<Real>(metric),
         penalty<Real>(l1, group, shared, ridge, scale, nonneg),
         output<Real>(std::get<0>(out), needs[0]), output<Real>(std::get<1>(out), needs[1]),
         output<Real>(std::get<2>(out), needs[2]), output<Real>(std::get<3>(out), needs[3]),
         output<Real>(std::get<4>(out), needs[4]), output<Real>(std::get<5>(out), needs[5])},
        run_in_parallel);
  });
  return out;
}

Tensor radial_prox(Tensor v, Tensor strengths, Tensor step, Tensor shape, int64_t kind) {
  v = packed(v);
  Tensor x = make_like(v);
  if (v.numel() == 0) return x;
  dispatch("radial_prox", v, [&](auto real) {
    using Real = decltype(real);
    kernels().of<Real>().radial_prox(
        {v.size(0), v.size(1), v.size(2), data<Real>(v), nullptr, strength<Real>(strengths, 1),
         strength<Real>(step, 1), strength<Real>(shape, 1), kind, output<Real>(x), nullptr, nullptr,
         nullptr, nullptr},
        run_in_parallel);
  });
  return x;
}

using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Four radial_prox_backward(Tensor grad, Tensor v, Tensor strengths, Tensor step, Tensor shape,
                          int64_t kind) {
  grad = packed(grad), v = packed(v);
  const int64_t T = v.size(0), M = v.size(1);
  Four out{make_like(v), make(v, {T, M}), make(v, {T, M}), make(v, {T, M})};
  if (v.numel() == 0) return zeroed(out);
  dispatch("radial_prox_backward", v, [&](auto real) {
    using Real = decltype(real);
    kernels().of<Real>().radial_prox_backward(
        {T, M, v.size(2), data<Real>(v), data<Real>(grad), strength<Real>(strengths, 1),
         strength<Real>(step, 1), strength<Real>(shape, 1), kind, nullptr,
         output<Real>(std::get<0>(out)), output<Real>(std::get<1>(out)),
         output<Real>(std::get<2>(out)), output<Real>(std::get<3>(out))},
        run_in_parallel);
  });
  return out;
}

Tensor linf_prox(Tensor v, Tensor strengths, MaybeTensor metric) {
  v = packed(v), metric = packed(metric);
  Tensor x = make_like(v);
  if (v.numel() == 0) return x;
  dispatch("linf_prox", v, [&](auto real) {
    using Real = decltype(real);
    kernels().of<Real>().linf_prox({v.size(0), v.size(1), v.size(2), data<Real>(v),
                                    data<Real>(metric), strength<Real>(strengths, 1),
                                    output<Real>(x), nullptr, nullptr, nullptr, nullptr, nullptr},
                                   run_in_parallel);
  });
  return x;
}

using Three = std::tuple<Tensor, Tensor, Tensor>;

Three linf_prox_backward(Tensor grad, Tensor v, Tensor x, Tensor strengths, MaybeTensor metric,
                         Flags needs) {
  grad = packed(grad), v = packed(v), x = packed(x), metric = packed(metric);
  const int64_t T = v.size(0), M = v.size(1), C = v.size(2);
  Three out{make(v, {T, M, C}, needs[0]), make(v, {T, M}, needs[1]), make(v, {T, M, C}, needs[2])};
  if (v.numel() == 0) return zeroed(out);
  dispatch("linf_prox_backward", v, [&](auto real) {
    using Real = decltype(real);
    kernels().of<Real>().linf_prox_backward(
        {T, M, C, data<Real>(v), data<Real>(metric), strength<Real>(strengths, 1), nullptr,
         data<Real>(grad), data<Real>(x), output<Real>(std::get<0>(out), needs[0]),
         output<Real>(std::get<1>(out), needs[1]), output<Real>(std::get<2>(out), needs[2])},
        run_in_parallel);
  });
  return out;
}

Tensor penalty_value(Tensor w, MaybeTensor l1, MaybeTensor group, MaybeTensor shared,
                     MaybeTensor ridge, Numbers scale, bool nonneg) {
  w = packed(w);
  Tensor value = make(w, {});
  if (w.numel() == 0) return torch::stable::zero_(value);
  dispatch("penalty_value", w, [&](auto real) {
    using Real = decltype(real);
    kernels().of<Real>().penalty_value(
        {w.size(0), w.size(1), w.size(2), data<Real>(w),
         penalty<Real>(l1, group, shared, ridge, scale, nonneg), 0.0, output<Real>(value), nullptr,
         nullptr, nullptr, nullptr, nullptr},
        run_in_parallel);
  });
  return value;
}

using Five = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Five penalty_value_backward(Tensor grad, Tensor w, MaybeTensor l1, MaybeTensor group,
                            MaybeTensor shared, MaybeTensor ridge, Numbers scale, Flags needs) {
  w = packed(w);
  const int64_t T = w.size(0), M = w.size(1), C = w.size(2);
  Five out{make(w, {T, M, C}, needs[0]), make(w, {T, M}, needs[1]), make(w, {T, M}, needs[2]),
           make(w, {M}, needs[3]), make(w, {T, M}, needs[4])};
  if (w.numel() == 0) return zeroed(out);
  dispatch("penalty_value_backward", w, [&](auto real) {
    using Real = decltype(real);
    kernels().of<Real>().penalty_value_backward(
        {T, M, C, data<Real>(w), penalty<Real>(l1, group, shared, ridge, scale, false),
         static_cast<double>(*data<Real>(grad)), nullptr, output<Real>(std::get<0>(out), needs[0]),
         output<Real>(std::get<1>(out), needs[1]), output<Real>(std::get<2>(out), needs[2]),
         output<Real>(std::get<3>(out), needs[3]), output<Real>(std::get<4>(out), needs[4])},
        run_in_parallel);
  });
  return out;
}

Three feature_usage(Tensor w) {
  w = packed(w);
  const int64_t T = w.size(0), M = w.size(1);
  Three out{make(w, {M}), make_counts(w, M, ScalarType::Long), make_counts(w, T, ScalarType::Long)};
  if (w.numel() == 0) return zeroed(out);
  dispatch("feature_usage", w, [&](auto real) {
    using Real = decltype(real);
    kernels().of<Real>().feature_usage(
        {T, M, w.size(2), data<Real>(w), nullptr, output<Real>(std::get<0>(out)),
         output<int64_t>(std::get<1>(out)), output<int64_t>(std::get<2>(out)), nullptr},
        run_in_parallel);
  });
  return out;
}

Tensor feature_usage_backward(Tensor grad, Tensor w) {
  grad = packed(grad), w = packed(w);
  Tensor grad_w = make_like(w);
  if (w.numel() == 0) return grad_w;
  dispatch("feature_usage_backward", w, [&](auto real) {
    using Real = decltype(real);
    kernels().of<Real>().feature_usage_backward(
        {w.size(0), w.size(1), w.size(2), data<Real>(w), data<Real>(grad), nullptr, nullptr,
         nullptr, output<Real>(grad_w)},
        run_in_parallel);
  });
  return grad_w;
}

// Samples whose offsets may be read.
struct CheckedSamples : Samples {
  CheckedSamples(const Tensor& z_, const Tensor& y_, const MaybeTensor& offsets_,
                 const MaybeTensor& weight_, int64_t loss_, bool intercept)
      : Samples(z_, y_, offsets_, weight_, loss_, intercept) {
    if (offsets) check_offsets();
  }

  void check_offsets() const {
    const int64_t* o = data<int64_t>(offsets);
    const int64_t last = offsets->size(0) - 1;
    STD_TORCH_CHECK(o[0] == 0 && o[last] == z.size(0), "fit_heads: offsets run from ", o[0], " to ",
                    o[last], ", expected from 0 to the ", z.size(0), " rows of z");
    for (int64_t t = 0; t < last; ++t)
      STD_TORCH_CHECK(o[t] <= o[t + 1], "fit_heads: offsets fall from ", o[t], " to ", o[t + 1],
                      " at task ", t);
  }
};

// What serves head solves.
struct Cpu {
  using Samples = CheckedSamples;

  template <typename Real>
  static void lambda_max(const Samples&, const HeadsReportArgs<Real>& args) {
    kernels().of<Real>().lambda_max(args, run_in_parallel);
  }
  template <typename Real>
  static void duality_gap(const Samples&, const HeadsReportArgs<Real>& args) {
    kernels().of<Real>().duality_gap(args, run_in_parallel);
  }
  template <typename Real>
  static void fit_heads(const Samples&, const HeadsArgs<Real>& args) {
    kernels().of<Real>().fit_heads(args, run_in_parallel);
  }
  template <typename Real>
  static void fit_heads_backward(const Samples&, const HeadsBackwardArgs<Real>& args) {
    kernels().of<Real>().fit_heads_backward(args, run_in_parallel);
  }
};

}  // namespace
}  // namespace sparsedis

// Null where SPARSEDIS_ISA asks for what is not there: no exception may cross into ctypes.
extern "C" __attribute__((visibility("default"))) const char* sparsedis_instruction_set() {
  try {
    return sparsedis::kernels().instruction_set;
  } catch (const std::exception&) {
    return nullptr;
  }
}

STABLE_TORCH_LIBRARY_IMPL(sparsedis, CPU, m) {
  m.impl("prox", TORCH_BOX(&sparsedis::prox));
  m.impl("prox_", TORCH_BOX(&sparsedis::prox_));
  m.impl("prox_sgd_", TORCH_BOX(&sparsedis::prox_sgd_));
  m.impl("prox_adamw_", TORCH_BOX(&sparsedis::prox_adamw_));
  m.impl("prox_backward", TORCH_BOX(&sparsedis::prox_backward));
  m.impl("radial_prox", TORCH_BOX(&sparsedis::radial_prox));
  m.impl("radial_prox_backward", TORCH_BOX(&sparsedis::radial_prox_backward));
  m.impl("linf_prox", TORCH_BOX(&sparsedis::linf_prox));
  m.impl("linf_prox_backward", TORCH_BOX(&sparsedis::linf_prox_backward));
  m.impl("penalty_value", TORCH_BOX(&sparsedis::penalty_value));
  m.impl("penalty_value_backward", TORCH_BOX(&sparsedis::penalty_value_backward));
  m.impl("feature_usage", TORCH_BOX(&sparsedis::feature_usage));
  m.impl("feature_usage_backward", TORCH_BOX(&sparsedis::feature_usage_backward));
  m.impl("fit_heads", TORCH_BOX(&sparsedis::fit_heads<sparsedis::Cpu>));
  m.impl("fit_heads_backward", TORCH_BOX(&sparsedis::fit_heads_backward<sparsedis::Cpu>));
  m.impl("lambda_max", TORCH_BOX(&sparsedis::lambda_max<sparsedis::Cpu>));
  m.impl("duality_gap", TORCH_BOX(&sparsedis::duality_gap<sparsedis::Cpu>));
}
