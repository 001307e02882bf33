// The blocks of a cooperative launch, which wait for each other.
#pragma once

#include "block.cuh"

SPARSEDIS_BEGIN

constexpr unsigned kNap = 64;  // nanoseconds between two looks at who has arrived

class Grid {
 public:
  // `arrived` is 0 at the start of the launch, and nobody else's.
  __device__ explicit Grid(unsigned* arrived) : arrived_(arrived) {}

  // What a block wrote before, all may read afterwards.
  __device__ void sync() {
    Block::sync();
    expected_ += gridDim.x;
    if (Block::rank() == 0) {
      __threadfence();
      atomicAdd(arrived_, 1u);
      while (static_cast<int>(expected_ - atomicAdd(arrived_, 0u)) > 0) __nanosleep(kNap);
      __threadfence();
    }
    Block::sync();
  }

 private:
  unsigned* arrived_;
  unsigned expected_ = 0;  // of all rounds; it may wrap around
};

SPARSEDIS_END
