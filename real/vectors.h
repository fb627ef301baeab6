// What the kernels share to be fast on whatever x86 they run on, without intrinsics: plain loops,
// compiled once per instruction set and chosen when the program is loaded.
//
// RECKON_CLONES before a function's definition compiles it for x86-64 (SSE2), x86-64-v3 (AVX2,
// FMA) and x86-64-v4 (AVX-512). What it calls must be inlined into it: RECKON_INLINE. Sums marked
// `#pragma omp simd reduction` are added up in lanes: the order, and so the last bits, depend on
// the instruction set, never on the run. Sanitizers start too late for the choice at load time;
// under them, and where the compiler has no such attribute, there is one version.
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

// exp(x) in a form that vectorises, relative error below 2e-7. x = n ln2 + r with |r| <= ln2 / 2;
// exp(r) by the polynomial of Cephes' expf. Below -87.3 (where exp leaves the normal numbers) 0;
// above 88.37 infinity, a little before the true overflow at 88.72.
RECKON_INLINE float fast_exp(float x) {
  constexpr float kRound = 12582912;  // 1.5 * 2^23: adding it rounds to an integer
  const float bounded = x < 89.0f ? x : 89.0f;
  const float n = (bounded * 1.44269504f + kRound) - kRound;
  float r = bounded - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const std::int32_t exponent = static_cast<std::int32_t>(n > -127.0f ? n : -127.0f);
  const float scale = std::bit_cast<float>((exponent + 127) << 23);
  const float value = x > -87.3f ? p * scale : 0.0f;
  return x == x ? value : x;
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
