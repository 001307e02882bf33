// Everything a translated module includes.
#pragma once
#include "warp.h"

namespace ptx {

struct Entry {
  const char* name;
  void (*function)(const char* parameters);
  u32 static_shared_bytes;
};

struct ArrayRange {
  u64 begin, bytes;
};

// Mirrors the ctypes structure in execute.py.
struct LaunchRequest {
  const char* entry;
  const char* parameters;
  u64 first_block, block_count;
  Dim3 grid, block;
  u32 dynamic_shared_bytes;
  Options options;
  u32 array_count;
  const ArrayRange* arrays;
};

// Defined by the generated module.
extern const Entry module_entries[];
extern const u32 module_entry_count;

[[noreturn]] inline void device_assert_failed(u64 message, u64 file, u32 source_line, int line) {
  static char text[600];
  snprintf(text, sizeof text, "device assertion failed: %.300s (%.200s:%u)", (const char*)message,
           (const char*)file, source_line);
  fail(line, text);
}

inline const Entry* find_entry(const char* name) {
  for (u32 i = 0; i < module_entry_count; i++)
    if (!strcmp(module_entries[i].name, name)) return &module_entries[i];
  return nullptr;
}

inline void register_arrays(const LaunchRequest& request) {
  argument_ranges.clear();
  for (u32 i = 0; i < request.array_count; i++) {
    Range range{request.arrays[i].begin, request.arrays[i].bytes};
    if (request.options.check_block_races) {
      range.last_writer = (u32*)calloc(range.bytes + 1, sizeof(u32));
      range.last_reader = (u32*)calloc(range.bytes + 1, sizeof(u32));
    }
    argument_ranges.push_back(range);
  }
}

inline void release_arrays() {
  for (Range& range : argument_ranges) {
    free(range.last_writer);
    free(range.last_reader);
  }
  argument_ranges.clear();
}

inline void run_entry(const Entry& entry, const LaunchRequest& request) {
  machine.grid = request.grid;
  machine.block = request.block;
  machine.first_block = request.first_block;
  machine.block_count = request.block_count;
  machine.thread_count = (u32)request.block.count();
  machine.dynamic_shared_bytes = request.dynamic_shared_bytes;
  machine.shared_bytes = entry.static_shared_bytes + request.dynamic_shared_bytes;
  machine.options = request.options;
  thread_main = entry.function;
  thread_parameters = request.parameters;
  if (machine.shared_bytes > SHARED_LIMIT)
    return record_error("%u bytes of shared memory; a block has at most %u", machine.shared_bytes,
                        SHARED_LIMIT);
  register_arrays(request);
  run_grid();
  finish_sites();
  warn_of_different_values();
  release_arrays();
}

inline void launch(const LaunchRequest& request, Result* result) {
  machine.failed = false;
  machine.result = {};
  const Entry* entry = find_entry(request.entry);
  if (!entry)
    record_error("no entry named %s", request.entry);
  else if (request.block.count() > MAX_THREADS)
    record_error("more than 1024 threads in a block");
  else
    run_entry(*entry, request);
  *result = machine.result;
}

}  // namespace ptx
