// The kernels of heads_report.cuh, and their launches.
#include "heads_report.cuh"
#include "heads_report.h"
#include "launch.cuh"

SPARSEDIS_BEGIN

#define SPARSEDIS_KERNELS(DO) \
  DO(lambda_max)              \
  DO(duality_gap)             \
  DO(coupled_pull)            \
  DO(feature_stretch)         \
  DO(coupled_loss)            \
  DO(feature_value)           \
  DO(coupled_gap)             \
  DO(coupled_lambda_max)

#define SPARSEDIS_KERNEL(name)                                                        \
  template <typename Real>                                                            \
  __global__ void __launch_bounds__(kThreads, 1) name##_kernel(ReportJob<Real> job) { \
    name(job);                                                                        \
  }                                                                                   \
  template __global__ void name##_kernel<float>(ReportJob<float>);                    \
  template __global__ void name##_kernel<double>(ReportJob<double>);

SPARSEDIS_KERNELS(SPARSEDIS_KERNEL)

template <typename Real>
using ReportKernel = void (*)(ReportJob<Real>);

template <typename Real>
ReportKernel<Real> report_kernel(const std::string& name) {
  struct Named {
    const char* name;
    ReportKernel<Real> kernel;
  };
#define SPARSEDIS_NAMED(name) {#name, name##_kernel<Real>},
  const Named kernels[] = {SPARSEDIS_KERNELS(SPARSEDIS_NAMED)};
  for (const Named& known : kernels)
    if (name == known.name) return known.kernel;
  throw std::logic_error("there is no kernel " + name);
}

// Blocks that a multiprocessor is offered: as many as of small tasks run there at a time.
constexpr int64_t kBlocksPerProcessor = 8;

Machine machine_of(const char* op, int device) {
  const auto attribute = [&](cudaDeviceAttr name) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, name, device), op, "device " + std::to_string(device));
    return value;
  };
  return {attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) - kScratchBytes,
          attribute(cudaDevAttrMultiProcessorCount) * kBlocksPerProcessor};
}

template <typename Real>
void launch_report(const ReportPlan<Real>& plan, int device, void* stream) {
  // PyTorch has set the device for its own copy of the CUDA runtime: this one is told, too.
  check(cudaSetDevice(device), plan.op(), "device " + std::to_string(device));
  for (const Launch& launch : plan.launches)
    enqueue(plan.op(), launch, report_kernel<Real>(launch.kernel), plan.job,
            static_cast<cudaStream_t>(stream));
}

template void launch_report<float>(const ReportPlan<float>&, int, void*);
template void launch_report<double>(const ReportPlan<double>&, int, void*);

SPARSEDIS_END
