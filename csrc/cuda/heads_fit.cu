// The kernels of heads_fit.cuh.
#include "heads_fit.cuh"

SPARSEDIS_BEGIN

#define SPARSEDIS_KERNEL(name)                                                     \
  template <typename Real>                                                         \
  __global__ void __launch_bounds__(kThreads, 1) name##_kernel(FitJob<Real> job) { \
    name(job);                                                                     \
  }                                                                                \
  template __global__ void name##_kernel<float>(FitJob<float>);                    \
  template __global__ void name##_kernel<double>(FitJob<double>);

SPARSEDIS_KERNEL(fit_ridge)
SPARSEDIS_KERNEL(fit_proximal)

SPARSEDIS_END
