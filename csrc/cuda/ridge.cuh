// Ridge heads of a block's task by one factor of the smaller side, in double: K = A'A + D over
// features, or with fewer samples K = A D^-1 A' + I over samples, D the ridges.
#pragma once

#include "products.cuh"
#include "ridge_memory.h"
#include "spd.cuh"
#include "task.cuh"

SPARSEDIS_BEGIN

// write(a, b, sum_k scale(k) x(a, k) x(b, k)) once for every b <= a < rows: a thread takes `side`
// rows times as many, from all over, so that threads side by side read rows side by side.
template <int side, typename X, typename Scale, typename F>
__device__ void multiply_lower(const Block& block, int rows, int inner, X x, Scale scale, F write) {
  const int step = (rows + side - 1) / side;
  for (int tile = Block::rank(); tile < step * (step + 1) / 2; tile += block.threads) {
    int p = static_cast<int>((sqrt(8.0 * tile + 1) - 1) / 2);
    p += (p + 1) * (p + 2) / 2 <= tile;  // where the root was rounded down
    const int q = tile - p * (p + 1) / 2;
    const auto row = [&](int first, int i) { return min(first + i * step, rows - 1); };
    double sums[side][side] = {};
#pragma unroll 1
    for (int k = 0; k < inner; ++k) {
      double right[side];
#pragma unroll
      for (int j = 0; j < side; ++j) right[j] = scale(k) * x(row(q, j), k);
#pragma unroll
      for (int i = 0; i < side; ++i) {
        const double left = x(row(p, i), k);
#pragma unroll
        for (int j = 0; j < side; ++j) sums[i][j] += left * right[j];
      }
    }
#pragma unroll
    for (int i = 0; i < side; ++i)
#pragma unroll
      for (int j = 0; j < side; ++j) {
        const int a = p + i * step, b = q + j * step;
        if (a < rows && b < rows && (p != q || i >= j)) write(max(a, b), min(a, b), sums[i][j]);
      }
  }
}

constexpr int kFarTileSide = 3;  // of samples off the chip, whose addresses take registers, too
constexpr int kLifts = 12;

template <typename Task>
struct Ridge {
  const Task& task;
  const RidgeMemory& memory;

  __device__ bool dual() const { return task.in.n < task.in.M; }
  __device__ int64_t unknowns() const { return dual() ? task.in.n : task.in.M; }

  // K with its diagonal lifted by a share.
  __device__ void load_system(double lift) const {
    if (task.near())
      load_system<kTileSide>(Near(), lift);
    else
      load_system<kFarTileSide>(Far(), lift);
  }
  template <int side, typename Where>
  __device__ void load_system(Where where, double lift) const {
    double* K = memory.K;
    const double* inverse = memory.inverse;
    const auto* ridge = task.memory.ridge;
    const int rows = static_cast<int>(unknowns());
    const Packed at;
    const auto put = [=](int r, int k, double sum, double own) {
      K[at(r, k)] = r == k ? (sum + own) * (1 + lift) : sum;
    };
    if (dual())
      multiply_lower<side>(
          task.block, rows, static_cast<int>(task.in.M),
          [&](int r, int k) { return task.a(where, r, k); }, [=](int k) { return inverse[k]; },
          [=](int r, int k, double sum) { put(r, k, sum, 1.0); });
    else
      multiply_lower<side>(
          task.block, rows, static_cast<int>(task.in.n),
          [&](int r, int k) { return task.a(where, k, r); }, [](int) { return 1.0; },
          [=](int r, int k, double sum) { put(r, k, sum, ridge[r]); });
  }

  // A matrix that rounding made indefinite is lifted; the certificate tells what that costs.
  __device__ void factor() const {
    double *inverse = memory.inverse, lift = 0;
    const auto* ridge = task.memory.ridge;
    task.block.each(task.in.M, [&](int64_t j) { inverse[j] = 1 / double(ridge[j]); });
#pragma unroll 1
    for (int attempt = 0; attempt < kLifts; ++attempt) {
      load_system(lift);
      if (factor_spd(task.block, memory.K, unknowns(), Packed())) return;
      lift = lift == 0 ? std::numeric_limits<double>::epsilon() : 8 * lift;
      Block::sync();
    }
  }

  // write(i, c, (A D^-1 x)) for x (M, C).
  template <typename F>
  __device__ void push(const double* x, F write) const {
    const double* inverse = memory.inverse;
    multiply<double>(
        task.block, task.near(), task.in.n, task.in.M, task.in.C,
        [&](auto where, int i, int j) { return inverse[j] * task.a(where, i, j); },
        rows_of(x, task.in.C), write);
  }
  __device__ void solve(double* x) const {
    solve_spd(task.block, memory.K, unknowns(), task.in.C, x, Packed());
  }

  // W = (A'A + D)^-1 A'B, K factored; R and g are where it works.
  __device__ void fit() const {
    const auto& m = task.memory;
    const int64_t C = task.in.C;
    double *R = m.R, *g = m.g;
    auto* W = m.W;
    using Weight = std::remove_reference_t<decltype(*W)>;
    task.block.each(task.in.n * C, [&](int64_t k) { R[k] = task.b(k / C, k % C); });
    if (dual()) {
      solve(R);
      return pull<double>(task, C, R, [=, inverse = memory.inverse](int64_t j, int c, double sum) {
        W[j * C + c] = static_cast<Weight>(inverse[j] * sum);
      });
    }
    pull<double>(task, C, R, [=](int64_t j, int c, double sum) { g[j * C + c] = sum; });
    solve(g);
    task.block.each(task.in.M * C, [&](int64_t k) { W[k] = static_cast<Weight>(g[k]); });
  }

  // G (M, C) <- (A'A + D)^-1 G, K factored; x (n, C) is where it works.
  __device__ void invert(double* G, double* x) const {
    if (!dual()) return solve(G);
    const int64_t C = task.in.C;
    const double* inverse = memory.inverse;
    push(G, [=](int64_t i, int c, double sum) { x[i * C + c] = sum; });
    solve(x);
    pull<double>(task, C, x, [=](int64_t j, int c, double sum) {
      G[j * C + c] = inverse[j] * (G[j * C + c] - sum);
    });
  }
};

SPARSEDIS_END
