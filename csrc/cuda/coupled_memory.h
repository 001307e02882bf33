// What is kept of all tasks where the shared level couples them.
#pragma once

#include "arena.h"

SPARSEDIS_BEGIN

// Of every task and feature.
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

SPARSEDIS_END
