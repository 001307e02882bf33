// Registers the CUDA kernels with the dispatcher, through libtorch's stable ABI. Nothing here waits
// for the device.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "../cuda/heads_report.h"
#include "reports.h"

// Declared here, since only a PyTorch with CUDA has it.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace sparsedis {
namespace {

void* current_stream(int32_t device) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return stream;
}

// What serves the reports of head solves. Offsets lie on the device, and are not read here.
struct Cuda {
  using Samples = sparsedis::Samples;

  template <typename Real>
  static void lambda_max(const Samples& s, const HeadsReportArgs<Real>& args) {
    run(s, args);
  }
  template <typename Real>
  static void duality_gap(const Samples& s, HeadsReportArgs<Real> args) {
    if (!args.weight) args.weight = args.value;  // of no features; null asks for lambda_max
    run(s, args);
  }

 private:
  template <typename Real>
  static void run(const Samples& s, const HeadsReportArgs<Real>& args) {
    const int32_t device = s.z.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    const int64_t rows = s.offsets ? s.z.size(0) : s.T() * args.samples.n;
    const char* op = args.weight ? "duality_gap" : "lambda_max";
    cuda::ReportPlan<Real> plan = cuda::plan_report(args, rows, cuda::machine_of(op, device));
    const Tensor workspace =
        torch::stable::new_empty(s.z, {plan.workspace_bytes()}, ScalarType::Byte);
    plan.place(output<char>(workspace));
    cuda::launch_report(plan, device, current_stream(device));
  }
};

}  // namespace
}  // namespace sparsedis

STABLE_TORCH_LIBRARY_IMPL(sparsedis, CUDA, m) {
  m.impl("lambda_max", TORCH_BOX(&sparsedis::lambda_max<sparsedis::Cuda>));
  m.impl("duality_gap", TORCH_BOX(&sparsedis::duality_gap<sparsedis::Cuda>));
}
