// How kernels that give a task to a block are launched: worked out on the host, from sizes alone.
#pragma once

#include <algorithm>
#include <vector>

#include "../core/threshold.h"
#include "task_memory.h"

SPARSEDIS_BEGIN

constexpr int kThreads = 128;                      // of a block
constexpr int kOutputs = 8;                        // that thin products sum up together
constexpr int kPartials = kThreads * kOutputs;     // numbers of scratch that they need
constexpr int64_t kScratchBytes = 8 * kThreads;    // that a block has on the chip besides arrays
constexpr int64_t kMostSliced = int64_t{1} << 28;  // bytes of what blocks keep off the chip

// What a GPU gives, and how many blocks it is to run at a time.
struct Machine {
  int64_t shared_bytes, blocks;
};

// A kernel by name, its grid and its shared memory; its blocks have kThreads threads.
struct Launch {
  const char* kernel;
  int64_t grid, shared_bytes;
};

// The memory of the blocks that take tasks.
struct TaskBlocks {
  int64_t shared_bytes, slice_bytes;  // of a block's arrays on the chip, and off it
  int64_t row_numbers;                // of every sample, in `rows`
  char* slices;
  double* rows;  // of samples that do not fit on the chip
};

// Persistent blocks, each of which takes a task after another.
struct TaskPlan {
  TaskBlocks blocks;
  int64_t grid, row_bytes;

  int64_t slices_bytes() const { return grid * blocks.slice_bytes; }
  int64_t workspace_bytes() const { return slices_bytes() + row_bytes; }
  Launch launch(const char* kernel) const { return {kernel, grid, blocks.shared_bytes}; }
  TaskBlocks placed(char* workspace) const {
    TaskBlocks there = blocks;
    there.slices = workspace;
    there.rows = reinterpret_cast<double*>(workspace + slices_bytes());
    return there;
  }
};

// Where an array lies is never asked of an arena that only counts.
inline Arena counting_arena(int64_t shared_bytes) {
  char* somewhere = reinterpret_cast<char*>(kAligned);
  return Arena(somewhere, shared_bytes, somewhere);
}

// `rows` are the samples of all tasks. `lay_out(arena, n)` takes what a task of n samples needs,
// and says whether all that grows with n is on the chip. Where tasks differ, twice as many samples
// as there are on average are to fit there.
template <typename Real, typename LayOut>
TaskPlan plan_tasks(const SamplesArgs<Real>& s, int64_t rows, int64_t row_numbers,
                    const Machine& machine, LayOut lay_out) {
  Arena arena = counting_arena(machine.shared_bytes);
  const bool fits =
      lay_out(arena, s.offsets ? 2 * (rows / std::max<int64_t>(s.T, 1) + 1) : s.n) && !s.offsets;
  const int64_t slice = arena.sliced();
  const int64_t most = slice > 0 ? std::max<int64_t>(kMostSliced / slice, 1) : machine.blocks;
  const int64_t row_bytes = fits ? 0 : rows * row_numbers * static_cast<int64_t>(sizeof(double));
  return {{arena.taken(), slice, row_numbers, nullptr, nullptr},
          std::clamp<int64_t>(s.T, 1, std::min(machine.blocks, most)),
          (row_bytes + kAligned - 1) / kAligned * kAligned};
}

SPARSEDIS_END
