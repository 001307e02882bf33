// Kernels enqueued as host code has planned them.
#pragma once

#include <stdexcept>
#include <string>

#include "task_job.h"

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
  check(cudaLaunchKernel(entry, dim3(static_cast<unsigned>(launch.grid)), dim3(kThreads),
                         parameters, static_cast<size_t>(launch.shared_bytes), stream),
        op, doing);
}

SPARSEDIS_END
