// The one door to the library that multiplies matrices: oneDNN's dnnl_sgemm, on the calling
// thread's core alone. Of Debian 12's libraries it is the fastest here at nearly every shape
// (bench-kernels prints it beside OpenBLAS and Eigen).
//
// A row of the result can differ in its last bits with the number of rows multiplied at once
// (fewer than 16 rows take another path, and the library cuts long sums by size); it never differs
// between runs, threads or addresses.
#pragma once

#include <cstdint>

namespace reckon::real::cpu {

struct Matrix {
  const float* at;
  std::int64_t stride;  // floats from one row to the next
  bool transposed = false;
};

struct Product {
  std::int64_t m, n, k;
  float alpha = 1;
  bool accumulate = false;  // C += instead of C =
};

// C[m,n] (+)= alpha A[m,k] B[k,n], row-major. A transposed matrix is stored as [k,m] or [n,k].
// C's old contents are not read unless it accumulates. Any of m, n, k may be 0.
void multiply(const Product& p, Matrix a, Matrix b, float* c, std::int64_t c_stride);

}  // namespace reckon::real::cpu
