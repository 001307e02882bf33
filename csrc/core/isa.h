// Every header of core/ lives in a namespace named after the instruction set it is compiled for, so
// that the linker never merges a template compiled for one instruction set with another's.
#pragma once

#include <cmath>
#include <cstdint>

#ifndef SPARSEDIS_ISA
#define SPARSEDIS_ISA baseline
#endif

#ifdef __CUDACC__
#define SPARSEDIS_HD __host__ __device__
#else
#define SPARSEDIS_HD
#endif

#define SPARSEDIS_BEGIN \
  namespace sparsedis { \
  namespace SPARSEDIS_ISA {
#define SPARSEDIS_END \
  }                   \
  }
