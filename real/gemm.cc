#include "real/gemm.h"

#include <dnnl.h>
#include <omp.h>

#include <algorithm>

#include "real/scratch.h"
#include "sim/check.h"

namespace reckon::real::cpu {

namespace {

// Ranks are threads; each runs its products alone, so the library must not start its own. OpenMP's
// number of threads belongs to the thread that sets it.
void stay_on_this_core() {
  thread_local const bool set = [] {
    omp_set_num_threads(1);
    return true;
  }();
  static_cast<void>(set);
}

// oneDNN's product alone.
void library_product(const Product& p, Matrix a, Matrix b, float* c, std::int64_t c_stride) {
  stay_on_this_core();
  const dnnl_status_t status =
      dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', p.m, p.n, p.k, p.alpha, a.at,
                 a.stride, b.at, b.stride, p.accumulate ? 1.0f : 0.0f, c, c_stride);
  check(status == dnnl_success, "dnnl_sgemm takes these shapes");
}

// A B^T with few rows of A: the library would pack all of B for them, which costs more than the
// product. B A^T needs no packing but leaves C transposed; it is fast in steps of 16 rows. Fewer
// rows than 16 have a path of their own in the library.
constexpr std::int64_t kStep = 16, kManyRows = 64;

bool is_flat(const Product& p, Matrix a, Matrix b) {
  return p.m >= kStep && p.m < kManyRows && b.transposed && !a.transposed && !p.accumulate;
}

void flat_product(const Product& p, Matrix a, Matrix b, float* c, std::int64_t c_stride) {
  const std::int64_t m = p.m / kStep * kStep;
  float* turned = scratch(Scratch::Turned, p.n * m);  // [n, m]
  library_product({.m = p.n, .n = m, .k = p.k, .alpha = p.alpha}, {b.at, b.stride},
                  {a.at, a.stride, true}, turned, m);
  for (std::int64_t i = 0; i < m; i += kStep)
    for (std::int64_t j = 0; j < p.n; ++j)
      for (std::int64_t r = 0; r < kStep; ++r) c[(i + r) * c_stride + j] = turned[j * m + i + r];
  if (m == p.m) return;
  Product rest = p;
  rest.m = p.m - m;
  library_product(rest, {a.at + m * a.stride, a.stride}, b, c + m * c_stride, c_stride);
}

}  // namespace

void multiply(const Product& p, Matrix a, Matrix b, float* c, std::int64_t c_stride) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) {
    if (!p.accumulate)
      for (std::int64_t i = 0; i < p.m; ++i) std::fill_n(c + i * c_stride, p.n, 0.0f);
    return;
  }
  (is_flat(p, a, b) ? flat_product : library_product)(p, a, b, c, c_stride);
}

}  // namespace reckon::real::cpu
