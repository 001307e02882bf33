// The Python module `sparsedis_cuda_jobs`: how CUDA kernels are launched, and with what parameters,
// worked out by the host code that launches them on a GPU. For tests, which execute their PTX.
#include "../cuda/backward_job.h"
#include "../cuda/coupled_backward_job.h"
#include "../cuda/coupled_fit_job.h"
#include "../cuda/fit_job.h"
#include "../cuda/report_job.h"
#include "arrays.h"

namespace sparsedis {
namespace testing {
namespace {

using namespace pybind11::literals;

// (kernel, grid, threads of a block, bytes of shared memory, cooperative) of every launch, in
// order.
py::list launches_of(const std::vector<SPARSEDIS_ISA::Launch>& launches) {
  py::list list;
  for (const SPARSEDIS_ISA::Launch& l : launches)
    list.append(py::make_tuple(l.kernel, l.grid, l.threads, l.shared_bytes, l.cooperative));
  return list;
}

using Pair = std::pair<int64_t, int64_t>;

// `machine` is (bytes of shared memory that a block may have, blocks at a time).
SPARSEDIS_ISA::Machine machine_of(const Pair& machine) {
  return {machine.first, machine.second, machine.second};
}

// A job that is planned; what it points into is the caller's.
template <typename Kind>
class Job {
  using Plan = SPARSEDIS_ISA::Plan<Kind>;

 public:
  explicit Job(Plan plan) : plan_(std::move(plan)) {}

  int64_t workspace_bytes() const { return plan_.workspace_bytes(); }
  py::list launches() const { return launches_of(plan_.launches); }
  // The kernels' only parameter.
  py::bytes parameter(py::array_t<uint8_t>& workspace) {
    plan_.place(reinterpret_cast<char*>(workspace.mutable_data()));
    if (plan_.taken) *plan_.taken = 0;
    return py::bytes(reinterpret_cast<const char*>(&plan_.job), sizeof plan_.job);
  }

