// Warp collectives: shuffle, vote, match, redux, elect, ldmatrix, mma.
#pragma once
#include "memory.h"

namespace ptx {

enum class Shuffle { up, down, bfly, idx };

// The source lane and whether it lies in the segment, as the PTX manual defines them.
PTX_NO_TSAN inline u32 shuffle_source(Shuffle mode, u32 lane, u32 b, u32 c, bool* valid) {
  int segment = c >> 8 & 31, clamp = c & 31, offset = b & 31, me = lane;
  int last = (me & segment) | (clamp & ~segment), first = me & segment, source = me;
  switch (mode) {
    case Shuffle::up:
      source = me - offset;
      break;
    case Shuffle::down:
      source = me + offset;
      break;
    case Shuffle::bfly:
      source = me ^ offset;
      break;
    case Shuffle::idx:
      source = first | (offset & ~segment);
      break;
  }
  *valid = mode == Shuffle::up ? source >= last : source <= last;
  return *valid ? source : me;
}

PTX_NO_TSAN inline u32 shuffle(Shuffle mode, u32 value, u32 b, u32 c, u32 mask, bool* valid,
                               int line) {
  u64 published = value;
  Warp& warp = meet(Collective::shuffle, mask, &published, 1, line);
  u32 source = shuffle_source(mode, self().lane(), b, c, valid);
  constexpr u32 UNDEFINED = ~0u;  // a lane that does not take part
  return self().group >> source & 1 ? (u32)warp.snapshot[source][0] : UNDEFINED;
}

PTX_NO_TSAN inline u32 ballot(bool predicate, u32 mask, int line) {
  u64 published = predicate;
  Warp& warp = meet(Collective::vote, mask, &published, 1, line);
  u32 result = 0;
  for (u32 lane = 0; lane < WARP; lane++)
    if (self().group >> lane & 1) result |= (u32)warp.snapshot[lane][0] << lane;
  return result;
}

PTX_NO_TSAN inline u32 match_any(u64 value, u32 mask, int line) {
  Warp& warp = meet(Collective::match, mask, &value, 1, line);
  u32 result = 0;
  for (u32 lane = 0; lane < WARP; lane++)
    if (self().group >> lane & 1 && warp.snapshot[lane][0] == value) result |= 1u << lane;
  return result;
}

PTX_NO_TSAN inline u32 elect(u32 mask, bool* is_leader, int line) {
  meet(Collective::elect, mask, nullptr, 0, line);
  u32 leader = __builtin_ctz(self().group);
  *is_leader = leader == self().lane();
  return leader;
}

enum class Redux { add, min, max, and_, or_, xor_ };

template <class T>
inline T redux_step(Redux op, T a, T b) {
  switch (op) {
    case Redux::min:
      return smaller(a, b);
    case Redux::max:
      return larger(a, b);
    default:
      break;
  }
  u32 x = read_as<u32>((u32)a), y = read_as<u32>((u32)b);
  switch (op) {
    case Redux::add:
      return (T)(x + y);
    case Redux::and_:
      return (T)(x & y);
    case Redux::or_:
      return (T)(x | y);
    default:
      return (T)(x ^ y);
  }
}

template <class T>
PTX_NO_TSAN inline T redux(Redux op, T value, u32 mask, int line) {
  u64 published = (u32)value;
  Warp& warp = meet(Collective::redux, mask, &published, 1, line);
  u32 group = self().group, first = __builtin_ctz(group);
  T result = (T)(u32)warp.snapshot[first][0];
  for (u32 lane = first + 1; lane < WARP; lane++)
    if (group >> lane & 1) result = redux_step(op, result, (T)(u32)warp.snapshot[lane][0]);
  return result;
}

// ---- matrices

// Not inlined: ThreadSanitizer sees them, unlike the functions that call them.
__attribute__((noinline)) inline u16 load_u16(u64 address) { return *(const u16*)address; }
__attribute__((noinline)) inline void store_u16(u64 address, u16 value) { *(u16*)address = value; }

// Where half k of the lane's register of an 8x8 matrix lies; the lanes give the rows' addresses.
PTX_NO_TSAN inline u64 matrix_element(const Warp& warp, int matrix, int k, bool transpose,
                                      Access access, int line) {
  int lane = self().lane();
  int row = transpose ? lane % 4 * 2 + k : lane / 4;
  int column = transpose ? lane / 4 : lane % 4 * 2 + k;
  u64 start = warp.snapshot[matrix * 8 + row][0];
  check_access(start, 16, Space::shared, access, line);
  return start + 2 * column;
}

PTX_NO_TSAN inline void load_matrices(u64 row_address, int count, bool transpose, u32* out,
                                      int line) {
  Warp& warp = meet(Collective::ldmatrix, ~0u, &row_address, 1, line);
  for (int matrix = 0; matrix < count; matrix++) {
    out[matrix] = 0;
    for (int k = 0; k < 2; k++) {
      u64 at = matrix_element(warp, matrix, k, transpose, Access::load, line);
      out[matrix] |= (u32)load_u16(at) << (16 * k);
    }
  }
}

PTX_NO_TSAN inline void store_matrices(u64 row_address, int count, bool transpose, const u32* in,
                                       int line) {
  Warp& warp = meet(Collective::stmatrix, ~0u, &row_address, 1, line);
  for (int matrix = 0; matrix < count; matrix++)
    for (int k = 0; k < 2; k++) {
      u64 at = matrix_element(warp, matrix, k, transpose, Access::store, line);
      store_u16(at, (u16)(in[matrix] >> (16 * k)));
    }
}

// Formats of mma operands: how many elements a 32-bit register holds and their values.
struct F16Operand {
  static constexpr int per_register = 2;
  static f32 element(u32 bits, int i) {
    f16 half;
    half.bits = (u16)(bits >> (16 * i));
    return half;
  }
};
struct Bf16Operand {
  static constexpr int per_register = 2;
  static f32 element(u32 bits, int i) { return read_as<f32>(bits >> (16 * i) << 16); }
};
struct Tf32Operand {
  static constexpr int per_register = 1;
  static f32 element(u32 bits, int) { return tf32_operand(bits); }
};

// D (16x8) = A (16xK) B (Kx8) + C, every product and sum in double, rounded once.
template <class Operand, int K>
PTX_NO_TSAN inline void mma_16x8(f32* d, const u32* a, const u32* b, const f32* c, int line) {
  constexpr int n = Operand::per_register, chunk = 4 * n;  // columns of A spread over four lanes
  constexpr int a_registers = 2 * (K / chunk), b_registers = K / chunk;
  u64 published[a_registers + b_registers];
  for (int i = 0; i < a_registers; i++) published[i] = a[i];
  for (int i = 0; i < b_registers; i++) published[a_registers + i] = b[i];
  Warp& warp = meet(Collective::mma, ~0u, published, a_registers + b_registers, line);
  int lane = self().lane();
  for (int i = 0; i < 4; i++) {
    int row = lane / 4 + (i & 2 ? 8 : 0), column = lane % 4 * 2 + (i & 1);
    f64 sum = c[i];
    for (int k = 0; k < K; k++) {
      int owner = k % chunk / n, element = k % n;
      u32 a_bits = (u32)warp.snapshot[row % 8 * 4 + owner][row / 8 + 2 * (k / chunk)];
      u32 b_bits = (u32)warp.snapshot[column * 4 + owner][a_registers + k / chunk];
      sum += (f64)Operand::element(a_bits, element) * Operand::element(b_bits, element);
    }
    d[i] = (f32)sum;
  }
}

// Double precision D (8x8) = A (8x4) B (4x8) + C.
PTX_NO_TSAN inline void mma_8x8x4_f64(f64* d, f64 a, f64 b, const f64* c, int line) {
  u64 published[2] = {read_as<u64>(a), read_as<u64>(b)};
  Warp& warp = meet(Collective::mma, ~0u, published, 2, line);
  int lane = self().lane(), row = lane / 4;
  for (int i = 0; i < 2; i++) {
    int column = lane % 4 * 2 + i;
    d[i] = c[i];
    for (int k = 0; k < 4; k++) {
      f64 x = read_as<f64>(warp.snapshot[row * 4 + k][0]);
      f64 y = read_as<f64>(warp.snapshot[column * 4 + k][1]);
      d[i] = std::fma(x, y, d[i]);
    }
  }
}

}  // namespace ptx
