// The kernels of heads_backward.cuh.
#include "heads_backward.cuh"

SPARSEDIS_BEGIN

#define SPARSEDIS_KERNEL(name)                                                          \
  template <typename Real>                                                              \
  __global__ void __launch_bounds__(kThreads, 1) name##_kernel(BackwardJob<Real> job) { \
    name(job);                                                                          \
  }                                                                                     \
  template __global__ void name##_kernel<float>(BackwardJob<float>);                    \
  template __global__ void name##_kernel<double>(BackwardJob<double>);

SPARSEDIS_KERNEL(fit_heads_backward)
SPARSEDIS_KERNEL(add_sums)

SPARSEDIS_END
