// What the kernels share to be fast on whatever x86 they run on, without intrinsics: plain loops,
// compiled once per instruction set and chosen when the program is loaded.
//
// RECKON_CLONES before a function's definition compiles it for x86-64 (SSE2), x86-64-v3 (AVX2,
// FMA) and x86-64-v4 (AVX-512). What it calls must be inlined into it: RECKON_INLINE. Sums are
// added up in lanes: the order, and so the last bits, can depend on the instruction set, never on
// the run. Sanitizers start too late for the choice at load time; under them, and where the
// compiler has no such attribute, there is one version.
#pragma once

#include <bit>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define RECKON_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define RECKON_CLONES
#endif
#define RECKON_INLINE __attribute__((always_inline)) inline

namespace reckon::real::cpu {

// sum over i < n of term(i), in 64 lanes: as many chains of additions as hide their latency.
template <class Term>
RECKON_INLINE float sum_of(std::int64_t n, Term term) {
  constexpr std::int64_t kLanes = 64;
  float lane[kLanes] = {};
  const std::int64_t whole = n / kLanes * kLanes;
  for (std::int64_t i = 0; i < whole; i += kLanes)
#pragma omp simd
    for (std::int64_t l = 0; l < kLanes; ++l) lane[l] += term(i + l);
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = whole; i < n; ++i) sum += term(i);
#pragma omp simd reduction(+ : sum)
  for (std::int64_t l = 0; l < kLanes; ++l) sum += lane[l];
  return sum;
}

// exp(x) in a form that vectorises, relative error below 2e-7. x = n ln2 + r with |r| <= ln2 / 2;
// exp(r) by the polynomial of Cephes' expf. Below -87.68 0 (exp leaves the normal numbers at
// -87.34); above 88.37 infinity, a little before the true overflow at 88.72. NaN stays.
RECKON_INLINE float fast_exp(float x) {
  constexpr float kRound = 12582912;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  x = x > 89.0f ? 89.0f : x;          // n = 128: scale is infinity
  x = x < -88.0f ? -88.0f : x;        // n = -127: scale is 0
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  float r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  const float scale = std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) + 127) << 23);
  return p * scale;
}

RECKON_INLINE float fast_sigmoid(float x) {
  return 1.0f / (1.0f + fast_exp(-x));
}

// Drops `bits` of the mantissa, to nearest, ties to even: a carry runs into the exponent by itself.
// Not for NaN.
template <int bits>
RECKON_INLINE float drop_mantissa(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t half = (1u << (bits - 1)) - 1 + ((u >> bits) & 1);
  return std::bit_cast<float>((u + half) & ~((1u << bits) - 1));
}

RECKON_INLINE float to_bf16(float x) {
  return x == x ? drop_mantissa<16>(x) : x;
}

}  // namespace reckon::real::cpu
