// How kernels that give a task to a block are launched: worked out on the host, from sizes alone.
#pragma once

#include <algorithm>
#include <vector>

#include "../core/threshold.h"
#include "task_memory.h"

SPARSEDIS_BEGIN

constexpr int kWarp = 32;
constexpr int kThreads = 128;                         // of a block, at most
constexpr int kRows = 2, kOutputs = 5;                // that a thread of a thin product sums up
constexpr int64_t kScratchBytes = 8 * kThreads + 16;  // that a block has on the chip besides arrays
constexpr int64_t kWarpBytes = 36 * 1024;             // six tasks on a multiprocessor of an H100
constexpr int64_t kMostSliced = int64_t{1} << 28;     // bytes of what blocks keep off the chip

// What a GPU gives: shared memory of a block, how many blocks it is to be offered, and how many of
// any kernel without arrays on the chip are sure to run at the same time.
struct Machine {
  int64_t shared_bytes, blocks, resident;
};

// Numbers of scratch that thin products of so many threads need.
SPARSEDIS_HD constexpr int64_t partials(int64_t threads) { return threads * kRows * kOutputs; }

// A kernel by name, its grid and its shared memory. Blocks of a cooperative launch run at the same
// time, and wait for each other.
struct Launch {
  const char* kernel;
  int64_t grid, shared_bytes;
  bool cooperative = false;
  int threads = kThreads;  // of a block
};

// The memory of the blocks that take tasks.
struct TaskBlocks {
  int64_t shared_bytes, slice_bytes;  // of a block's arrays on the chip, and off it
  int64_t row_numbers;                // of every sample, in `rows`
  char* slices;
  double* rows;               // of samples that do not fit on the chip
  unsigned long long* taken;  // tasks, besides every block's first, or null: they go by turns
};

// Persistent blocks, each of which takes a task after another. A slice is a block's, or a task's
// where its arrays are kept from one launch or phase to the next.
struct TaskPlan {
  TaskBlocks blocks;
  int64_t grid, slices, row_bytes;
  bool queued = false;  // a block's next task is the first that is left; else they go by turns

  int64_t slices_bytes() const { return slices * blocks.slice_bytes; }
  int64_t workspace_bytes() const { return slices_bytes() + row_bytes + (queued ? kAligned : 0); }
  Launch launch(const char* kernel, int threads = kThreads) const {
    return {kernel, grid, blocks.shared_bytes, false, threads};
  }
  TaskBlocks placed(char* workspace) const {
    TaskBlocks there = blocks;
    there.slices = workspace;
    there.rows = reinterpret_cast<double*>(workspace + slices_bytes());
    char* end = workspace + slices_bytes() + row_bytes;
    there.taken = queued ? reinterpret_cast<unsigned long long*>(end) : nullptr;
    return there;
  }
};

// What is launched, in order: kernels whose only parameter is `job`. A job has place(blocks, rest),
// which is told where the memory of tasks lies, and that of everything else.
template <typename Job>
struct Plan {
  Job job;
  TaskPlan tasks;
  int64_t rest_bytes;
  std::vector<Launch> launches;
  unsigned long long* taken = nullptr;  // that is to be 0 before the launches, or null

  int64_t workspace_bytes() const { return tasks.workspace_bytes() + rest_bytes; }
  void place(char* workspace) {
    const TaskBlocks blocks = tasks.placed(workspace);
    job.place(blocks, workspace + tasks.workspace_bytes());
    taken = blocks.taken;
  }
};

// Where an array lies is never asked of an arena that only counts.
inline Arena counting_arena(int64_t shared_bytes) {
  char* somewhere = reinterpret_cast<char*>(kAligned);
  return Arena(somewhere, shared_bytes, somewhere);
}

inline int64_t row_bytes(int64_t rows, int64_t row_numbers) {
  const int64_t bytes = rows * row_numbers * static_cast<int64_t>(sizeof(double));
  return (bytes + kAligned - 1) / kAligned * kAligned;
}

// `rows` are the samples of all tasks. `lay_out(arena, n)` takes what a task of n samples needs,
// and says whether all that grows with n is on the chip. Where tasks differ, twice as many samples
// as there are on average are to fit there.
template <typename Real, typename LayOut>
TaskPlan plan_tasks(const SamplesArgs<Real>& s, int64_t rows, int64_t row_numbers,
                    const Machine& machine, LayOut lay_out, int threads = kThreads) {
  Arena arena = counting_arena(machine.shared_bytes);
  arena.take<double>(partials(threads));
  const bool fits =
      lay_out(arena, s.offsets ? 2 * (rows / std::max<int64_t>(s.T, 1) + 1) : s.n) && !s.offsets;
  const int64_t slice = arena.sliced();
  const int64_t most = slice > 0 ? std::max<int64_t>(kMostSliced / slice, 1) : machine.blocks;
  const int64_t grid = std::clamp<int64_t>(s.T, 1, std::min(machine.blocks, most));
  return {{arena.taken(), slice, row_numbers, nullptr, nullptr, nullptr},
          grid,
          grid,
          fits ? 0 : row_bytes(rows, row_numbers)};
}

// A warp for a task that takes no more than kWarpBytes: what every thread does for itself is done
// by fewer, and no warp waits for another. That depends neither on the batch nor on the device,
// since sums do; ragged tasks may have any size.
template <typename Real, typename LayOut>
int task_threads(const SamplesArgs<Real>& s, LayOut lay_out) {
  Arena arena = counting_arena(kWarpBytes);
  arena.take<double>(partials(kWarp));
  lay_out(arena, s.n);
  return arena.whole() && !s.offsets ? kWarp : kThreads;
}

// Tasks whose arrays are all kept off the chip. `lay_out(arena)` takes what a task needs beside the
// numbers of its samples.
template <typename Real, typename LayOut>
TaskPlan plan_kept_tasks(const SamplesArgs<Real>& s, int64_t rows, int64_t row_numbers,
                         const Machine& machine, LayOut lay_out) {
  Arena arena = counting_arena(0);
  lay_out(arena);
  return {{0, arena.sliced(), row_numbers, nullptr, nullptr, nullptr},
          std::clamp<int64_t>(s.T, 1, machine.blocks),
          s.T,
          row_bytes(rows, row_numbers)};
}

SPARSEDIS_END
