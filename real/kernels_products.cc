// Linear layers and their gradients: y = x w^T, through the library of gemm.h. With Fp8Block each
// product first rounds its two operands to E4M3, scaled in blocks along the dimension that it sums
// over, as DeepSeek-V3 does (report, section 3.3): products of E4M3 values, sums in fp32.
#include "real/gemm.h"
#include "real/kernels.h"
#include "real/scratch.h"
#include "real/vectors.h"

namespace reckon::real::cpu {

namespace {

constexpr Index kBlock = 128;  // elements that share a scale, along the sum; weights: both ways

struct Block {
  Index rows, cols;
};
constexpr Block kAlongRow{1, kBlock}, kAlongColumn{kBlock, 1}, kSquare{kBlock, kBlock};

// x[m,n], or its rounded copy in the given buffer.
const float* operand(Numbers numbers, const float* x, Index m, Index n, Block block,
                     Scratch buffer) {
  if (numbers != Numbers::Fp8Block) return x;
  float* rounded = scratch(buffer, m * n);
  round_fp8(x, rounded, m, n, block.rows, block.cols);
  return rounded;
}

}  // namespace

void linear_forward(const LinearShape& s, const float* x, const float* w, float* y) {
  const float* a = operand(s.numbers, x, s.m, s.k, kAlongRow, Scratch::RoundedA);
  const float* b = operand(s.numbers, w, s.n, s.k, kSquare, Scratch::RoundedB);
  multiply({.m = s.m, .n = s.n, .k = s.k}, {a, s.k}, {b, s.k, true}, y, s.n);
}

void linear_input_grad(const LinearShape& s, const float* dy, const float* w, float* dx,
                       bool accumulate) {
  const float* a = operand(s.numbers, dy, s.m, s.n, kAlongRow, Scratch::RoundedA);
  const float* b = operand(s.numbers, w, s.n, s.k, kSquare, Scratch::RoundedB);
  multiply({.m = s.m, .n = s.k, .k = s.n, .accumulate = accumulate}, {a, s.n}, {b, s.k}, dx, s.k);
}

void linear_weight_grad(const LinearShape& s, const float* dy, const float* x, float* dw) {
  const float* a = operand(s.numbers, dy, s.m, s.n, kAlongColumn, Scratch::RoundedA);
  const float* b = operand(s.numbers, x, s.m, s.k, kAlongColumn, Scratch::RoundedB);
  multiply({.m = s.n, .n = s.k, .k = s.m, .accumulate = true}, {a, s.n, true}, {b, s.k}, dw, s.k);
}

RECKON_CLONES void bias_grad(const float* dy, float* db, Index m, Index n) {
  for (Index i = 0; i < m; ++i)
#pragma omp simd
    for (Index j = 0; j < n; ++j) db[j] += dy[i * n + j];
}

RECKON_CLONES void add_bias(float* y, const float* b, Index m, Index n) {
  for (Index i = 0; i < m; ++i)
#pragma omp simd
    for (Index j = 0; j < n; ++j) y[i * n + j] += b[j];
}

}  // namespace reckon::real::cpu
