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

// Weight gradients of fewer tokens than this are bound by reading and writing dw, which the library
// does more often than once.
constexpr Index kFewTokens = 12;

// dw[n,k] += dy^T[n,m] x[m,k], in one pass over dw
template <int m>
RECKON_INLINE void add_outer_products(const LinearShape& s, const float* dy, const float* x,
                                      float* dw) {
  for (Index j = 0; j < s.n; ++j) {
    float weight[m];
    for (int i = 0; i < m; ++i) weight[i] = dy[i * s.n + j];
    float* row = dw + j * s.k;
#pragma omp simd
    for (Index l = 0; l < s.k; ++l) {
      float sum = row[l];
#pragma GCC unroll 12
      for (int i = 0; i < m; ++i) sum += weight[i] * x[i * s.k + l];
      row[l] = sum;
    }
  }
}

RECKON_CLONES void weight_grad_of_few(const LinearShape& s, const float* dy, const float* x,
                                      float* dw) {
  switch (s.m) {
    case 1: return add_outer_products<1>(s, dy, x, dw);
    case 2: return add_outer_products<2>(s, dy, x, dw);
    case 3: return add_outer_products<3>(s, dy, x, dw);
    case 4: return add_outer_products<4>(s, dy, x, dw);
    case 5: return add_outer_products<5>(s, dy, x, dw);
    case 6: return add_outer_products<6>(s, dy, x, dw);
    case 7: return add_outer_products<7>(s, dy, x, dw);
    case 8: return add_outer_products<8>(s, dy, x, dw);
    case 9: return add_outer_products<9>(s, dy, x, dw);
    case 10: return add_outer_products<10>(s, dy, x, dw);
    case 11: return add_outer_products<11>(s, dy, x, dw);
    default: return;
  }
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
  if (s.m < kFewTokens) return weight_grad_of_few(s, a, b, dw);
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
