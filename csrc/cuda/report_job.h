// The reports of head solves as launches: what their kernels are given.
#pragma once

#include "coupled_memory.h"
#include "task_job.h"

SPARSEDIS_BEGIN

// What every kernel of a report is given.
template <typename Real>
struct ReportJob {
  HeadsReportArgs<Real> args;
  TaskBlocks blocks;
  char* coupled;  // CoupledMemory, or null

  SPARSEDIS_HD TaskNeeds needs() const { return {args.weight != nullptr, !coupled, !coupled}; }
  void place(const TaskBlocks& there, char* rest) {
    blocks = there, coupled = present(args.penalty.shared) ? rest : nullptr;
  }
  SPARSEDIS_HD CoupledMemory coupled_memory() const {
    Arena arena(nullptr, 0, coupled);
    return {arena, args.samples.T, args.samples.M, args.samples.C};
  }
};

// lambda_max where args.weight is null, else duality_gap. What tasks share has a block per feature.
template <typename Real>
std::vector<Launch> report_launches(const HeadsReportArgs<Real>& args, const TaskPlan& tasks) {
  const bool gap = args.weight != nullptr;
  if (!present(args.penalty.shared)) return {tasks.launch(gap ? "duality_gap" : "lambda_max")};
  const auto features = [&](const char* kernel) {
    return Launch{kernel, std::max<int64_t>(args.samples.M, 1), 0};
  };
  const Launch pull = tasks.launch("coupled_pull"), stretch = features("feature_stretch");
  if (!gap) return {pull, stretch, {"coupled_lambda_max", 1, 0}};
  return {pull,
          stretch,
          tasks.launch("coupled_loss"),
          features("feature_value"),
          {"coupled_gap", 1, 0}};
}

// `rows` are the samples of all tasks.
template <typename Real>
Plan<ReportJob<Real>> plan_report(const HeadsReportArgs<Real>& args, int64_t rows,
                                  const Machine& machine) {
  const SamplesArgs<Real>& s = args.samples;
  const bool coupled = present(args.penalty.shared);
  const TaskNeeds needs{args.weight != nullptr, !coupled, !coupled};
  const auto lay_out = [&](Arena& arena, int64_t n) {
    if (coupled) return TaskMemory<double>(arena, n, s.M, s.C, s.loss, nullptr, needs).on_chip();
    return TaskMemory<Real>(arena, n, s.M, s.C, s.loss, nullptr, needs).on_chip();
  };
  const TaskPlan tasks = plan_tasks(s, rows, row_numbers(s.C, s.loss), machine, lay_out);
  Arena shared = counting_arena(0);
  if (coupled) CoupledMemory(shared, s.T, s.M, s.C);
  return {{args, {}, nullptr}, tasks, shared.sliced(), report_launches(args, tasks)};
}

SPARSEDIS_END
