// The kernels of coupled_backward.cuh, and their launches.
#include "coupled_backward.cuh"
#include "launch.cuh"

SPARSEDIS_BEGIN

#define SPARSEDIS_ADJOINTS(DO)           \
  DO(CoupledBackwardJob, adjoint_load)   \
  DO(CoupledBackwardJob, adjoint_norms)  \
  DO(CoupledBackwardJob, adjoint_start)  \
  DO(CoupledBackwardJob, adjoint_solve)  \
  DO(CoupledBackwardJob, adjoint_write)  \
  DO(CoupledBackwardJob, adjoint_shared) \
  DO(CoupledBackwardJob, adjoint_sums)

SPARSEDIS_KERNELS(CoupledBackwardJob, SPARSEDIS_ADJOINTS)

SPARSEDIS_END
