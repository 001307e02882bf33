// The reports of head solves as launches: what a kernel is given, and how it is launched, worked
// out on the host from sizes alone.
#pragma once

#include <algorithm>
#include <vector>

#include "../core/threshold.h"
#include "task_memory.h"

SPARSEDIS_BEGIN

constexpr int kThreads = 128;  // of a block

// What a GPU gives, and how many blocks it is to run at a time.
struct Machine {
  int64_t shared_bytes, blocks;
};

// What is kept of every task and feature where the shared level couples tasks.
struct CoupledMemory {
  double *g, *W, *ridge;             // (T, M, C) twice, (T, M)
  double *zero, *loss;               // (T): the objective at W = 0, and the loss at the dual point
  double *stretch, *value, *excess;  // (M): the dual norm, what is added up, and scratch (M, T)
  int32_t* status;                   // (T)

  SPARSEDIS_HD CoupledMemory(Arena& arena, int64_t T, int64_t M, int64_t C) {
    g = arena.take<double>(T * M * C), W = arena.take<double>(T * M * C);
    ridge = arena.take<double>(T * M), excess = arena.take<double>(T * M);
    zero = arena.take<double>(T), loss = arena.take<double>(T);
    stretch = arena.take<double>(M), value = arena.take<double>(M);
    status = arena.take<int32_t>(T);
  }
};

// What every kernel of a report is given.
template <typename Real>
struct ReportJob {
  HeadsReportArgs<Real> args;
  int64_t shared_bytes, slice_bytes;  // of a block's arrays on the chip, and off it
  char* slices;
  double* rows;   // of samples, row_numbers each, where they may not fit on the chip
  char* coupled;  // CoupledMemory, or null

  SPARSEDIS_HD TaskNeeds needs() const { return {args.weight != nullptr, coupled == nullptr}; }
  SPARSEDIS_HD CoupledMemory coupled_memory() const {
    Arena arena(nullptr, 0, coupled);
    return {arena, args.samples.T, args.samples.M, args.samples.C};
  }
};

// A kernel by name, its grid and its shared memory; its blocks have kThreads threads.
struct Launch {
  const char* kernel;
  int64_t grid, shared_bytes;
};

template <typename Real>
struct ReportPlan {
  ReportJob<Real> job;
  int64_t row_bytes, coupled_bytes;
  std::vector<Launch> launches;

  int64_t slices_bytes() const { return launches[0].grid * job.slice_bytes; }
  int64_t workspace_bytes() const { return slices_bytes() + row_bytes + coupled_bytes; }
  void place(char* workspace) {
    job.slices = workspace;
    job.rows = reinterpret_cast<double*>(workspace + slices_bytes());
    job.coupled = coupled_bytes > 0 ? workspace + slices_bytes() + row_bytes : nullptr;
  }
};

// Samples of a task that are to fit on the chip: all, or where tasks differ twice as many as there
// are on average.
template <typename Real>
int64_t samples_on_chip(const SamplesArgs<Real>& s, int64_t rows) {
  return s.offsets ? 2 * (rows / std::max<int64_t>(s.T, 1) + 1) : s.n;
}

// lambda_max where args.weight is null, else duality_gap; `rows` are the samples of all tasks.
// Persistent blocks take a task after another; what tasks share has a block per feature.
template <typename Real>
ReportPlan<Real> plan_report(const HeadsReportArgs<Real>& args, int64_t rows,
                             const Machine& machine) {
  const SamplesArgs<Real>& s = args.samples;
  const bool coupled = present(args.penalty.shared);
  char* somewhere = reinterpret_cast<char*>(kAligned);  // never read
  Arena arena(somewhere, machine.shared_bytes, somewhere), shared(somewhere, 0, somewhere);
  const int64_t n = samples_on_chip(s, rows), numbers = row_numbers(s.C, s.loss);
  const TaskNeeds needs{args.weight != nullptr, !coupled};
  bool fits;
  if (coupled) {
    fits = TaskMemory<double>(arena, n, s.M, s.C, s.loss, nullptr, needs).p != nullptr;
    CoupledMemory(shared, s.T, s.M, s.C);
  } else {
    fits = TaskMemory<Real>(arena, n, s.M, s.C, s.loss, nullptr, needs).p != nullptr;
  }
  const int64_t row_bytes =
      fits && !s.offsets ? 0 : (rows * numbers * 8 + kAligned - 1) / kAligned * kAligned;
  const Launch per_task{"", std::clamp<int64_t>(s.T, 1, machine.blocks), arena.taken()};
  const auto tasks = [&](const char* kernel) {
    return Launch{kernel, per_task.grid, per_task.shared_bytes};
  };
  const auto features = [&](const char* kernel) {
    return Launch{kernel, std::max<int64_t>(s.M, 1), 0};
  };
  ReportPlan<Real> plan{{args, arena.taken(), arena.sliced(), nullptr, nullptr, nullptr},
                        row_bytes,
                        coupled ? shared.sliced() : 0,
                        {}};
  const bool gap = args.weight != nullptr;
  if (!coupled) {
    plan.launches = {tasks(gap ? "duality_gap" : "lambda_max")};
  } else if (gap) {
    plan.launches = {tasks("coupled_pull"), features("feature_stretch"), tasks("coupled_loss"),
                     features("feature_value"), Launch{"coupled_gap", 1, 0}};
  } else {
    plan.launches = {tasks("coupled_pull"), features("feature_stretch"),
                     Launch{"coupled_lambda_max", 1, 0}};
  }
  return plan;
}

SPARSEDIS_END
