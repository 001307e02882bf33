// Chooses the instruction set once, at the first call.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace sparsedis {

namespace baseline {
extern const Kernels kernel_table;
}
#ifdef SPARSEDIS_X86
namespace avx2 {
extern const Kernels kernel_table;
}
namespace avx512 {
extern const Kernels kernel_table;
}
#endif

namespace {

struct Candidate {
  const Kernels* kernels;
  bool supported;
};

const Kernels& choose() {
#ifdef SPARSEDIS_X86
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const Candidate candidates[] = {{&avx512::kernel_table, has_avx512},
                                  {&avx2::kernel_table, has_avx2},
                                  {&baseline::kernel_table, true}};
#else
  const Candidate candidates[] = {{&baseline::kernel_table, true}};
#endif
  const char* requested = std::getenv("SPARSEDIS_ISA");
  if (requested && *requested == '\0') requested = nullptr;
  for (const Candidate& c : candidates) {
    const bool named = requested && std::strcmp(requested, c.kernels->instruction_set) == 0;
    if (c.supported && (named || !requested)) return *c.kernels;
  }
  throw std::runtime_error(std::string("SPARSEDIS_ISA=") + requested +
                           " is not an instruction set of this library and processor; "
                           "there are baseline, avx2, avx512 (on x86-64)");
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace sparsedis
