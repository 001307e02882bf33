// The kernels of heads_backward.cuh, and their launches.
#include "heads_backward.cuh"
#include "launch.cuh"

SPARSEDIS_BEGIN

#define SPARSEDIS_GRADIENTS(DO)          \
  DO(BackwardJob, fit_heads_backward, 1) \
  DO(BackwardJob, add_sums, 1)

SPARSEDIS_KERNELS(BackwardJob, SPARSEDIS_GRADIENTS)

SPARSEDIS_END
