// Ridge heads of a block's task by one factor of the smaller side: K = A'A + D over features, or
// with fewer samples K = A D^-1 A' + I over samples, D the ridges.
#pragma once

#include "report.cuh"
#include "ridge_memory.h"
#include "spd.cuh"

SPARSEDIS_BEGIN

// write(a, b, sum_k scale(k) x(a, k) x(b, k)) once for every b <= a < rows: a thread takes `side`
// rows times as many, from all over, so that threads side by side read rows side by side.
template <typename Sum, int side, typename X, typename Scale, typename F>
__device__ void multiply_lower(const Block& block, int rows, int inner, X x, Scale scale, F write) {
  const int step = (rows + side - 1) / side;
  for (int tile = Block::rank(); tile < step * (step + 1) / 2; tile += block.threads) {
    int p = static_cast<int>((sqrt(8.0 * tile + 1) - 1) / 2);
    p += (p + 1) * (p + 2) / 2 <= tile;  // where the root was rounded down
    const int q = tile - p * (p + 1) / 2;
    const auto row = [&](int first, int i) { return min(first + i * step, rows - 1); };
    Sum sums[side][side] = {};
#pragma unroll 1
    for (int k = 0; k < inner; ++k) {
      Sum right[side];
#pragma unroll
      for (int j = 0; j < side; ++j) right[j] = scale(k) * x(row(q, j), k);
#pragma unroll
      for (int i = 0; i < side; ++i) {
        const Sum left = x(row(p, i), k);
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
  using Compute = typename Task::Compute;
  const Task& task;
  const RidgeMemory<Compute>& memory;

  __device__ bool dual() const { return task.in.n < task.in.M; }
  __device__ int64_t unknowns() const { return dual() ? task.in.n : task.in.M; }

  // K with its diagonal lifted by a share.
  __device__ void load_system(Compute lift) const {
    if (task.near())
      load_system<kTileSide>(Near(), lift);
    else
      load_system<kFarTileSide>(Far(), lift);
    if (sizeof(Compute) == 4 && dual() && task.in.fit_intercept) raise_mean();
  }
  template <int side, typename Where>
  __device__ void load_system(Where where, Compute lift) const {
    Compute* K = memory.K;
    const Compute *inverse = memory.inverse, *ridge = task.memory.ridge;
    const int rows = static_cast<int>(unknowns());
    const Packed at;
    const auto put = [=](int r, int k, Compute sum, Compute own) {
      K[at(r, k)] = r == k ? (sum + own) * (1 + lift) : sum;
    };
    if (dual())
      multiply_lower<Compute, side>(
          task.block, rows, static_cast<int>(task.in.M),
          [&](int r, int k) { return task.a(where, r, k); }, [=](int k) { return inverse[k]; },
          [=](int r, int k, Compute sum) { put(r, k, sum, 1); });
    else
      multiply_lower<Compute, side>(
          task.block, rows, static_cast<int>(task.in.n),
          [&](int r, int k) { return task.a(where, k, r); }, [](int) { return Compute(1); },
          [=](int r, int k, Compute sum) { put(r, k, sum, ridge[r]); });
  }

  // Adds its largest diagonal entry times u u' to K, u = sqrt(p): core/ridge.h says why,
  // which double does not ask for.
  __device__ void raise_mean() const {
    Compute* K = memory.K;
    const double* root = task.memory.root;
    const Packed at;
    const int N = static_cast<int>(unknowns());
    Block::sync();
    const double largest = task.block.largest(N, [&](int i) { return K[at(i, i)]; });
#pragma unroll 1
    for (int i = Block::warp(); i < N; i += task.block.warps()) {
      const Compute scaled = largest * root[i];
#pragma unroll 1
      for (int j = Block::lane(); j <= i; j += kWarp) K[at(i, j)] += scaled * Compute(root[j]);
    }
  }

  // A matrix that rounding made indefinite is lifted; the certificate tells what that costs.
  __device__ void factor() const {
    Compute *inverse = memory.inverse, lift = 0;
    const Compute* ridge = task.memory.ridge;
    task.block.each(task.in.M, [&](int64_t j) { inverse[j] = 1 / ridge[j]; });
#pragma unroll 1
    for (int attempt = 0; attempt < kLifts; ++attempt) {
      load_system(lift);
      if (factor_spd(task.block, memory.K, unknowns(), Packed())) return;
      lift = lift == 0 ? std::numeric_limits<Compute>::epsilon() : 8 * lift;
      Block::sync();
    }
  }

  __device__ void solve(Compute* x) const {
    solve_spd(task.block, memory.K, unknowns(), task.in.C, x, Packed());
  }

  // ---- a fit

  // W = (A'A + D)^-1 A'B, K factored.
  __device__ void solve_heads() const {
    const auto& m = task.memory;
    const int64_t C = task.in.C;
    Compute* W = m.W;
    if (dual()) {
      Compute* x = reinterpret_cast<Compute*>(m.g);  // whose rows outnumber samples
      task.block.each(task.in.n * C, [&](int64_t k) { x[k] = task.b(k / C, k % C); });
      solve(x);
      return pull<Compute>(task, C, x, [=, inverse = memory.inverse](int j, int c, Compute sum) {
        W[j * C + c] = inverse[j] * sum;
      });
    }
    task.block.each(task.in.n * C, [&](int64_t k) { m.R[k] = task.b(k / C, k % C); });
    pull<double>(task, C, m.R,
                 [=](int j, int c, double sum) { W[j * C + c] = static_cast<Compute>(sum); });
    solve(W);
  }

  // W, K factored; returns the gap that it has, relative to that at zero.
  __device__ double fit() const {
    const auto& m = task.memory;
    const int64_t C = task.in.C;
    solve_heads();
    const double zero = evaluate_both(task, true);
    if (zero == 0) task.block.each(task.in.M * C, [&](int64_t k) { m.W[k] = 0; });
    if (zero == 0) return 0;
    pull_all(task, m.g);
    const double gap = task.block.sum(task.in.M * C, [&](int64_t k) {
      const double ridge = m.ridge[k / C], slope = m.g[k] - ridge * m.W[k];
      return slope * slope / (2 * ridge);
    });
    return gap / zero;
  }

  // ---- a gradient

  // write(i, c, (A D^-1 x)) for x (M, C).
  template <typename F>
  __device__ void push(const Compute* x, F write) const {
    const Compute* inverse = memory.inverse;
    multiply<Compute>(
        task.block, task.near(), task.in.n, task.in.M, task.in.C,
        [&](auto where, int i, int j) { return inverse[j] * task.a(where, i, j); },
        rows_of(x, task.in.C), write);
  }

  // G (M, C) <- (A'A + D)^-1 G, K factored; x (n, C) is where it works.
  __device__ void invert(Compute* G, Compute* x) const {
    if (!dual()) return solve(G);
    const int64_t C = task.in.C;
    const Compute* inverse = memory.inverse;
    push(G, [=](int64_t i, int c, Compute sum) { x[i * C + c] = sum; });
    solve(x);
    pull<Compute>(task, C, x, [=](int64_t j, int c, Compute sum) {
      G[j * C + c] = inverse[j] * (G[j * C + c] - sum);
    });
  }
};

template <typename Task>
Ridge(const Task&, const RidgeMemory<typename Task::Compute>&) -> Ridge<Task>;

SPARSEDIS_END
