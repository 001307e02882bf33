// Fits of head solves as launches: what their kernels are given.
#pragma once

#include "ridge_memory.h"
#include "task_job.h"

SPARSEDIS_BEGIN

// Numbers per sample beside those of every task: what a step changes, and the residual it sees.
SPARSEDIS_HD inline int64_t fit_row_numbers(int64_t C, int64_t loss) {
  return row_numbers(C, loss) + 2 * C;
}

// What the proximal method keeps of a task.
template <typename Compute>
struct ProximalMemory {
  Compute* move;             // (M, C)
  Compute *image, *current;  // (n, C): A times it; residuals of squares, scores of other losses
  int32_t* moved;            // features that moved, (M), and their number

  SPARSEDIS_HD ProximalMemory(Arena& arena, int64_t n, int64_t M, int64_t C, double* rows) {
    move = arena.take<Compute>(M * C);
    moved = arena.take<int32_t>(M + 1);
    Compute* on_chip = arena.take_shared<Compute>(2 * n * C);
    image = on_chip ? on_chip : reinterpret_cast<Compute*>(rows);
    current = image + n * C;
  }
};

// Ridge has no other strengths.
SPARSEDIS_HD inline TaskNeeds fit_needs(bool ridge) { return {true, !ridge, true}; }

template <typename Real>
struct FitJob {
  HeadsArgs<Real> args;
  TaskBlocks blocks;
  int64_t unknowns;     // of ridge's systems, at most
  int threads;          // of a block
  bool one_factor;      // all tasks have ridge's system of the first
  int64_t exact_bytes;  // of a block's ExactMemory
  char* exact;          // these of all blocks

  void place(const TaskBlocks& there, char* rest) { blocks = there, exact = rest; }
};

// Heads of tasks that no shared level couples; `rows` are the samples of all of them.
template <typename Real>
Plan<FitJob<Real>> plan_fit(const HeadsArgs<Real>& args, int64_t rows, Machine machine) {
  const SamplesArgs<Real>& s = args.samples;
  const bool ridge = s.loss == kSquared && only_ridge(args.penalty);
  const int64_t unknowns = ridge_unknowns(s);
  Arena exact = counting_arena(0);
  if (ridge && sizeof(Real) == 4) {
    ExactMemory<Real>(exact, {}, unknowns, s.M, s.C);
    const int64_t most = kMostSliced / std::max<int64_t>(exact.sliced(), 1);
    machine.blocks = std::clamp<int64_t>(most, 1, machine.blocks);
  }
  const auto lay_out = [&](Arena& arena, int64_t n) {
    const TaskMemory<Real> task(arena, n, s.M, s.C, s.loss, nullptr, fit_needs(ridge));
    if (ridge) {
      RidgeMemory<Real>(arena, unknowns, s.M);
      return task.on_chip();
    }
    const ProximalMemory<Real> memory(arena, n, s.M, s.C, nullptr);
    return task.on_chip() && memory.image != nullptr;
  };
  const int threads = ridge ? ridge_threads(unknowns, s.M) : task_threads(s, lay_out);
  TaskPlan tasks = plan_tasks(s, rows, fit_row_numbers(s.C, s.loss), machine, lay_out, threads);
  tasks.queued = !ridge;  // whose tasks take as long as each other
  const char* kernel = ridge ? "fit_ridge" : "fit_proximal";
  const bool one_factor = same_design(s) && same_ridge(args.penalty);
  return {{args, {}, unknowns, threads, one_factor, exact.sliced(), nullptr},
          tasks,
          tasks.grid * exact.sliced(),
          {tasks.launch(kernel, threads)}};
}

SPARSEDIS_END
