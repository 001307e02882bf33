// Where the arrays of a block's task lie, on the chip or in the workspace.
#pragma once

#include "../core/samples.h"
#include "arena.h"

SPARSEDIS_BEGIN

// Numbers per sample: p and sqrt(p), y and R, and scores, means and log-sum-exp of a loss that is
// not squared.
SPARSEDIS_HD inline int64_t row_numbers(int64_t C, int64_t loss) {
  return loss == kSquared ? 2 + 2 * C : 3 + 4 * C;
}

// Numbers of the lower half of N rows.
SPARSEDIS_HD inline int64_t packed_numbers(int64_t N) { return N * (N + 1) / 2; }

// From one sample on the chip to the next: odd, so that neither rows nor columns meet in a bank.
SPARSEDIS_HD inline int64_t row_stride(int64_t M) { return M | 1; }

// What a kernel needs of a task beside its samples.
struct TaskNeeds {
  bool weights;    // W
  bool strengths;  // l1 and group
  bool g;          // A'R
  bool ridge = true;
};

// `Stored` is the type of samples on the chip.
template <typename Compute, typename Stored = Compute>
struct TaskMemory {
  double *zbar, *ybar, *g;                     // (M), (C), (M, C)
  double *bias, *trial, *step;                 // (C) each,
  double *gradient, *H;                        // and (C), (C, C), for the best bias
  double *p, *root, *y, *R, *S, *P, *log_sum;  // (n) twice, (n, C) four times, (n)
  float* limit;                                // (C): of the bias, 0 where there is none
  Compute *ridge, *l1, *group, *W;             // (M) three times, (M, C)
  Stored* A;  // (n, ld): the samples, null where they do not fit on the chip

  TaskMemory() = default;
  SPARSEDIS_HD bool on_chip() const { return p != nullptr; }

  // `rows` is where the numbers of samples go that do not fit on the chip.
  SPARSEDIS_HD TaskMemory(Arena& arena, int64_t n, int64_t M, int64_t C, int64_t loss, double* rows,
                          TaskNeeds needs) {
    zbar = arena.take<double>(M), ybar = arena.take<double>(C);
    ridge = arena.take<Compute>(needs.ridge ? M : 0);
    const bool curved = loss != kSquared;
    for (double** vector : {&bias, &trial, &step, &gradient})
      *vector = arena.take<double>(curved ? C : 0);
    limit = arena.take<float>(curved ? C : 0);
    H = arena.take<double>(curved ? C * C : 0);
    for (Compute** strength : {&l1, &group})
      *strength = arena.take<Compute>(needs.strengths ? M : 0);
    g = arena.take<double>(needs.g ? M * C : 0);
    W = arena.take<Compute>(needs.weights ? M * C : 0);
    double* on_chip = arena.take_shared<double>(n * row_numbers(C, loss));
    p = on_chip ? on_chip : rows;
    root = p + n, y = root + n, R = y + n * C, S = R + n * C, P = S + n * C, log_sum = P + n * C;
    A = arena.take_shared<Stored>(n * row_stride(M));
  }
};

SPARSEDIS_END
