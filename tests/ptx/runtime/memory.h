// Loads, stores, atomics and asynchronous copies, with checks and counts.
#pragma once
#include "numeric.h"
#include "sectors.h"
#include "warp_store.h"

#define PTX_INLINE __attribute__((always_inline)) inline

namespace ptx {

enum class Space { global, generic, shared, local, constant, parameter };

// Memory a kernel may touch: arrays passed as arguments and module variables.
struct Range {
  u64 begin, bytes;
  u32* last_writer = nullptr;  // per byte: block number + 1; only with check_block_races
  u32* last_reader = nullptr;
  bool contains(u64 address, u64 size) const {
    return address >= begin && size <= bytes && address - begin <= bytes - size;
  }
};

inline std::vector<Range> argument_ranges;
inline std::vector<Range> module_ranges;

struct ModuleVariable {
  ModuleVariable(const void* data, size_t bytes) { module_ranges.push_back({(u64)data, bytes}); }
};

// ---- address windows: a shared address is an offset, a generic one is a host address

PTX_NO_TSAN inline u64 shared_to_generic(u64 offset) { return (u64)running->shared + (u32)offset; }
PTX_NO_TSAN inline u64 dynamic_shared_offset() {
  return machine.shared_bytes - machine.dynamic_shared_bytes;
}
PTX_NO_TSAN inline u64 generic_to_shared(u64 address) { return address - (u64)running->shared; }
PTX_NO_TSAN inline bool in_shared(u64 address) {
  return address - (u64)running->shared < machine.shared_bytes;
}
PTX_NO_TSAN inline bool in_local(u64 address) { return self().fiber.owns(address); }
PTX_NO_TSAN inline bool in_global(u64 address) { return !in_shared(address) && !in_local(address); }

// ---- checks

enum class Access { load, store, atomic };

PTX_NO_TSAN inline void check_shared(u64 address, u32 bytes, Access access, int line) {
  u64 offset = address - (u64)running->shared;
  if (offset > machine.shared_bytes || bytes > machine.shared_bytes - offset)
    fail(line, "shared memory access out of bounds", offset);
  if (!machine.options.check_shared_init) return;
  for (u32 i = 0; i < bytes; i++) {
    if (access == Access::store) running->shared_written[offset + i] = 1;
    if (!running->shared_written[offset + i])
      fail(line, "read of uninitialised shared memory", offset);
  }
}

PTX_NO_TSAN inline const Range* find_range(u64 address, u32 bytes) {
  for (const Range& range : argument_ranges)
    if (range.contains(address, bytes)) return &range;
  for (const Range& range : module_ranges)
    if (range.contains(address, bytes)) return &range;
  return nullptr;
}

// Plain accesses of two blocks to one byte, at least one of them a store. Atomics are left out.
PTX_NO_TSAN inline void check_block_race(const Range& range, u64 address, u32 bytes, Access access,
                                         int line) {
  if (!range.last_writer || access == Access::atomic) return;
  constexpr u32 SEVERAL = ~0u;
  u32 me = (u32)running->number + 1;
  for (u64 i = address - range.begin; i < address - range.begin + bytes; i++) {
    u32 writer = range.last_writer[i], reader = range.last_reader[i];
    if (writer && writer != me)
      fail(line, "race between blocks: another block wrote here", address);
    if (access == Access::load) {
      range.last_reader[i] = reader && reader != me ? SEVERAL : me;
      continue;
    }
    if (reader && reader != me) fail(line, "race between blocks: another block read here", address);
    range.last_writer[i] = me;
  }
}

PTX_NO_TSAN inline void count_global(u64 address, u32 bytes, Access access, int line) {
  Result& r = machine.result;
  u64* counts = access == Access::load ? r.loads : access == Access::store ? r.stores : r.atomics;
  counts[__builtin_ctz(bytes)]++;
  if (machine.options.count_sectors && access != Access::atomic)
    count_sector(address, access == Access::store, line);
}

PTX_NO_TSAN inline void check_global(u64 address, u32 bytes, Access access, int line) {
  if (!machine.options.check_bounds) return;
  const Range* range = find_range(address, bytes);
  if (range) return check_block_race(*range, address, bytes, access, line);
  fail(line, access == Access::load ? "global load out of bounds" : "global store out of bounds",
       address);
}

PTX_NO_TSAN inline void check_access(u64 address, u32 bytes, Space space, Access access, int line) {
  if (space == Space::parameter) return;
  if (address % bytes) fail(line, "misaligned access", address);
  if (space == Space::generic)
    space = in_shared(address) ? Space::shared : in_local(address) ? Space::local : Space::global;
  if (space == Space::shared) {
    machine.result.shared[__builtin_ctz(bytes)]++;
    check_shared(address, bytes, access, line);
  }
  if (space == Space::global) {
    count_global(address, bytes, access, line);
    check_global(address, bytes, access, line);
  }
  if (space == Space::constant && !find_range(address, bytes))
    fail(line, "constant access out of bounds", address);
  if (space == Space::local && !in_local(address))
    fail(line, "local access out of bounds", address);
}

// ---- loads and stores

template <class T, int N>
struct Vector {
  T v[N];
};

template <class T, int N>
PTX_INLINE Vector<T, N> load(u64 address, Space space, int line) {
  check_access(address, sizeof(T) * N, space, Access::load, line);
  Vector<T, N> result;
  for (int i = 0; i < N; i++) result.v[i] = ((const T*)address)[i];
  return result;
}
template <class T, int N>
PTX_INLINE void store(u64 address, Vector<T, N> values, Space space, int line) {
  check_access(address, sizeof(T) * N, space, Access::store, line);
  if (stored_by_warp(address, (const u8*)values.v, sizeof values, line)) return;
  for (int i = 0; i < N; i++) ((T*)address)[i] = values.v[i];
}

// ---- fences and atomics
// Atomics are relaxed: they order other memory (for ThreadSanitizer) only together with a fence or
// an acquire/release qualifier.

PTX_NO_TSAN inline void fence() {
  Thread& t = self();
  t.fenced = true;
  if (t.last_atomic) order_acquire(t.last_atomic);
}

enum class Atomic { add, exch, cas, min, max, and_, or_, xor_, inc, dec };

template <class T>
inline T atomic_result(Atomic op, T old, T operand, T swap) {
  switch (op) {
    case Atomic::add:
      return (T)(old + operand);
    case Atomic::exch:
      return operand;
    case Atomic::cas:
      return __builtin_memcmp(&old, &operand, sizeof(T)) ? old : swap;
    case Atomic::min:
      return operand < old ? operand : old;
    case Atomic::max:
      return old < operand ? operand : old;
    default:
      break;
  }
  if constexpr (std::is_integral_v<T>) {
    switch (op) {
      case Atomic::and_:
        return old & operand;
      case Atomic::or_:
        return old | operand;
      case Atomic::xor_:
        return old ^ operand;
      case Atomic::inc:
        return old >= operand ? 0 : old + 1;
      case Atomic::dec:
        return old == 0 || old > operand ? operand : old - 1;
      default:
        break;
    }
  }
  return old;
}

template <class T>
PTX_NO_TSAN inline T atomic(Atomic op, u64 address, T operand, T swap, Space space, bool ordered,
                            int line) {
  check_access(address, sizeof(T), space, Access::atomic, line);
  Thread& t = self();
  if (ordered || t.fenced) order_release((void*)address);
  T old = *(T*)address;
  *(T*)address = atomic_result(op, old, operand, swap);
  if (ordered) order_acquire((void*)address);
  t.last_atomic = (void*)address;
  return old;
}

// ---- cp.async: a copy is made as late as PTX allows, at the wait, so that a missing wait shows

PTX_NO_TSAN inline AsyncQueue& async_queue() { return self().async; }

inline void async_copy(u64 to, u64 from, u32 bytes, u32 source_bytes, int line) {
  check_access(to, bytes, Space::shared, Access::store, line);
  if (source_bytes > bytes) fail(line, "cp.async source size above its copy size");
  if (source_bytes) {
    if (from % bytes) fail(line, "misaligned access", from);
    count_global(from, bytes, Access::load, line);
    check_global(from, source_bytes, Access::load, line);
  } else {
    masked_access(line);
  }
  AsyncQueue& queue = async_queue();
  queue.copies.push_back({to, from, bytes, source_bytes, queue.open_group});
}
inline void async_commit() { async_queue().open_group++; }

inline void async_finish_groups_before(u64 group) {
  std::vector<AsyncCopy>& copies = async_queue().copies;
  size_t done = 0;
  for (; done < copies.size() && copies[done].group < group; done++) {
    const AsyncCopy& copy = copies[done];
    for (u32 i = 0; i < copy.bytes; i++)
      ((char*)copy.to)[i] = i < copy.source_bytes ? ((const char*)copy.from)[i] : 0;
  }
  copies.erase(copies.begin(), copies.begin() + done);
}
inline void async_wait_group(u64 pending) {
  u64 committed = async_queue().open_group;
  if (committed > pending) async_finish_groups_before(committed - pending);
}
inline void async_wait_all() { async_finish_groups_before(async_queue().open_group + 1); }

inline void async_exit() {
  AsyncQueue& queue = async_queue();
  if (!queue.copies.empty()) warn("cp.async copies were never waited for");
  queue.copies.clear();
  queue.open_group = 0;
}

}  // namespace ptx
