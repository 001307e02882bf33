// Types and arithmetic of PTX: half formats, rounding, conversions, bit operations.
#pragma once
#include <cfenv>
#include <cmath>
#include <limits>
#include <type_traits>

#include "block.h"

namespace ptx {

// ---- registers
// A register is an unsigned integer holding raw bits; an instruction reads and writes it as a type.

template <class T, class Register>
inline T read_as(Register bits) {
  if constexpr (std::is_same_v<T, bool>) return (bool)bits;
  T value{};
  __builtin_memcpy(&value, &bits, sizeof(T) < sizeof bits ? sizeof(T) : sizeof bits);
  return value;
}

// A register wider than the value is filled by sign or zero extension.
template <class T, class Register>
inline void write_as(Register& target, T value) {
  if constexpr (std::is_same_v<Register, bool>) {
    target = (bool)value;
  } else if constexpr (std::is_integral_v<T> && sizeof(Register) > sizeof(T)) {
    target = (Register)value;
  } else {
    target = 0;
    __builtin_memcpy(&target, &value, sizeof(Register) < sizeof(T) ? sizeof(Register) : sizeof(T));
  }
}

// ---- 16-bit floating point

// Sum rounded to odd in double, so that a second rounding to a narrow format is exact.
inline f64 add_round_to_odd(f64 a, f64 b) {
  volatile f64 sum = a + b;
  volatile f64 b_part = sum - a;
  volatile f64 a_part = sum - b_part;
  f64 error = (a - a_part) + (b - b_part);
  f64 result = sum;
  if (error == 0 || !std::isfinite(result)) return result;
  u64 bits = read_as<u64>(result);
  if ((bits & 1) == 0) bits += (error > 0) == (result > 0) ? 1 : -1;
  return read_as<f64>(bits);
}

struct f16 {
  u16 bits;
  f16() = default;
  f16(f64 value) {
    _Float16 half = (_Float16)value;
    __builtin_memcpy(&bits, &half, 2);
  }
  operator f32() const {
    _Float16 half;
    __builtin_memcpy(&half, &bits, 2);
    return (f32)half;
  }
};

struct bf16 {
  u16 bits;
  bf16() = default;
  bf16(f32 value) {
    u32 u = read_as<u32>(value);
    bits = value != value ? 0x7fff : (u16)((u + 0x7fff + (u >> 16 & 1)) >> 16);
  }
  bf16(f64 value) {
    f32 narrow = (f32)value;
    u32 u = read_as<u32>(narrow);
    bool inexact = (f64)narrow != value && std::isfinite(narrow) && value == value;
    if (inexact && (u & 1) == 0) u += std::fabs((f64)narrow) < std::fabs(value) ? 1 : -1;
    *this = bf16(read_as<f32>(u));
  }
  operator f32() const { return read_as<f32>((u32)bits << 16); }
};

inline f32 tf32_operand(u32 bits) { return read_as<f32>(bits & 0xffffe000u); }

inline u32 round_to_tf32(u32 bits, bool ties_to_even) {
  if ((bits & 0x7f800000u) == 0x7f800000u) return bits & 0xffffe000u;  // infinity or NaN
  u32 half = ties_to_even ? 0x0fffu + (bits >> 13 & 1) : 0x1000u;
  return (bits + half) & 0xffffe000u;
}

inline f64 fma_half(f64 a, f64 b, f64 c) { return add_round_to_odd(a * b, c); }

// ---- modifiers

template <class T>
inline T flush_subnormal(T value) {
  if constexpr (std::is_same_v<T, f32>)
    return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.f, value) : value;
  if constexpr (std::is_same_v<T, f16>)
    if ((value.bits & 0x7c00) == 0) value.bits &= 0x8000;
  return value;
}
template <class T>
inline T saturate(T value) {  // NaN becomes 0
  return value > T(0) ? (value < T(1) ? value : T(1)) : T(0);
}
inline f32 relu(f32 value) { return value > 0 || value != value ? value : 0; }

// ---- rounding modes other than to nearest

class RoundingScope {
  int saved = fegetround();

 public:
  explicit RoundingScope(int mode) { fesetround(mode); }
  ~RoundingScope() { fesetround(saved); }
};

template <class T>
PTX_NO_TSAN inline T multiply(T a, T b) {
  machine.result.multiplications[__builtin_ctz(sizeof(T))]++;
  return a * b;
}
template <class T>
PTX_NO_TSAN inline T multiply_add(T a, T b, T c) {
  machine.result.multiplications[__builtin_ctz(sizeof(T))]++;
  return std::fma(a, b, c);
}

#define PTX_ROUNDED(name, expression)                                                              \
  template <class T>                                                                               \
  __attribute__((noinline)) T rounded_##name(int mode, volatile T a, volatile T b, volatile T c) { \
    RoundingScope scope(mode);                                                                     \
    (void)b;                                                                                       \
    (void)c;                                                                                       \
    volatile T result = expression;                                                                \
    return result;                                                                                 \
  }
PTX_ROUNDED(add, a + b)
PTX_ROUNDED(sub, a - b)
PTX_ROUNDED(mul, a* b)
PTX_ROUNDED(div, a / b)
PTX_ROUNDED(sqrt, std::sqrt((T)a))
PTX_ROUNDED(rcp, T(1) / a)
PTX_ROUNDED(fma, std::fma((T)a, (T)b, (T)c))
#undef PTX_ROUNDED

