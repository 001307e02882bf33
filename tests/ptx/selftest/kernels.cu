// Correct kernels of many kinds; their results are compared with references in test_cuda.py.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace cg = cooperative_groups;

#define KERNEL extern "C" __global__ void
constexpr unsigned FULL = 0xffffffffu;

__device__ int global_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

KERNEL add_vectors(const float* a, const float* b, float* c, int n) {
  int i = global_index();
  if (i < n) c[i] = a[i] + b[i];
}

__device__ float block_sum(float value) {
  __shared__ float partial[32];
  for (int offset = 16; offset; offset >>= 1) value += __shfl_xor_sync(FULL, value, offset);
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  if (warp == 0) {
    value = lane < blockDim.x / 32 ? partial[lane] : 0.f;
    for (int offset = 16; offset; offset >>= 1) value += __shfl_xor_sync(FULL, value, offset);
    if (lane == 0) partial[0] = value;
  }
  __syncthreads();
  return partial[0];
}

// Group soft threshold, one block per row, rows of float4.
KERNEL __launch_bounds__(128) group_soft(const float4* x, float4* y, int vectors, float threshold) {
  const float4* in = x + (size_t)blockIdx.x * vectors;
  float4* out = y + (size_t)blockIdx.x * vectors;
  float sum = 0;
  for (int i = threadIdx.x; i < vectors; i += blockDim.x) {
    float4 v = in[i];
    sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
  }
  float norm = sqrtf(block_sum(sum));
  float scale = norm > threshold ? 1.f - threshold / norm : 0.f;
  for (int i = threadIdx.x; i < vectors; i += blockDim.x) {
    float4 v = in[i];
    out[i] = make_float4(v.x * scale, v.y * scale, v.z * scale, v.w * scale);
  }
}