 private:
  Plan plan_;
};

template <typename Real>
using ReportJob = Job<SPARSEDIS_ISA::ReportJob<Real>>;
template <typename Real>
using FitJob = Job<SPARSEDIS_ISA::FitJob<Real>>;
template <typename Real>
using CoupledFitJob = Job<SPARSEDIS_ISA::CoupledFitJob<Real>>;

template <typename Real>
ReportJob<Real> plan_report(const Array<Real>& z, const Array<Real>& y, const Offsets& offsets,
                            const Maybe<Real>& sample_weight, int64_t loss, bool fit_intercept,
                            const py::dict& levels, const Pair& machine, Array<Real>& value,
                            const Maybe<Real>& weight) {
  SamplesArgs<Real> s = samples(z, y, offsets, sample_weight, loss);
  s.fit_intercept = fit_intercept;
  return ReportJob<Real>(SPARSEDIS_ISA::plan_report<Real>(
      {s, penalty<Real>(levels), data(weight), value.mutable_data()},
      offsets ? z.shape(0) : s.T * s.n, machine_of(machine)));
}

template <typename Real>
py::object plan_fit(const Array<Real>& z, const Array<Real>& y, const Offsets& offsets,
                    const Maybe<Real>& sample_weight, int64_t loss, bool fit_intercept,
                    const py::dict& levels, const Pair& machine, const Maybe<Real>& init,
                    double tol, int64_t max_iter, Array<Real>& weight, Array<Real>& bias,
                    Array<Real>& gap, Array<int32_t>& n_iter, Array<int32_t>& status) {
  SamplesArgs<Real> s = samples(z, y, offsets, sample_weight, loss);
  s.fit_intercept = fit_intercept;
  const HeadsArgs<Real> args{s,
                             penalty<Real>(levels),
                             data(init),
                             tol,
                             max_iter,
                             weight.mutable_data(),
                             bias.mutable_data(),
                             gap.mutable_data(),
                             n_iter.mutable_data(),
                             status.mutable_data()};
  const int64_t rows = offsets ? z.shape(0) : s.T * s.n;
  if (SPARSEDIS_ISA::present(args.penalty.shared))
    return py::cast(CoupledFitJob<Real>(
        SPARSEDIS_ISA::plan_coupled_fit<Real>(args, rows, machine_of(machine))));
  return py::cast(FitJob<Real>(SPARSEDIS_ISA::plan_fit<Real>(args, rows, machine_of(machine))));
}

template <typename Real>
using BackwardJob = Job<SPARSEDIS_ISA::BackwardJob<Real>>;
template <typename Real>
using CoupledBackwardJob = Job<SPARSEDIS_ISA::CoupledBackwardJob<Real>>;

// `grads` are those of z, y, sample_weight and the four levels, or None where not asked for.
template <typename Real>
py::object plan_backward(const Array<Real>& z, const Array<Real>& y, const Offsets& offsets,
                         const Maybe<Real>& sample_weight, int64_t loss, bool fit_intercept,
                         const py::dict& levels, const Pair& machine, const Array<Real>& weight,
                         const Array<Real>& grad_weight, const Array<Real>& grad_bias,
                         std::vector<Maybe<Real>> grads) {
  SamplesArgs<Real> s = samples(z, y, offsets, sample_weight, loss);
  s.fit_intercept = fit_intercept;
  const auto to = [&](int k) { return grads[k] ? grads[k]->mutable_data() : nullptr; };
  const HeadsBackwardArgs<Real> args{s,
                                     penalty<Real>(levels),
                                     weight.data(),
                                     grad_weight.data(),
                                     grad_bias.data(),
                                     to(0),
                                     to(1),
                                     to(2),
                                     to(3),
                                     to(4),
                                     to(5),
                                     to(6)};
  const int64_t rows = offsets ? z.shape(0) : s.T * s.n;
  if (SPARSEDIS_ISA::present(args.penalty.shared))
    return py::cast(CoupledBackwardJob<Real>(
        SPARSEDIS_ISA::plan_coupled_backward<Real>(args, rows, machine_of(machine))));
  return py::cast(
      BackwardJob<Real>(SPARSEDIS_ISA::plan_backward<Real>(args, rows, machine_of(machine))));
}

template <typename Kind>
void bind_job(py::module_& m, const char* name) {
  py::class_<Kind>(m, name)
      .def("workspace_bytes", &Kind::workspace_bytes)
      .def("launches", &Kind::launches)
      .def("parameter", &Kind::parameter);
}

// Overloads by dtype: z is never converted.
template <typename Real>
void bind_plans(py::module_& m) {
  const auto z = "z"_a.noconvert(), y = "y"_a.noconvert();
  const auto offsets = "offsets"_a.none(true), sample_weight = "sample_weight"_a.none(true);
  m.def("plan_report", plan_report<Real>, z, y, offsets, sample_weight, "loss"_a, "fit_intercept"_a,
        "penalty"_a, "machine"_a, "value"_a.noconvert(), "weight"_a.none(true));
  m.def("plan_fit", plan_fit<Real>, z, y, offsets, sample_weight, "loss"_a, "fit_intercept"_a,
        "penalty"_a, "machine"_a, "init"_a.none(true), "tol"_a, "max_iter"_a,
        "weight"_a.noconvert(), "bias"_a.noconvert(), "gap"_a.noconvert(), "n_iter"_a.noconvert(),
        "status"_a.noconvert());
  m.def("plan_backward", plan_backward<Real>, z, y, offsets, sample_weight, "loss"_a,
        "fit_intercept"_a, "penalty"_a, "machine"_a, "weight"_a.noconvert(),
        "grad_weight"_a.noconvert(), "grad_bias"_a.noconvert(), "grads"_a);
}

}  // namespace

PYBIND11_MODULE(sparsedis_cuda_jobs, m) {
  bind_job<ReportJob<float>>(m, "ReportJobFloat");
  bind_job<ReportJob<double>>(m, "ReportJobDouble");
  bind_job<FitJob<float>>(m, "FitJobFloat");
  bind_job<FitJob<double>>(m, "FitJobDouble");
  bind_job<CoupledFitJob<float>>(m, "CoupledFitJobFloat");
  bind_job<CoupledFitJob<double>>(m, "CoupledFitJobDouble");
  bind_job<BackwardJob<float>>(m, "BackwardJobFloat");
  bind_job<BackwardJob<double>>(m, "BackwardJobDouble");
  bind_job<CoupledBackwardJob<float>>(m, "CoupledBackwardJobFloat");
  bind_job<CoupledBackwardJob<double>>(m, "CoupledBackwardJobDouble");
  bind_plans<float>(m);
  bind_plans<double>(m);
}

}  // namespace testing
}  // namespace sparsedis