template <class To, class From>
__attribute__((noinline)) To rounded_convert(int mode, volatile From value) {
  RoundingScope scope(mode);
  volatile To result = (To)value;
  return result;
}

inline f64 round_to_integer(f64 value, int mode) {
  switch (mode) {
    case FE_TOWARDZERO:
      return std::trunc(value);
    case FE_DOWNWARD:
      return std::floor(value);
    case FE_UPWARD:
      return std::ceil(value);
    default:
      return std::nearbyint(value);
  }
}

template <class Integer>
inline Integer float_to_integer(f64 value) {
  typedef std::numeric_limits<Integer> Limits;
  if (value != value) return 0;
  if (value <= (f64)Limits::min()) return Limits::min();
  if (value >= (f64)Limits::max()) return Limits::max();
  return (Integer)value;
}

template <class To, class From>
inline To saturate_integer(From value) {
  typedef std::numeric_limits<To> Limits;
  __int128 wide = value;
  return (To)smaller<__int128>(Limits::max(), larger<__int128>(Limits::min(), wide));
}

// ---- floating point minimum and maximum: NaN loses, -0 is below +0

template <class T>
inline T float_min(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}
template <class T>
inline T float_max(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}

// ---- integers

template <class T>
inline T multiply_high(T a, T b) {
  typedef std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128> Wide;
  return (T)(((Wide)a * (Wide)b) >> (8 * sizeof(T)));
}
template <class T>
inline T divide(T a, T b) {
  if (b == 0) return (T)-1;
  if (std::is_signed_v<T> && b == (T)-1) return (T)(0 - (std::make_unsigned_t<T>)a);
  return (T)(a / b);
}
template <class T>
inline T remainder(T a, T b) {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == (T)-1) return 0;
  return (T)(a % b);
}
template <class T>
inline T shift_left(T a, u32 count) {
  return count >= 8 * sizeof(T) ? 0 : (T)(a << count);
}
template <class T>
inline T shift_right(T a, u32 count) {
  constexpr u32 width = 8 * sizeof(T);
  if (count >= width) return std::is_signed_v<T> && a < 0 ? (T)-1 : (T)0;
  return (T)(a >> count);
}
inline u32 funnel_left(u32 low, u32 high, u32 count) {
  return (u32)((((u64)high << 32 | low) << count) >> 32);
}
inline u32 funnel_right(u32 low, u32 high, u32 count) {
  return (u32)(((u64)high << 32 | low) >> count);
}
inline u32 lop3(u32 a, u32 b, u32 c, u32 table) {
  u32 result = 0;
  for (int i = 0; i < 8; i++)
    if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return result;
}
inline u32 permute_bytes(u32 low, u32 high, u32 selector) {
  u64 bytes = (u64)high << 32 | low;
  u32 result = 0;
  for (int i = 0; i < 4; i++) {
    u32 select = selector >> (4 * i) & 15;
    u32 byte = bytes >> (8 * (select & 7)) & 255;
    if (select & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << (8 * i);
  }
  return result;
}
template <class T>
inline T extract_bits(T value, u32 position, u32 length) {
  typedef std::make_unsigned_t<T> Unsigned;
  constexpr u32 width = 8 * sizeof(T);
  position &= 255;
  length &= 255;
  if (length == 0) return 0;
  Unsigned field = position >= width ? 0 : (Unsigned)value >> position;
  if (length < width) field &= ((Unsigned)1 << length) - 1;
  u32 sign_position = smaller(position + length - 1, width - 1);
  u32 kept = smaller(length, position >= width ? 0 : width - position);
  bool negative = std::is_signed_v<T> && ((Unsigned)value >> sign_position & 1);
  if (negative && kept < width) field |= ~(Unsigned)0 << kept;
  return (T)field;
}
template <class T>
inline T insert_bits(T field, T value, u32 position, u32 length) {
  constexpr u32 width = 8 * sizeof(T);
  position &= 255;
  length &= 255;
  if (position >= width || length == 0) return value;
  T mask = (length >= width ? ~(T)0 : ((T)1 << length) - 1) << position;
  return (T)((value & ~mask) | ((field << position) & mask));
}
inline u32 leading_zeros(u32 value) { return value ? __builtin_clz(value) : 32; }
inline u32 leading_zeros(u64 value) { return value ? __builtin_clzll(value) : 64; }
template <class T>
inline u32 find_leading_bit(T value, bool as_shift) {
  typedef std::make_unsigned_t<T> Unsigned;
  constexpr u32 width = 8 * sizeof(T);
  Unsigned bits = std::is_signed_v<T> && value < 0 ? ~(Unsigned)value : (Unsigned)value;
  if (!bits) return ~0u;
  u32 shift = leading_zeros(bits);
  return as_shift ? shift : width - 1 - shift;
}
template <class T>
inline T reverse_bits(T value) {
  T result = 0;
  for (u32 i = 0; i < 8 * sizeof(T); i++)
    if (value >> i & 1) result |= (T)1 << (8 * sizeof(T) - 1 - i);
  return result;
}

}  // namespace ptx
