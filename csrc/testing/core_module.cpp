// The Python module `sparsedis_core`: the torch-free core and the CPU kernels over NumPy arrays.
// For tests only, which build it plain and with sanitizers; no wheel holds it.
#include "faults.h"
#include "pieces.h"

namespace sparsedis {
namespace testing {
namespace {

using namespace pybind11::literals;

void bind_pieces(py::module_& m) {
  m.def("soft_threshold", soft_threshold<double>);
  m.def("exp_of", exp_of<double>);
  m.def("exp_of_float", exp_of<float>);
  m.def("log_of", log_of<double>);
  m.def("log_of_float", log_of<float>);
  m.def("log1p_of", log1p_of<double>);
  m.def("log1p_of_float", log1p_of<float>);
  m.def("secular_root", root_of);
  m.def("clip_level", [](const Doubles& v, const Maybe<double>& metric, double lam) {
    return clip_level(v.data(), data(metric), v.size(), lam);
  });
  m.def("radial", radial_of);
  m.def("gram_columns", gram_columns_of);
  m.def("cholesky", cholesky_of);
  m.def("cholesky_solve", cholesky_solve_of);
  m.def("invert", invert_of);
  m.def("dual_norm", dual_norm_of);
  m.def("feature_dual_norm", feature_dual_norm_of);
  m.def("feature_conjugate", feature_conjugate_of);
  m.def("feature_norm", feature_norm_of);
  py::class_<Support>(m, "Support")
      .def(py::init<const Doubles&, const Doubles&, const Doubles&, const Doubles&, bool>())
      .def("apply", &Support::apply_to)
      .def("by_cg", &Support::by_cg)
      .def("directly", &Support::directly);
  py::class_<Solve>(m, "Solve")
      .def(py::init<const Doubles&, const Doubles&, const py::dict&, const Doubles&>())
      .def("descend", &Solve::descend_once)
      .def("newton", &Solve::newton)
      .def("relative_gap", &Solve::relative_gap)
      .def("features", &Solve::features)
      .def("weights", &Solve::weights)
      .def("correlations", &Solve::correlations);
}

// Overloads by dtype: the first array is never converted.
template <typename Real>
void bind_batch(py::module_& m) {
  const auto v = "v"_a.noconvert(), grad = "grad"_a.noconvert(), z = "z"_a.noconvert();
  const auto metric = "metric"_a = py::none(), offsets = "offsets"_a = py::none();
  const auto weight = "sample_weight"_a = py::none(), init = "init"_a = py::none();
  const auto loss = "loss"_a = 0;
  m.def("prox", prox<Real>, v, "penalty"_a, metric);
  m.def("prox_backward", prox_backward<Real>, grad, "x"_a, "v"_a, "penalty"_a, metric);
  m.def("prox_sgd", prox_sgd<Real>, v, "grad"_a, "momentum"_a.none(true), "penalty"_a,
        "nesterov"_a = false);
  m.def("prox_adamw", prox_adamw<Real>, v, "grad"_a, "first"_a, "second"_a, "penalty"_a);
  m.def("radial_prox", radial_prox<Real>, v, "strengths"_a, "kind"_a);
  m.def("radial_prox_backward", radial_prox_backward<Real>, grad, "v"_a, "strengths"_a, "kind"_a);
  m.def("linf_prox", linf_prox<Real>, v, "strengths"_a, metric);
  m.def("linf_prox_backward", linf_prox_backward<Real>, grad, "x"_a, "v"_a, "strengths"_a, metric);
  m.def("penalty_value", penalty_value<Real>, v, "penalty"_a);
  m.def("penalty_value_backward", penalty_value_backward<Real>, "grad"_a, v, "penalty"_a);
  m.def("feature_usage", feature_usage<Real>, v);
  m.def("feature_usage_backward", feature_usage_backward<Real>, grad, "v"_a);
  m.def("fit_heads", fit_heads<Real>, z, "y"_a, "penalty"_a, offsets, weight, init, "tol"_a = 1e-4,
        "max_iter"_a = 10000, loss);
  m.def("fit_heads_backward", fit_heads_backward<Real>, z, "y"_a, "penalty"_a, "weight"_a,
        "grad_weight"_a, "grad_bias"_a, offsets, weight, loss);
  m.def("lambda_max", lambda_max<Real>, z, "y"_a, "penalty"_a, offsets, weight, loss);
  m.def("duality_gap", duality_gap<Real>, z, "y"_a, "penalty"_a, "weight"_a, offsets, weight, loss);
}

}  // namespace
}  // namespace testing
}  // namespace sparsedis

PYBIND11_MODULE(sparsedis_core, m) {
  using namespace sparsedis::testing;
  bind_pieces(m);
  bind_batch<float>(m);
  bind_batch<double>(m);
  m.def("set_threads", [](int64_t count) { threads = count; });
  m.def("threads_started", [] { return threads_started; });
  m.def("overrun", overrun);
  m.def("race", race);
  m.def("overflow", overflow);
}
