// CUDA block semantics on fibers: barriers, warp collectives, scheduling, grid launch.
//
// Blocks run one after another, or all of them in turn where a launch is cooperative. The threads
// of a block run in passes: each ready thread runs until it waits (barrier, warp collective) or
// exits; between passes complete barriers and collectives are released. Blocks in which nobody can
// go on are reported as a deadlock.
#pragma once
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <vector>

#include "fiber.h"

namespace ptx {

typedef uint8_t u8;
typedef int8_t s8;
typedef uint16_t u16;
typedef int16_t s16;
typedef uint32_t u32;
typedef int32_t s32;
typedef uint64_t u64;
typedef int64_t s64;
typedef float f32;
typedef double f64;

constexpr u32 MAX_THREADS = 1024;
constexpr u32 WARP = 32;
constexpr u32 MAX_WARPS = MAX_THREADS / WARP;
constexpr u32 BARRIERS = 16;
constexpr u32 PAYLOAD_WORDS = 8;
constexpr u32 SHARED_LIMIT = 227 << 10;
constexpr u32 SHARED_ALIGNMENT = 1024;
constexpr u8 SHARED_POISON = 0xff;  // NaN in every floating point format
constexpr u32 LOOPS_BEFORE_YIELD = 1 << 14;
constexpr u32 IDLE_PASSES_BEFORE_FAILURE = 1 << 14;

struct Dim3 {
  u32 x, y, z;
  u64 count() const { return (u64)x * y * z; }
};

template <class T>
inline T smaller(T a, T b) {
  return b < a ? b : a;
}
template <class T>
inline T larger(T a, T b) {
  return a < b ? b : a;
}

// splitmix64. <random> and <algorithm> would take longer to compile than most kernels.
struct Random {
  u64 state = 0;

  PTX_NO_TSAN u64 next() {
    u64 z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }

  template <class T>
  PTX_NO_TSAN void shuffle(std::vector<T>& items) {
    for (u64 left = items.size(); left > 1; left--) {
      u64 chosen = (u64)((unsigned __int128)next() * left >> 64);
      T item = items[chosen];
      items[chosen] = items[left - 1];
      items[left - 1] = item;
    }
  }
};

inline Dim3 unflatten(u64 linear, Dim3 shape) {
  return {(u32)(linear % shape.x), (u32)(linear / shape.x % shape.y),
          (u32)(linear / ((u64)shape.x * shape.y))};
}

enum class State { ready, at_barrier, at_collective, at_activemask, done };
enum class Collective { sync, shuffle, vote, match, redux, elect, ldmatrix, stmatrix, mma };

// Copies of cp.async that are still to be made.
struct AsyncCopy {
  u64 to, from;
  u32 bytes, source_bytes;
  u64 group;
};
struct AsyncQueue {
  std::vector<AsyncCopy> copies;
  u64 open_group = 0;
};

struct Thread {
  Fiber fiber;
  State state = State::done;
  Dim3 index{};
  u32 linear = 0;
  int line = 0;  // PTX line of the statement it waits at

  u32 barrier = 0;
  bool barrier_aligned = false;

  Collective collective = Collective::sync;
  u32 mask = 0;   // lanes it wants to meet
  u32 group = 0;  // lanes it met
  u32 payload_words = 0;
  u64 payload[PAYLOAD_WORDS];

  u32 loops = 0;
  u32 warp_barriers = 0;
  bool fenced = false;  // has executed a memory fence, so its atomics publish earlier writes
  void* last_atomic = nullptr;
  AsyncQueue async;

