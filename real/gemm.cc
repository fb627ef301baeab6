#include "real/gemm.h"

#include <dnnl.h>
#include <omp.h>

#include <algorithm>

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

}  // namespace

void multiply(const Product& p, Matrix a, Matrix b, float* c, std::int64_t c_stride) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) {
    if (!p.accumulate)
      for (std::int64_t i = 0; i < p.m; ++i) std::fill_n(c + i * c_stride, p.n, 0.0f);
    return;
  }
  stay_on_this_core();
  const dnnl_status_t status =
      dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', p.m, p.n, p.k, p.alpha, a.at,
                 a.stride, b.at, b.stride, p.accumulate ? 1.0f : 0.0f, c, c_stride);
  check(status == dnnl_success, "dnnl_sgemm takes these shapes");
}

}  // namespace reckon::real::cpu
