// Tasks whose arrays lie off the chip and stay there from one phase or launch to the next.
#pragma once

#include "task.cuh"

SPARSEDIS_BEGIN

// What a block has on the chip.
struct KeptScratch {
  double sums[kThreads], partial[partials(kThreads)];
};

// Calls body(t, task, memory, arena, rows) for the tasks of this block: the arena has what is left
// of a task's own slice, and `rows` what is left of the numbers of its samples.
template <Kept kept = kCentred, typename Real, typename F>
__device__ void for_each_kept_task(const SamplesArgs<Real>& samples, const TaskBlocks& blocks,
                                   TaskNeeds needs, KeptScratch& scratch, F body) {
  using Task = BlockTask<double, Real, kept>;
  const Block block{scratch.sums, scratch.partial, kThreads};
  for (int64_t t = blockIdx.x; t < samples.T; t += gridDim.x) {
    const TaskInput<Real> in = task_input(samples, t);
    double* rows = blocks.rows + row_of(samples, t) * blocks.row_numbers;
    Arena arena(nullptr, 0, blocks.slices + t * blocks.slice_bytes);
    typename Task::Memory memory(arena, in.n, in.M, in.C, in.loss, rows, needs);
    Task task{block, in, memory};
    body(t, task, memory, arena, rows + in.n * row_numbers(in.C, in.loss));
    Block::sync();
  }
}

SPARSEDIS_END
