// The Python module `sparsedis_cuda_jobs`: how CUDA kernels are launched, and with what parameters,
// worked out by the host code that launches them on a GPU. For tests, which execute their PTX.
#include "../cuda/report_job.h"
#include "arrays.h"

namespace sparsedis {
namespace testing {
namespace {

using namespace pybind11::literals;

// (kernel, grid, bytes of shared memory) of every launch, in order.
py::list launches_of(const std::vector<SPARSEDIS_ISA::Launch>& launches) {
  py::list list;
  for (const SPARSEDIS_ISA::Launch& l : launches)
    list.append(py::make_tuple(l.kernel, l.grid, l.shared_bytes));
  return list;
}

// `machine` is (bytes of shared memory that a block may have, blocks at a time).
template <typename Real>
class Report {
 public:
  Report(const Array<Real>& z, const Array<Real>& y, const py::dict& levels, Array<Real>& value,
         const Maybe<Real>& weight, const Offsets& offsets, const Maybe<Real>& sample_weight,
         int64_t loss, bool fit_intercept, std::pair<int64_t, int64_t> machine) {
    SamplesArgs<Real> s = samples(z, y, offsets, sample_weight, loss);
    s.fit_intercept = fit_intercept;
    const int64_t rows = offsets ? z.shape(0) : s.T * s.n;
    plan_ = SPARSEDIS_ISA::plan_report<Real>(
        {s, penalty<Real>(levels), data(weight), value.mutable_data()}, rows,
        {machine.first, machine.second});
  }

  int64_t workspace_bytes() const { return plan_.workspace_bytes(); }
  py::list launches() const { return launches_of(plan_.launches); }
  // The kernels' only parameter.
  py::bytes parameter(py::array_t<uint8_t>& workspace) {
    plan_.place(reinterpret_cast<char*>(workspace.mutable_data()));
    return py::bytes(reinterpret_cast<const char*>(&plan_.job), sizeof plan_.job);
  }

 private:
  SPARSEDIS_ISA::ReportPlan<Real> plan_;
};

template <typename Real>
void bind_report(py::module_& m, const char* name) {
  py::class_<Report<Real>>(m, name)
      .def(py::init<const Array<Real>&, const Array<Real>&, const py::dict&, Array<Real>&,
                    const Maybe<Real>&, const Offsets&, const Maybe<Real>&, int64_t, bool,
                    std::pair<int64_t, int64_t>>(),
           "z"_a.noconvert(), "y"_a.noconvert(), "penalty"_a, "value"_a.noconvert(),
           "weight"_a = py::none(), "offsets"_a = py::none(), "sample_weight"_a = py::none(),
           "loss"_a = 0, "fit_intercept"_a = true, "machine"_a)
      .def("workspace_bytes", &Report<Real>::workspace_bytes)
      .def("launches", &Report<Real>::launches)
      .def("parameter", &Report<Real>::parameter);
}

}  // namespace

PYBIND11_MODULE(sparsedis_cuda_jobs, m) {
  bind_report<float>(m, "ReportFloat");
  bind_report<double>(m, "ReportDouble");
}

}  // namespace testing
}  // namespace sparsedis
