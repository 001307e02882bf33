// exp and log without a branch or a call, of a number or of a vector of them.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "isa.h"

SPARSEDIS_BEGIN

template <typename Real>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  using Word = uint32_t;
  static constexpr float round = 12582912.0f;  // 1.5 * 2^23: the sum's last bits are the integer
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float least = -87.0f, most = 88.0f;
  static constexpr Word bias = 127, mantissa = 23;
  static constexpr int degree = 7, log_degree = 5, log1p_degree = 8;
  static constexpr float integer = 8388608.0f;   // 2^23: the last bits are the integer
  static constexpr Word root_half = 0x3f3504f3;  // of sqrt(1/2)
};

template <>
struct ExpConstants<double> {
  using Word = uint64_t;
  static constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 6.93147180369123816490e-01;
  static constexpr double ln2_low = 1.90821492927058770002e-10;
  static constexpr double least = -708.0, most = 709.0;
  static constexpr Word bias = 1023, mantissa = 52;
  static constexpr int degree = 13, log_degree = 11, log1p_degree = 17;
  static constexpr double integer = 4503599627370496.0;  // 2^52
  static constexpr Word root_half = 0x3fe6a09e667f3bcd;
};

// What a value is made of: itself, or the entries of a vector.
template <typename Value, bool scalar = std::is_arithmetic_v<Value>>
struct Entries {
  using Real = Value;
  using Bits = typename ExpConstants<Real>::Word;
};
template <typename Value>
struct Entries<Value, false> {
  using Real = std::decay_t<decltype(std::declval<Value>()[0])>;
  using Word = typename ExpConstants<Real>::Word;
  typedef Word Bits __attribute__((vector_size(sizeof(Value))));
};

// 1 / k!
template <typename Real>
constexpr Real inverse_factorial(int k) {
  double product = 1;
  for (; k > 1; --k) product *= k;
  return static_cast<Real>(1 / product);
}

template <typename To, typename From>
inline To bits_of(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// e^x, so that loops over it vectorise: 2^k e^r, |r| <= ln 2 / 2, by its series. Below `least` the
// result stays e^least.
template <typename Value>
inline Value exp_of(Value x) {
  using Real = typename Entries<Value>::Real;
  using Bits = typename Entries<Value>::Bits;
  using K = ExpConstants<Real>;
  constexpr Real log2e = Real(1.4426950408889634);
  const Value zero{}, least = zero + K::least, most = zero + K::most;
  x = x < least ? least : (x > most ? most : x);
  const Value shifted = x * log2e + K::round, k = shifted - K::round;
  const Value r = (x - k * K::ln2_high) - k * K::ln2_low;
  Value series = zero + inverse_factorial<Real>(K::degree);
#pragma GCC unroll 16
  for (int degree = K::degree - 1; degree >= 0; --degree)
    series = series * r + inverse_factorial<Real>(degree);
  return series * bits_of<Value>((bits_of<Bits>(shifted) + K::bias) << K::mantissa);
}

// log(1 + f) by the series of 2 artanh(f / (2 + f)).
template <int degree, typename Value>
inline Value log_series(Value f) {
  using Real = typename Entries<Value>::Real;
  const Value t = f / (2 + f), square = t * t;
  Value series = Value{} + Real(1) / (2 * degree - 1);
  for (int k = degree - 2; k >= 0; --k) series = Real(1) / (2 * k + 1) + series * square;
  return 2 * t * series;
}

// log(1 + f) for 0 <= f <= 1.
template <typename Value>
inline Value log1p_of(Value f) {
  return log_series<ExpConstants<typename Entries<Value>::Real>::log1p_degree>(f);
}

// log x, as `exp_of`: x = 2^k (1 + f) with sqrt(1/2) <= 1 + f < sqrt(2). Of 0 it is finite, so that
// 0 log 0 = 0.
template <typename Value>
inline Value log_of(Value x) {
  using Real = typename Entries<Value>::Real;
  using Bits = typename Entries<Value>::Bits;
  using K = ExpConstants<Real>;
  constexpr auto one = K::bias << K::mantissa;
  const Bits bits = bits_of<Bits>(x), exponent = (bits - K::root_half + one) >> K::mantissa;
  const Value rest = bits_of<Value>(bits - ((exponent << K::mantissa) - one));
  const Value k = bits_of<Value>(exponent | bits_of<typename K::Word>(K::integer)) -
                  (K::integer + static_cast<Real>(K::bias));
  return k * K::ln2_high + (log_series<K::log_degree>(rest - 1) + k * K::ln2_low);
}

SPARSEDIS_END
