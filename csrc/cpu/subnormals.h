// A guard under which subnormal numbers count as zeros in this thread.
//
// x86 processors take them in microcode, many times slower. Moments of an optimiser become
// subnormal for lack of gradients, and stay so; solvers find them in what lies behind the end of a
// row, which whole vectors compute on and nobody uses.
#pragma once

#include "../core/isa.h"

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

SPARSEDIS_BEGIN

#if defined(__SSE__)
class FlushSubnormals {
 public:
  FlushSubnormals() { _mm_setcsr(before_ | kFlushResults | kFlushOperands); }
  ~FlushSubnormals() { _mm_setcsr(before_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  static constexpr unsigned kFlushResults = 0x8000, kFlushOperands = 0x0040;
  const unsigned before_ = _mm_getcsr();
};
#else
struct FlushSubnormals {
  FlushSubnormals() {}  // for the compiler, which warns of variables that do nothing
};
#endif

SPARSEDIS_END