  u32 lane() const { return linear % WARP; }
  u32 warp() const { return linear / WARP; }
};

// Values published at the last collective; stable until the next pass ends.
struct Warp {
  u64 snapshot[WARP][PAYLOAD_WORDS];
  char order_tag[WARP][2];  // per lane, alternating, for warp barriers
};

struct Barrier {
  bool arrived[MAX_THREADS];
  bool predicate[MAX_THREADS];
  u32 expected = 0;  // thread count given by the program; 0: every live thread
  u32 generation = 0;
  bool open = false;  // somebody has arrived
  bool result_and, result_or;
  u32 result_count;
  char order_tag[2];  // alternate, so that a late waker does not acquire the next phase's releases
};

struct Block {
  Dim3 index{};
  u64 number = 0;  // counted from the first one that runs
  u32 live = 0;    // threads
  Thread threads[MAX_THREADS];
  Warp warps[MAX_WARPS];
  Barrier barriers[BARRIERS];
  char* shared = nullptr;
  u8* shared_written = nullptr;  // one flag per byte of shared memory
  std::vector<u32> order;        // of its threads in a pass
  char start_tag, end_tag;
};

struct Options {
  u32 check_bounds, check_shared_init, check_block_races, count_sectors, cooperative;
  u32 dropped_line;  // of a barrier that nobody waits at, or 0
  u32 shuffle, seed;
};

constexpr int WIDTHS = 6;  // 1, 2, 4, 8, 16, 32 bytes

struct Result {
  u64 loads[WIDTHS], stores[WIDTHS], atomics[WIDTHS];
  u64 shared[WIDTHS];
  u64 instructions;  // whether or not their predicate holds
  u64 barriers, dropped;
  u64 multiplications[WIDTHS];
  u64 sectors_loaded, sectors_stored;  // only with count_sectors
  char error[1024];
  char warnings[1024];
};

struct Machine {
  Dim3 grid, block;
  u64 first_block = 0, block_count = 0;  // the blocks to run, by their linear index
  u32 thread_count = 0, current = 0;
  u32 shared_bytes = 0, dynamic_shared_bytes = 0;
  Options options{};
  Result result{};
  bool failed = false;
  Random random;
};

inline Machine machine;
PTX_NO_TSAN inline void count_instructions(u64 count) { machine.result.instructions += count; }
inline Block* running;  // whose threads run

PTX_NO_TSAN inline Thread& self() { return running->threads[machine.current]; }

PTX_NO_TSAN inline u32 existing_lanes(u32 warp) {
  u32 count = machine.thread_count - warp * WARP;
  return count >= WARP ? ~0u : (1u << count) - 1;
}

// ---- errors and warnings

PTX_NO_TSAN inline void record_error(const char* format, ...) {
  if (machine.failed) return;
  machine.failed = true;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(machine.result.error, sizeof machine.result.error, format, arguments);
  va_end(arguments);
}

// Ends the launch from inside a CUDA thread.
[[noreturn]] PTX_NO_TSAN inline void fail(int line, const char* what, u64 address = 0) {
  Thread& t = self();
  Dim3 b = running->index;
  char where[64] = "";
  if (address) snprintf(where, sizeof where, " at address 0x%llx", (unsigned long long)address);
  record_error("%s%s, PTX line %d, block (%u,%u,%u) thread (%u,%u,%u)", what, where, line, b.x, b.y,
               b.z, t.index.x, t.index.y, t.index.z);
  switch_to_scheduler(t.fiber, true);
  abort();
}

PTX_NO_TSAN inline void warn(const char* text) {
  char* list = machine.result.warnings;
  size_t used = strlen(list);
  if (strstr(list, text) || used + strlen(text) + 2 > sizeof machine.result.warnings) return;
  strcpy(list + used, text);
  strcat(list, "\n");
}

// ---- waiting, called by threads

PTX_NO_TSAN inline void wait(State state, int line) {
  Thread& t = self();
  t.state = state;
  t.line = line;
  switch_to_scheduler(t.fiber, false);
}

PTX_NO_TSAN inline void yield_thread() { switch_to_scheduler(self().fiber, false); }

// Called on every backward branch: lets others run, so that spinning on another thread ends.
PTX_NO_TSAN inline void loop_tick() {
  if (++self().loops % LOOPS_BEFORE_YIELD == 0) yield_thread();
}

PTX_NO_TSAN inline Barrier& arrive_at_barrier(u32 id, u32 expected, bool predicate, int line) {
  if (id >= BARRIERS) fail(line, "barrier number above 15");
  if (expected % WARP) fail(line, "barrier thread count is not a multiple of 32");
  Barrier& barrier = running->barriers[id];
  u32 me = self().linear;
  if (barrier.arrived[me]) fail(line, "thread arrives twice at a barrier that is not complete");
  if (barrier.open && barrier.expected != expected)
    fail(line, "threads give a barrier different counts");
  barrier.open = true;
  barrier.expected = expected;
  barrier.arrived[me] = true;
  barrier.predicate[me] = predicate;
  order_release(&barrier.order_tag[barrier.generation & 1]);
  return barrier;
}

PTX_NO_TSAN inline Barrier& block_barrier(u32 id, u32 expected, bool predicate, bool aligned,
                                          int line) {
  if ((u32)line == machine.options.dropped_line) {
    machine.result.dropped++;
    return running->barriers[id];
  }
  Barrier& barrier = arrive_at_barrier(id, expected, predicate, line);
  u32 generation = barrier.generation;
  self().barrier = id;
  self().barrier_aligned = aligned;
  wait(State::at_barrier, line);
  order_acquire(&barrier.order_tag[generation & 1]);
  return barrier;
}

// Publishes `words` values and waits for the lanes of `mask`. Orders no memory, as in CUDA.
PTX_NO_TSAN inline Warp& meet(Collective kind, u32 mask, const u64* values, u32 words, int line) {
  Thread& t = self();
  if (!(mask >> t.lane() & 1)) fail(line, "thread is not in the member mask it passes");
  t.collective = kind;
  t.mask = mask;
  t.payload_words = words;
  for (u32 i = 0; i < words; i++) t.payload[i] = values[i];
  wait(State::at_collective, line);
  return running->warps[t.warp()];
}

PTX_NO_TSAN inline void warp_barrier(u32 mask, int line) {
  Thread& t = self();
  u64 phase = t.warp_barriers++ & 1;
  order_release(&running->warps[t.warp()].order_tag[t.lane()][phase]);
  Warp& warp = meet(Collective::sync, mask, &phase, 1, line);
  for (u32 lane = 0; lane < WARP; lane++)
    if (t.group >> lane & 1) order_acquire(&warp.order_tag[lane][warp.snapshot[lane][0]]);
}

// The lanes that reach the same activemask in the same pass count as converged.
PTX_NO_TSAN inline u32 active_mask(int line) {
  wait(State::at_activemask, line);
  return self().group;
}

// ---- releasing, called by the scheduler between passes

PTX_NO_TSAN inline u32 lanes_in_state(u32 warp, State state) {
  u32 lanes = 0;
  for (u32 lane = 0; lane < WARP && warp * WARP + lane < machine.thread_count; lane++)
    if (running->threads[warp * WARP + lane].state == state) lanes |= 1u << lane;
  return lanes;
}

PTX_NO_TSAN inline void release_group(u32 warp, u32 group) {
  for (u32 lane = 0; lane < WARP; lane++) {
    if (!(group >> lane & 1)) continue;
    Thread& t = running->threads[warp * WARP + lane];
    for (u32 i = 0; i < t.payload_words; i++) running->warps[warp].snapshot[lane][i] = t.payload[i];
    t.group = group;
    t.state = State::ready;
  }
}

// Exited lanes need not take part; the others must wait with the same mask at the same kind of
// operation.
PTX_NO_TSAN inline u32 complete_group(u32 warp, u32 lane, u32 waiting) {
  Thread& first = running->threads[warp * WARP + lane];
  u32 wanted = first.mask & existing_lanes(warp) & ~lanes_in_state(warp, State::done);
  if ((wanted & waiting) != wanted) return 0;
  for (u32 other = 0; other < WARP; other++) {
    if (!(wanted >> other & 1)) continue;
    Thread& t = running->threads[warp * WARP + other];
    if (t.mask != first.mask || t.collective != first.collective) return 0;
  }
  return wanted;
}

PTX_NO_TSAN inline bool release_collectives(u32 warp) {
  u32 waiting = lanes_in_state(warp, State::at_collective);
  bool released = false;
  for (u32 lane = 0; lane < WARP; lane++) {
    if (!(waiting >> lane & 1)) continue;
    u32 group = complete_group(warp, lane, waiting);
    if (!group) continue;
    release_group(warp, group);
    waiting &= ~group;
    released = true;
  }
  return released;
}

PTX_NO_TSAN inline bool release_activemasks(u32 warp) {
  u32 waiting = lanes_in_state(warp, State::at_activemask);
  bool released = waiting != 0;
  while (waiting) {
    int line = running->threads[warp * WARP + __builtin_ctz(waiting)].line;
    u32 group = 0;
    for (u32 lane = 0; lane < WARP; lane++)
      if (waiting >> lane & 1 && running->threads[warp * WARP + lane].line == line)
        group |= 1u << lane;
    for (u32 lane = 0; lane < WARP; lane++)
      if (group >> lane & 1) running->threads[warp * WARP + lane].payload_words = 0;
    release_group(warp, group);
    waiting &= ~group;
  }
  return released;
}

// A barrier with a count advances by whole warps, as in hardware: a warp counts once all its live
// threads have arrived.
PTX_NO_TSAN inline bool barrier_complete(const Barrier& barrier) {
  u32 arrived = 0;
  bool everybody = true;
  for (u32 first = 0; first < machine.thread_count; first += WARP) {
    bool some = false, missing = false;
    for (u32 i = first; i < smaller(first + WARP, machine.thread_count); i++) {
      some |= barrier.arrived[i];
      missing |= !barrier.arrived[i] && running->threads[i].state != State::done;
    }
    everybody &= !missing;
    if (some && !missing) arrived += WARP;
  }
  if (!barrier.expected) return everybody;
  if (arrived > barrier.expected)
    record_error("%u threads arrive at a barrier for %u, block (%u,%u,%u)", arrived,
                 barrier.expected, running->index.x, running->index.y, running->index.z);
  return arrived == barrier.expected;
}

PTX_NO_TSAN inline void check_barrier_lines(u32 id) {
  const Thread *first = nullptr, *first_in_warp = nullptr;
  char text[160];
  for (u32 i = 0; i < machine.thread_count; i++) {
    const Thread& t = running->threads[i];
    if (t.state != State::at_barrier || t.barrier != id) continue;
    if (!first) first = &t;
    if (!first_in_warp || first_in_warp->warp() != t.warp()) first_in_warp = &t;
    if (t.line != first_in_warp->line && t.barrier_aligned)
      record_error("threads of one warp wait at different barriers, PTX lines %d and %d",
                   first_in_warp->line, t.line);
    if (t.line == first->line) continue;
    snprintf(text, sizeof text, "warps of a block meet at different barriers, PTX lines %d and %d",
             first->line, t.line);
    warn(text);
  }
}

PTX_NO_TSAN inline bool release_barrier(u32 id) {
  Barrier& barrier = running->barriers[id];
  if (!barrier.open || !barrier_complete(barrier)) return false;
  check_barrier_lines(id);
  barrier.result_and = true;
  barrier.result_or = false;
  barrier.result_count = 0;
  for (u32 i = 0; i < machine.thread_count; i++) {
    Thread& t = running->threads[i];
    if (barrier.arrived[i]) {
      barrier.result_and &= barrier.predicate[i];
      barrier.result_or |= barrier.predicate[i];
      barrier.result_count += barrier.predicate[i];
    }
    barrier.arrived[i] = false;
    if (t.state == State::at_barrier && t.barrier == id) t.state = State::ready;
  }
  barrier.open = false;
  barrier.generation++;
  machine.result.barriers++;
  return true;
}

PTX_NO_TSAN inline bool release_waiting() {
  bool released = false;
  for (u32 warp = 0; warp * WARP < machine.thread_count; warp++) {
    released |= release_collectives(warp);
    released |= release_activemasks(warp);
  }
  for (u32 id = 0; id < BARRIERS; id++) released |= release_barrier(id);
  return released;
}

// ---- scheduling

inline void (*thread_main)(const char* parameters);
inline const char* thread_parameters;

PTX_NO_TSAN inline void fiber_main() {
  announce_fiber_start();
  order_acquire(&running->start_tag);
  thread_main(thread_parameters);
  order_release(&running->end_tag);
  self().state = State::done;
  switch_to_scheduler(self().fiber, true);
  abort();
}

PTX_NO_TSAN inline void start_threads() {
  for (u32 i = 0; i < machine.thread_count; i++) {
    Thread& t = running->threads[i];
    t.fiber.prepare(fiber_main);
    t.linear = i;
    t.index = unflatten(i, machine.block);
    t.state = State::ready;
    t.loops = 0;
    t.warp_barriers = 0;
    t.fenced = false;
    t.last_atomic = nullptr;
  }
  for (Barrier& barrier : running->barriers) {
    barrier.open = false;
    barrier.generation = 0;
    for (bool& arrived : barrier.arrived) arrived = false;
  }
  running->live = machine.thread_count;
}

// Runs every ready thread once; returns how many of them stopped to wait or exited.
PTX_NO_TSAN inline u32 run_ready_threads() {
  u32 stopped = 0;
  if (machine.options.shuffle) machine.random.shuffle(running->order);
  for (u32 i : running->order) {
    Thread& t = running->threads[i];
    if (t.state != State::ready) continue;
    machine.current = i;
    resume_fiber(t.fiber);
    if (machine.failed) break;
    stopped += t.state != State::ready;
    running->live -= t.state == State::done;
  }
  return stopped;
}

PTX_NO_TSAN inline void report_deadlock() {
  char text[512] = "";
  int last_line = -1;
  for (u32 i = 0; i < machine.thread_count; i++) {
    const Thread& t = running->threads[i];
    if (t.state == State::done || t.line == last_line || strlen(text) > 400) continue;
    last_line = t.line;
    const char* what = t.state == State::at_barrier ? "block barrier" : "warp collective";
    if (t.state == State::ready) what = "a loop that never ends";
    sprintf(text + strlen(text), "; thread %u waits at PTX line %d (%s)", i, t.line, what);
  }
  Dim3 b = running->index;
  record_error("deadlock in block (%u,%u,%u)%s", b.x, b.y, b.z, text);
}

PTX_NO_TSAN inline void allocate_shared() {
  size_t rounded = (machine.shared_bytes + SHARED_ALIGNMENT) / SHARED_ALIGNMENT * SHARED_ALIGNMENT;
  running->shared = (char*)aligned_alloc(SHARED_ALIGNMENT, rounded);
  running->shared_written = (u8*)calloc(rounded, 1);
  memset(running->shared, SHARED_POISON, rounded);
#ifdef PTX_ASAN
  __asan_poison_memory_region(running->shared + machine.shared_bytes,
                              rounded - machine.shared_bytes);
#endif
}

PTX_NO_TSAN inline void free_shared() {
#ifdef PTX_ASAN
  size_t rounded = (machine.shared_bytes + SHARED_ALIGNMENT) / SHARED_ALIGNMENT * SHARED_ALIGNMENT;
  __asan_unpoison_memory_region(running->shared, rounded);
#endif
  free(running->shared);
  free(running->shared_written);
  running->shared = nullptr;
  running->shared_written = nullptr;
}

PTX_NO_TSAN inline void start_block(u64 number) {
  running->number = number;
  running->index = unflatten(machine.first_block + number, machine.grid);
  running->order.resize(machine.thread_count);
  for (u32 i = 0; i < machine.thread_count; i++) running->order[i] = i;
  allocate_shared();
  start_threads();
  order_release(&running->start_tag);
}

PTX_NO_TSAN inline void end_block() {
  order_acquire(&running->end_tag);
  free_shared();
}

// A pass of the running block; returns whether any of its threads did more than spin.
PTX_NO_TSAN inline bool run_pass() {
  const u32 stopped = run_ready_threads();
  return !machine.failed && (release_waiting() || stopped > 0);
}

PTX_NO_TSAN inline bool any_ready() {
  for (u32 i = 0; i < machine.thread_count; i++)
    if (running->threads[i].state == State::ready) return true;
  return false;
}

// Runs blocks in turn until all of them have ended.
PTX_NO_TSAN inline void run_together(const std::vector<Block*>& blocks) {
  u32 idle = 0;  // turns in which threads only spun
  for (bool live = true; live && !machine.failed;) {
    bool went_on = false, ready = false;
    live = false;
    for (Block* block : blocks) {
      if (!block->live || machine.failed) continue;
      running = block;
      went_on |= run_pass();
      ready |= any_ready();
      live |= block->live > 0;
    }
    idle = went_on ? 0 : idle + 1;
    if (!live || (ready && idle <= IDLE_PASSES_BEFORE_FAILURE)) continue;
    for (Block* block : blocks)
      if (block->live) running = block;
    report_deadlock();
  }
}

// Starts blocks, of which there are as many as `blocks` has room for, and runs them to their end.
PTX_NO_TSAN inline void run_blocks(const std::vector<Block*>& blocks, const u64* numbers) {
  for (size_t i = 0; i < blocks.size(); i++) {
    running = blocks[i];
    start_block(numbers[i]);
  }
  run_together(blocks);
  for (Block* block : blocks) {
    running = block;
    end_block();
  }
}

PTX_NO_TSAN inline void run_grid() {
  std::vector<u64> order;  // stays empty without a shuffle: a grid can have 2^63 blocks
  machine.random.state = machine.options.seed;
  const bool together = machine.options.cooperative;
  if (machine.options.shuffle || together) {
    order.resize(machine.block_count);
    for (u64 i = 0; i < order.size(); i++) order[i] = i;
    if (machine.options.shuffle) machine.random.shuffle(order);
  }
  std::vector<Block*> blocks(together ? machine.block_count : 1);
  for (Block*& block : blocks) block = new Block;
  if (together) run_blocks(blocks, order.data());
  for (u64 i = 0; i < machine.block_count && !together && !machine.failed; i++) {
    const u64 number = order.empty() ? i : order[i];
    run_blocks(blocks, &number);
  }
  for (Block* block : blocks) {
    for (Thread& t : block->threads) t.fiber.release();
    delete block;
  }
}

}  // namespace ptx
