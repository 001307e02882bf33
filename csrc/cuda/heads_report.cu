// The kernels of heads_report.cuh, and their launches.
#include "heads_report.cuh"
#include "launch.cuh"

SPARSEDIS_BEGIN

#define SPARSEDIS_REPORTS(DO)       \
  DO(ReportJob, lambda_max, 1)      \
  DO(ReportJob, duality_gap, 3)     \
  DO(ReportJob, coupled_pull, 3)    \
  DO(ReportJob, feature_stretch, 1) \
  DO(ReportJob, coupled_loss, 3)    \
  DO(ReportJob, feature_value, 1)   \
  DO(ReportJob, coupled_gap, 1)     \
  DO(ReportJob, coupled_lambda_max, 1)

SPARSEDIS_KERNELS(ReportJob, SPARSEDIS_REPORTS)

// Blocks that a multiprocessor is offered: as many as of small tasks run there at a time.
constexpr int64_t kBlocksPerProcessor = 8;
// Blocks whose registers it has room for, however many a kernel's threads take.
constexpr int64_t kResidentPerProcessor = 2;

Machine machine_of(const char* op, int device) {
  const auto attribute = [&](cudaDeviceAttr name) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, name, device), op, "device " + std::to_string(device));
    return value;
  };
  const int64_t processors = attribute(cudaDevAttrMultiProcessorCount);
  return {attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) - kScratchBytes,
          processors * kBlocksPerProcessor, processors * kResidentPerProcessor};
}

SPARSEDIS_END
