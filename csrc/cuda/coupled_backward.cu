// The kernels of coupled_backward.cuh, and their launches.
#include "coupled_backward.cuh"
#include "launch.cuh"

SPARSEDIS_BEGIN

#define SPARSEDIS_ADJOINTS(DO)              \
  DO(CoupledBackwardJob, adjoint_load, 1)   \
  DO(CoupledBackwardJob, adjoint_norms, 1)  \
  DO(CoupledBackwardJob, adjoint_start, 1)  \
  DO(CoupledBackwardJob, adjoint_solve, 1)  \
  DO(CoupledBackwardJob, adjoint_write, 1)  \
  DO(CoupledBackwardJob, adjoint_shared, 1) \
  DO(CoupledBackwardJob, adjoint_sums, 1)

SPARSEDIS_KERNELS(CoupledBackwardJob, SPARSEDIS_ADJOINTS)

SPARSEDIS_END
