// The kernels of heads_fit.cuh, and their launches.
#include "heads_fit.cuh"
#include "launch.cuh"

SPARSEDIS_BEGIN

#define SPARSEDIS_FITS(DO) \
  DO(FitJob, fit_ridge, 3) \
  DO(FitJob, fit_proximal, 1)

SPARSEDIS_KERNELS(FitJob, SPARSEDIS_FITS)

SPARSEDIS_END
