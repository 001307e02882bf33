// Fresh memory in huge pages.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstddef>

#include "isa.h"

SPARSEDIS_BEGIN

// The system clears fresh memory at its first write, and with pages of 4 KiB the faults take far
// longer than the writes. Large arrays ask for pages of 2 MiB, as NumPy's do; where the system does
// not grant them nothing else changes.
inline void prefer_huge_pages(void* data, size_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr size_t kPage = 4096, kLeast = size_t{1} << 22;
  if (bytes < kLeast) return;
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  madvise(reinterpret_cast<void*>(first), begin + bytes - first, MADV_HUGEPAGE);
#endif
}

SPARSEDIS_END
