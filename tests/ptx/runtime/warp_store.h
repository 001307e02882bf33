// Several lanes of a warp may store to one place of shared memory in one instruction, as Triton's
// reductions do: one of them wins. To ThreadSanitizer the lanes are threads like any other, so it
// is shown the store of the first lane only. If their values differ, a GPU may keep any of them,
// which is worth a warning.
//
// An instruction is the k-th execution of a PTX line by each lane, as in sectors.h.
#pragma once
#include "block.h"

namespace ptx {

#ifdef PTX_TSAN

constexpr int TRACKED_LINES = 1 << 15;  // stores further down are all shown to ThreadSanitizer

struct LineCount {
  u32 block, executions;
};
struct StoreRecord {
  u32 block, line, execution, warp, bytes;
};

inline LineCount line_counts[MAX_THREADS][TRACKED_LINES];  // pages that nobody touches do not exist
inline StoreRecord store_records[SHARED_LIMIT];            // by offset of the first byte
inline bool different_values[TRACKED_LINES];

PTX_NO_TSAN inline u32 count_execution(int line) {
  LineCount& count = line_counts[self().linear][line];
  u32 block = (u32)running->number + 1;
  if (count.block != block) count.executions = 0;
  count.block = block;
  return count.executions++;
}

// Volatile, as the compiler would call memcpy, in which ThreadSanitizer sees an access.
PTX_NO_TSAN inline bool overwrite(volatile u8* target, const volatile u8* source, u32 bytes) {
  bool changed = false;
  for (u32 i = 0; i < bytes; i++) {
    changed |= target[i] != source[i];
    target[i] = source[i];
  }
  return changed;
}

PTX_NO_TSAN inline void warn_of_different_values(int line) {
  char text[100];
  snprintf(text, sizeof text, "lanes of a warp store different values to one place, PTX line %d",
           line);
  warn(text);
}

// Stores the value and returns true if another lane has stored there in the same instruction.
PTX_NO_TSAN inline bool stored_by_warp(u64 address, const u8* value, u32 bytes, int line) {
  u64 offset = address - (u64)running->shared;
  if (offset >= machine.shared_bytes || line >= TRACKED_LINES) return false;
  StoreRecord now{(u32)running->number + 1, (u32)line, count_execution(line), self().warp(), bytes};
  StoreRecord& last = store_records[offset];
  bool again = now.block == last.block && now.line == last.line &&
               now.execution == last.execution && now.warp == last.warp && now.bytes == last.bytes;
  last.block = now.block;
  last.line = now.line;
  last.execution = now.execution;
  last.warp = now.warp;
  last.bytes = now.bytes;
  if (again && overwrite((u8*)address, value, bytes)) different_values[line] = true;
  return again;
}

// At the end of the launch, since ThreadSanitizer sees accesses in snprintf and in warn().
inline void warn_of_different_values() {
  char text[100];
  for (int line = 0; line < TRACKED_LINES; line++) {
    if (!different_values[line]) continue;
    snprintf(text, sizeof text, "lanes of a warp store different values to one place, PTX line %d",
             line);
    warn(text);
  }
}

#else

inline bool stored_by_warp(u64, const u8*, u32, int) { return false; }
inline void warn_of_different_values() {}

#endif

}  // namespace ptx
