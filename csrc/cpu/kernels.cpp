// Compiled once per instruction set, with SPARSEDIS_ISA naming it.
#include "kernels.h"

#include "coupled_backward.h"
#include "feature_usage.h"
#include "linf_prox.h"
#include "penalty_value.h"
#include "prox_backward.h"
#include "prox_step.h"
#include "radial_prox.h"

SPARSEDIS_BEGIN

template <typename Args>
bool is_coupled(const Args& a) {
  return present(a.penalty.shared);
}

template <typename Real>
void fit_any_heads(const HeadsArgs<Real>& a, ParallelFor run) {
  is_coupled(a) ? fit_coupled_heads(a, run) : fit_heads(a, run);
}

template <typename Real>
void fit_any_heads_backward(const HeadsBackwardArgs<Real>& a, ParallelFor run) {
  is_coupled(a) ? fit_coupled_heads_backward(a, run) : fit_heads_backward(a, run);
}

template <typename Real>
void any_lambda_max(const HeadsReportArgs<Real>& a, ParallelFor run) {
  is_coupled(a) ? coupled_lambda_max(a, run) : lambda_max(a, run);
}

template <typename Real>
void any_duality_gap(const HeadsReportArgs<Real>& a, ParallelFor run) {
  is_coupled(a) ? coupled_duality_gap(a, run) : duality_gap(a, run);
}

template <typename Real>
constexpr KernelTable<Real> table() {
  return {prox<Real>,           prox_backward<Real>,
          prox_sgd<Real>,       prox_adamw<Real>,
          radial_prox<Real>,    radial_prox_backward<Real>,
          linf_prox<Real>,      linf_prox_backward<Real>,
          penalty_value<Real>,  penalty_value_backward<Real>,
          feature_usage<Real>,  feature_usage_backward<Real>,
          fit_any_heads<Real>,  fit_any_heads_backward<Real>,
          any_lambda_max<Real>, any_duality_gap<Real>};
}

#define SPARSEDIS_STRING(name) #name
#define SPARSEDIS_NAME(name) SPARSEDIS_STRING(name)

extern const Kernels kernel_table;
const Kernels kernel_table{SPARSEDIS_NAME(SPARSEDIS_ISA), table<float>(), table<double>()};

SPARSEDIS_END
