// The table of CPU kernels, one per instruction set.
#pragma once

#include "../core/args.h"

namespace sparsedis {

template <typename Real>
struct KernelTable {
  void (*prox)(const ProxArgs<Real>&, ParallelFor);
  void (*prox_backward)(const ProxBackwardArgs<Real>&, ParallelFor);
  void (*prox_sgd)(const ProxSgdArgs<Real>&, ParallelFor);
  void (*prox_adamw)(const ProxAdamwArgs<Real>&, ParallelFor);
  void (*radial_prox)(const RadialArgs<Real>&, ParallelFor);
  void (*radial_prox_backward)(const RadialArgs<Real>&, ParallelFor);
  void (*linf_prox)(const LinfArgs<Real>&, ParallelFor);
  void (*linf_prox_backward)(const LinfArgs<Real>&, ParallelFor);
  void (*penalty_value)(const PenaltyValueArgs<Real>&, ParallelFor);
  void (*penalty_value_backward)(const PenaltyValueArgs<Real>&, ParallelFor);
  void (*feature_usage)(const FeatureUsageArgs<Real>&, ParallelFor);
  void (*feature_usage_backward)(const FeatureUsageArgs<Real>&, ParallelFor);
  void (*fit_heads)(const HeadsArgs<Real>&, ParallelFor);
  void (*fit_heads_backward)(const HeadsBackwardArgs<Real>&, ParallelFor);
  void (*lambda_max)(const HeadsReportArgs<Real>&, ParallelFor);
  void (*duality_gap)(const HeadsReportArgs<Real>&, ParallelFor);
};

struct Kernels {
  const char* instruction_set;
  KernelTable<float> float32;
  KernelTable<double> float64;

  template <typename Real>
  const KernelTable<Real>& of() const {
    if constexpr (sizeof(Real) == 4) {
      return float32;
    } else {
      return float64;
    }
  }
};

// The kernels of the best instruction set this processor has, or of the one that the environment
// variable SPARSEDIS_ISA names.
const Kernels& kernels();

}  // namespace sparsedis
