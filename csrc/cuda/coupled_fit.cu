// The kernels of coupled_fit.cuh, and their launches.
#include "coupled_fit.cuh"
#include "launch.cuh"

SPARSEDIS_BEGIN

#define SPARSEDIS_COUPLED_FITS(DO)    \
  DO(CoupledFitJob, coupled_start, 1) \
  DO(CoupledFitJob, coupled_steps, 1) \
  DO(CoupledFitJob, coupled_write, 1)

SPARSEDIS_KERNELS(CoupledFitJob, SPARSEDIS_COUPLED_FITS)

SPARSEDIS_END
