// Registers the CUDA kernels with the dispatcher, through libtorch's stable ABI. Nothing here waits
// for the device.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "../cuda/launches.h"
#include "heads.h"

// Declared here, since only a PyTorch with CUDA has it.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace sparsedis {
namespace {

void* current_stream(int32_t device) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return stream;
}

// What serves head solves. Offsets lie on the device, and are not read here.
struct Cuda {
  using Samples = sparsedis::Samples;

  template <typename Real>
  static void lambda_max(const Samples& s, const HeadsReportArgs<Real>& args) {
    run("lambda_max", s, args, cuda::plan_report<Real>);
  }
  template <typename Real>
  static void duality_gap(const Samples& s, HeadsReportArgs<Real> args) {
    if (!args.weight) args.weight = args.value;  // of no features; null asks for lambda_max
    run("duality_gap", s, args, cuda::plan_report<Real>);
  }
  template <typename Real>
  static void fit_heads(const Samples& s, const HeadsArgs<Real>& args) {
    if (cuda::present(args.penalty.shared))
      run("fit_heads", s, args, cuda::plan_coupled_fit<Real>);
    else
      run("fit_heads", s, args, cuda::plan_fit<Real>);
  }
  template <typename Real>
  static void fit_heads_backward(const Samples& s, const HeadsBackwardArgs<Real>& args) {
    if (cuda::present(args.penalty.shared))
      run("fit_heads_backward", s, args, cuda::plan_coupled_backward<Real>);
    else
      run("fit_heads_backward", s, args, cuda::plan_backward<Real>);
  }

 private:
  template <typename Args, typename PlanOf>
  static void run(const char* op, const Samples& s, const Args& args, PlanOf plan_of) {
    const int32_t device = s.z.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    const int64_t rows = s.offsets ? s.z.size(0) : s.T() * args.samples.n;
    auto plan = plan_of(args, rows, cuda::machine_of(op, device));
    const Tensor workspace =
        torch::stable::new_empty(s.z, {plan.workspace_bytes()}, ScalarType::Byte);
    plan.place(output<char>(workspace));
    cuda::launch(op, plan, device, current_stream(device));
  }
};

}  // namespace
}  // namespace sparsedis

STABLE_TORCH_LIBRARY_IMPL(sparsedis, CUDA, m) {
  m.impl("lambda_max", TORCH_BOX(&sparsedis::lambda_max<sparsedis::Cuda>));
  m.impl("duality_gap", TORCH_BOX(&sparsedis::duality_gap<sparsedis::Cuda>));
  m.impl("fit_heads", TORCH_BOX(&sparsedis::fit_heads<sparsedis::Cuda>));
  m.impl("fit_heads_backward", TORCH_BOX(&sparsedis::fit_heads_backward<sparsedis::Cuda>));
}