// In-place Cholesky factor, one block per matrix, dynamic shared memory.
KERNEL cholesky(float* matrices, int n, int* info) {
  extern __shared__ float tile[];
  float* a = matrices + (size_t)blockIdx.x * n * n;
  int stride = n + 1;
  for (int i = threadIdx.x; i < n * n; i += blockDim.x) tile[i / n * stride + i % n] = a[i];
  __syncthreads();
  for (int k = 0; k < n; k++) {
    if (threadIdx.x == 0) {
      float pivot = tile[k * stride + k];
      if (!(pivot > 0) && !info[blockIdx.x]) info[blockIdx.x] = k + 1;
      tile[k * stride + k] = sqrtf(pivot);
    }
    __syncthreads();
    float inverse = 1 / tile[k * stride + k];
    for (int i = k + 1 + threadIdx.x; i < n; i += blockDim.x) tile[i * stride + k] *= inverse;
    __syncthreads();
    int rest = n - k - 1;
    for (int t = threadIdx.x; t < rest * rest; t += blockDim.x) {
      int i = k + 1 + t / rest, j = k + 1 + t % rest;
      if (j <= i) tile[i * stride + j] -= tile[i * stride + k] * tile[j * stride + k];
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < n * n; i += blockDim.x) {
    int row = i / n, column = i % n;
    a[i] = column <= row ? tile[row * stride + column] : 0;
  }
}

KERNEL atomics_and_votes(const float* x, double* sum, int* histogram, unsigned* ballots, int n) {
  int i = global_index();
  float v = i < n ? x[i] : 0;
  unsigned ballot = __ballot_sync(FULL, v > 0);
  if ((threadIdx.x & 31) == 0) ballots[i >> 5] = ballot;
  if (i >= n) return;
  atomicAdd(sum, (double)v);
  atomicAdd(&histogram[min(7, max(0, (int)floorf(v * 2) + 4))], 1);
}

KERNEL to_half(const float* x, __half* h, __nv_bfloat16* b, int n) {
  int i = global_index();
  if (i >= n) return;
  h[i] = __float2half(x[i] * 1.5f);
  b[i] = __float2bfloat16(x[i] * 0.3f);
}

KERNEL packed_half(const __half2* a, const __half2* b, __half2* ab, const __nv_bfloat162* c,
                   __nv_bfloat162* cc, int n) {
  int i = global_index();
  if (i >= n) return;
  ab[i] = __hfma2(a[i], b[i], __hadd2(a[i], b[i]));
  cc[i] = __hmul2(c[i], __hadd2(c[i], c[i]));
}

KERNEL float_functions(const float* x, float* y, int n) {
  int i = global_index();
  if (i >= n) return;
  float v = x[i], a = fabsf(v);
  float table[8];
  for (int k = 0; k < 8; k++) table[k] = v * k;
  float r = expf(v) + logf(a + 1) + sinf(v) + rsqrtf(a + .5f) + tanhf(v) + erff(v) + powf(a, 1.7f);
  y[i] = r + fmodf(v, .3f) + table[__popc(__float_as_int(v)) & 7];
}

KERNEL local_table(const float* x, const int* index, float* y) {
  float table[16] = {};
  for (int k = 0; k < 64; k++) table[index[k]] += x[k];
  y[threadIdx.x] = table[index[threadIdx.x]];
}

KERNEL double_functions(const double* x, double* y, int n) {
  int i = global_index();
  if (i >= n) return;
  double v = x[i], a = fabs(v);
  y[i] = pow(a, 1.3) + sin(v * 1000) + exp(v) + log(a + 1) + sqrt(a) + 1 / (v * v + 1) +
         fmod(v, .37) + erf(v) + cbrt(v) + tgamma(a + .5);
}

KERNEL integers(const long long* a, const long long* b, long long* out, int n) {
  int i = global_index();
  if (i >= n) return;
  long long x = a[i], y = b[i] | 1;
  unsigned long long ux = x, uy = y;
  out[i] = x / y + x % y + (long long)(ux / uy) + __umul64hi(ux, uy) + __popcll(x) + __clzll(x) +
           (x >> (b[i] & 63)) + (long long)((unsigned)x % (unsigned)y);
}

KERNEL bit_operations(const unsigned* a, unsigned* out, int n) {
  int i = global_index();
  if (i >= n) return;
  unsigned x = a[i];
  out[i] = __popc(x) + __clz(x) + __ffs(x) + __brev(x) % 5u + __byte_perm(x, 0x89abcdefu, 0x7351u) +
           __funnelshift_l(x, 0x12345678u, x & 31) + (unsigned)((int)x >> 3) +
           (unsigned)((int)x % 7);
}

KERNEL shared_histogram(const int* keys, int* histogram, int* maximum, int n) {
  __shared__ int counts[16];
  __shared__ int maxima[8];
  int t = threadIdx.y * blockDim.x + threadIdx.x;
  if (t < 16) counts[t] = 0;
  __syncthreads();
  for (int i = t; i < n; i += blockDim.x * blockDim.y) atomicAdd(&counts[keys[i] & 15], 1);
  auto warp = cg::tiled_partition<32>(cg::this_thread_block());
  int largest = cg::reduce(warp, keys[t], cg::greater<int>());
  if (warp.thread_rank() == 0) maxima[t / 32] = largest;
  __syncthreads();
  if (t < 16) atomicAdd(&histogram[t], counts[t]);
  if (t == 0) {
    for (int i = 1; i < 8; i++) maxima[0] = max(maxima[0], maxima[i]);
    *maximum = maxima[0];
  }
}

__device__ int launches = 5;
__constant__ float weights[4] = {1.f, 2.f, 3.f, 4.f};

KERNEL module_variables(int* count, float* out) {
  if (threadIdx.x == 0) *count = launches++;
  out[threadIdx.x] = weights[threadIdx.x & 3];
}

struct Scaling {
  float factors[3];
  int power;
  double shift;
};

KERNEL struct_by_value(Scaling s, float* out) {
  out[threadIdx.x] = s.factors[threadIdx.x % 3] * s.power + (float)s.shift;
}

__device__ __noinline__ int fibonacci(int n) {
  return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

KERNEL recursion(int* out) { out[threadIdx.x] = fibonacci(threadIdx.x); }

// Threads that left take part in no later barrier or vote.
KERNEL early_exit(const float* x, float* out, int n) {
  __shared__ float tile[1024];
  int i = threadIdx.x;
  if (i >= n) return;
  tile[i] = x[i];
  __syncthreads();
  out[i] = tile[n - 1 - i] + __popc(__ballot_sync(FULL, x[i] > 0));
}

// ---- less common instructions

template <int SIZE>
__device__ float tile_sum(float value) {
  auto tile = cg::tiled_partition<SIZE>(cg::this_thread_block());
  return cg::reduce(tile, value, cg::plus<float>());
}

KERNEL tile_sums(const float* x, float* out) {
  int i = threadIdx.x;
  out[i] = tile_sum<8>(x[i]) + 1000 * tile_sum<16>(x[i]);
}

// Warp 0 produces, warp 1 consumes; the other warps never see the barrier.
KERNEL producer_consumer(const int* x, int* out) {
  __shared__ int buffer[32];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  if (warp == 0) {
    buffer[lane] = x[lane];
    asm volatile("bar.arrive 1, 64;" ::: "memory");
  } else if (warp == 1) {
    asm volatile("bar.sync 1, 64;" ::: "memory");
    out[lane] = buffer[31 - lane];
  }
}

KERNEL count_in_block(const int* x, int* out) {
  int positive = __syncthreads_count(x[threadIdx.x] > 0);
  int any = __syncthreads_or(x[threadIdx.x] > 90), all = __syncthreads_and(x[threadIdx.x] > -200);
  out[threadIdx.x] = positive * 100 + any * 10 + all;
}

KERNEL dense_switch(const int* selector, int* out, int n) {
  int i = global_index();
  if (i >= n) return;
  int r = i;
  asm volatile(
      "{\n"
      ".reg .u32 which;\n"
      "mov.u32 which, %1;\n"
      "cases: .branchtargets case_a, case_b, case_c;\n"
      "brx.idx which, cases;\n"
      "case_a: add.s32 %0, %0, 100; bra.uni done;\n"
      "case_b: mul.lo.s32 %0, %0, 3; bra.uni done;\n"
      "case_c: neg.s32 %0, %0;\n"
      "done:\n"
      "}"
      : "+r"(r)
      : "r"(selector[i]));
  out[i] = r;
}

KERNEL which_space(const float* global_array, int* out) {
  __shared__ float shared_array[2];
  float local_array[2] = {1.f, 2.f};
  const void* pointers[3] = {global_array, shared_array, local_array};
  for (int i = 0; i < 3; i++) {
    const void* p = pointers[(i + threadIdx.x) % 3];
    out[i] = __isGlobal(p) + 2 * __isShared(p) + 4 * __isLocal(p);
  }
}

KERNEL match_lanes(const int* x, unsigned* any, int* all) {
  int same;
  any[threadIdx.x] = __match_any_sync(FULL, x[threadIdx.x]);
  __match_all_sync(FULL, x[threadIdx.x & 0], &same);
  all[threadIdx.x] = same;
}

// Counters taken by the lanes that happen to be converged; any grouping gives the same set of
// tickets.
KERNEL aggregated_tickets(const int* wants, int* counter, int* ticket) {
  int i = global_index();
  if (!wants[i]) return;
  auto group = cg::coalesced_threads();
  int first = 0;
  if (group.thread_rank() == 0) first = atomicAdd(counter, (int)group.size());
  ticket[i] = group.shfl(first, 0) + group.thread_rank();
}

// Half of the warp does an extra shuffle before all lanes meet; some lanes leave early.
KERNEL uneven_shuffles(const int* x, int* out) {
  int lane = threadIdx.x, v = x[lane];
  if (lane >= 28) return;
  if (lane < 16) v += __shfl_xor_sync(0xffffu, v, 1);
  __syncwarp(FULL);
  out[lane] = __shfl_sync(FULL, v, (lane + 5) % 28);
}

// A lock that every thread takes once.
KERNEL spin_lock(int* lock, int* counter) {
  bool done = false;
  while (!done) {
    if (atomicCAS(lock, 0, 1) == 0) {
      __threadfence();
      *counter = *counter + 1;
      __threadfence();
      atomicExch(lock, 0);
      done = true;
    } else {
      __nanosleep(20);
    }
  }
}

// The last block adds up what all blocks wrote.
KERNEL last_block_sum(const float* x, float* partial, unsigned* arrived, float* total) {
  __shared__ bool is_last;
  float sum = block_sum(x[global_index()]);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = sum;
    __threadfence();
    is_last = atomicAdd(arrived, 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last || threadIdx.x) return;
  __threadfence();
  float result = 0;
  for (int i = 0; i < gridDim.x; i++) result += ((volatile float*)partial)[i];
  *total = result;
}

// Every block adds up what all blocks wrote, in rounds of which each waits for the one before.
KERNEL rounds_of_sums(float* values, unsigned* arrived, int rounds) {
  float sum = 1;
  for (int round = 1; round <= rounds; round++) {
    if (threadIdx.x == 0) {
      values[blockIdx.x + round % 2 * gridDim.x] = sum;
      __threadfence();
      atomicAdd(arrived, 1);
      while (atomicAdd(arrived, 0) < round * gridDim.x) __nanosleep(20);
      __threadfence();
      sum = 0;
      for (int i = 0; i < gridDim.x; i++) sum += values[i + round % 2 * gridDim.x];
    }
    __syncthreads();
  }
}

__global__ void write_through_pointers(float** rows, int n) {
  if (threadIdx.x < n) rows[blockIdx.x][threadIdx.x] = blockIdx.x * 100 + threadIdx.x;
}

KERNEL half_atomics(const float* x, __half2* sum) {
  atomicAdd(sum, __floats2half2_rn(x[threadIdx.x], -x[threadIdx.x]));
}

#if __CUDA_ARCH__ >= 900
KERNEL vector_atomics(const float4* x, float4* sum, float2* pair) {
  atomicAdd(sum, x[threadIdx.x]);
  float2 old = atomicAdd(pair, make_float2(1.f, 2.f));
  if (old.y != 2 * old.x) atomicAdd(&pair->x, 1000.f);
}

KERNEL elected_lane(int* out) {
  unsigned leader, mask = threadIdx.x < 8 ? 0xffu : ~0xffu;
  int chosen;
  asm volatile("{ .reg .pred p; elect.sync %0|p, %2; selp.s32 %1, 1, 0, p; }"
               : "=r"(leader), "=r"(chosen)
               : "r"(mask));
  out[threadIdx.x] = leader * 2 + chosen;
}
#endif
