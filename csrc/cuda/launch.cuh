// Kernels enqueued as host code has planned them.
#pragma once

#include <stdexcept>
#include <string>

#include "launches.h"

SPARSEDIS_BEGIN

constexpr int64_t kPlainShared = 48 * 1024;  // bytes that a kernel gets without asking for them

inline void check(cudaError_t error, const char* op, const std::string& doing) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(op) + ": " + doing + ": " + cudaGetErrorString(error));
}

// Enqueues a kernel whose only parameter is a job.
template <typename Job>
void enqueue(const char* op, const Launch& launch, void (*kernel)(Job), Job job,
             cudaStream_t stream) {
  const std::string doing = std::string("kernel ") + launch.kernel;
  const void* entry = reinterpret_cast<const void*>(kernel);
  if (launch.shared_bytes + kScratchBytes > kPlainShared)
    check(cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(launch.shared_bytes)),
          op, doing);
  void* parameters[] = {&job};
  const dim3 grid(static_cast<unsigned>(launch.grid)), block(static_cast<unsigned>(launch.threads));
  const size_t shared = static_cast<size_t>(launch.shared_bytes);
  check(launch.cooperative
            ? cudaLaunchCooperativeKernel(entry, grid, block, parameters, shared, stream)
            : cudaLaunchKernel(entry, grid, block, parameters, shared, stream),
        op, doing);
}

// A kernel of jobs, by the name that a plan has for it.
template <typename Job>
struct Named {
  const char* name;
  void (*kernel)(Job);
};

template <typename Job, size_t count>
void (*find(const Named<Job> (&known)[count], const std::string& name))(Job) {
  for (const Named<Job>& one : known)
    if (name == one.name) return one.kernel;
  throw std::logic_error("there is no kernel " + name);
}

template <typename Job, size_t count>
void launch_named(const char* op, const Plan<Job>& plan, const Named<Job> (&known)[count],
                  int device, void* stream) {
  // PyTorch has set the device for its own copy of the CUDA runtime: this one is told, too.
  check(cudaSetDevice(device), op, "device " + std::to_string(device));
  const auto queue = static_cast<cudaStream_t>(stream);
  if (plan.taken) check(cudaMemsetAsync(plan.taken, 0, sizeof *plan.taken, queue), op, "workspace");
  for (const Launch& one : plan.launches)
    enqueue(op, one, find(known, one.kernel), plan.job, queue);
}

// Kernels of one job for both dtypes, and what launches them: KERNELS(DO) calls DO(Job, name, held)
// for each, of which a multiprocessor's registers are to hold so many blocks.
#define SPARSEDIS_KERNEL(Job, name, held)                                          \
  template <typename Real>                                                         \
  __global__ void __launch_bounds__(kThreads, held) name##_kernel(Job<Real> job) { \
    name(job);                                                                     \
  }                                                                                \
  template __global__ void name##_kernel<float>(Job<float>);                       \
  template __global__ void name##_kernel<double>(Job<double>);
#define SPARSEDIS_NAMED(Job, name, held) {#name, name##_kernel<Real>},
#define SPARSEDIS_LAUNCH(Job, KERNELS, Real_)                                       \
  template <>                                                                       \
  void launch<Job<Real_>>(const char* op, const Plan<Job<Real_>>& plan, int device, \
                          void* stream) {                                           \
    using Real = Real_;                                                             \
    const Named<Job<Real>> known[] = {KERNELS(SPARSEDIS_NAMED)};                    \
    launch_named(op, plan, known, device, stream);                                  \
  }
#define SPARSEDIS_KERNELS(Job, KERNELS) \
  KERNELS(SPARSEDIS_KERNEL)             \
  SPARSEDIS_LAUNCH(Job, KERNELS, float) \
  SPARSEDIS_LAUNCH(Job, KERNELS, double)

SPARSEDIS_END
