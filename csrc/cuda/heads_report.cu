// The kernels of heads_report.cuh, and their launches.
#include "heads_report.cuh"

SPARSEDIS_BEGIN

#define SPARSEDIS_KERNEL(name)                                                        \
  template <typename Real>                                                            \
  __global__ void __launch_bounds__(kThreads, 1) name##_kernel(ReportJob<Real> job) { \
    name(job);                                                                        \
  }                                                                                   \
  template __global__ void name##_kernel<float>(ReportJob<float>);                    \
  template __global__ void name##_kernel<double>(ReportJob<double>);

SPARSEDIS_KERNEL(lambda_max)
SPARSEDIS_KERNEL(duality_gap)
SPARSEDIS_KERNEL(coupled_pull)
SPARSEDIS_KERNEL(feature_stretch)
SPARSEDIS_KERNEL(coupled_loss)
SPARSEDIS_KERNEL(feature_value)
SPARSEDIS_KERNEL(coupled_gap)
SPARSEDIS_KERNEL(coupled_lambda_max)

SPARSEDIS_END
