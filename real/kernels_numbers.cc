// Rounding of fp32 values to the grids of 16- and 8-bit numbers. Exports round_bf16, round_fp8.
#include <algorithm>
#include <cmath>

#include "real/kernels.h"
#include "real/scratch.h"
#include "real/vectors.h"

namespace reckon::real::cpu {

namespace {

constexpr float kE4m3Largest = 448;

// E4M3 (OCP 8-bit floating point, 2023): 4 bits of exponent with bias 7, 3 of mantissa, no
// infinity, largest 448; below 2^-6 a grid of 2^-9. Beyond the largest it saturates; NaN stays.
RECKON_INLINE float round_e4m3(float x) {
  constexpr float kSmallestNormal = 1.0f / 64;
  constexpr float kRoundTo512th = 12582912.0f / 512;  // 1.5 * 2^23 * 2^-9: adding rounds to 2^-9
  const float size = std::fabs(x);
  const float normal = drop_mantissa<20>(size);
  const float subnormal = (size + kRoundTo512th) - kRoundTo512th;
  const float rounded = size < kSmallestNormal ? subnormal : normal;
  const float bounded = rounded < kE4m3Largest ? rounded : kE4m3Largest;
  return x == x ? std::copysign(bounded, x) : x;
}

RECKON_INLINE float scale_of(float largest) {
  const float s = largest / kE4m3Largest;
  return s > 0 ? s : 1.0f;  // a block of zeros
}

// scale[n] of one band of rows: each block's scale in all of its columns.
RECKON_CLONES void band_scales(const float* x, Index rows, Index n, Index block_cols,
                               float* scale) {
  for (Index j = 0; j < n; ++j) scale[j] = std::fabs(x[j]);
  for (Index i = 1; i < rows; ++i) {
    const float* row = x + i * n;
    for (Index j = 0; j < n; ++j) {
      const float size = std::fabs(row[j]);
      scale[j] = size > scale[j] ? size : scale[j];
    }
  }
  if (block_cols == 1) {
#pragma omp simd
    for (Index j = 0; j < n; ++j) scale[j] = scale_of(scale[j]);
    return;
  }
  for (Index begin = 0; begin < n; begin += block_cols) {
    const Index end = std::min(n, begin + block_cols);
    float largest = 0;
#pragma omp simd reduction(max : largest)
    for (Index j = begin; j < end; ++j) largest = scale[j] > largest ? scale[j] : largest;
    const float s = scale_of(largest);
    for (Index j = begin; j < end; ++j) scale[j] = s;
  }
}

RECKON_CLONES void round_band(const float* x, Index rows, Index n, const float* scale, float* out) {
  for (Index i = 0; i < rows; ++i)
#pragma omp simd
    for (Index j = 0; j < n; ++j) out[i * n + j] = round_e4m3(x[i * n + j] / scale[j]) * scale[j];
}

}  // namespace

RECKON_CLONES void round_bf16(float* x, Index n) {
  for (Index i = 0; i < n; ++i) x[i] = to_bf16(x[i]);
}

void round_fp8(const float* x, float* out, Index m, Index n, Index block_rows, Index block_cols) {
  if (n == 0) return;
  float* scale = scratch(Scratch::ColumnScales, n);
  for (Index row = 0; row < m; row += block_rows) {
    const Index rows = std::min(block_rows, m - row);
    band_scales(x + row * n, rows, n, block_cols, scale);
    round_band(x + row * n, rows, n, scale, out + row * n);
  }
}

}  // namespace reckon::real::cpu
