// What launches the kernels of head solves, for callers that are compiled without CUDA.
#pragma once

#include "backward_job.h"
#include "coupled_backward_job.h"
#include "coupled_fit_job.h"
#include "fit_job.h"
#include "report_job.h"

SPARSEDIS_BEGIN

// What a device gives to kernels of `op`. Throws std::runtime_error.
Machine machine_of(const char* op, int device);

// Enqueues the kernels of a plan whose memory is placed; `stream` is a cudaStream_t of `device`.
// Throws std::runtime_error, which names op, kernel and CUDA's reason.
template <typename Job>
void launch(const char* op, const Plan<Job>& plan, int device, void* stream);

SPARSEDIS_END
