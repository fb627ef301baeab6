// AdamW, the sum of squares for clipping, and plain sums.
#include <cmath>

#include "real/kernels.h"
#include "real/vectors.h"

namespace reckon::real::cpu {

RECKON_CLONES void add(const float* a, const float* b, float* out, Index n) {
#pragma omp simd
  for (Index i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

RECKON_CLONES void add_to(float* a, const float* b, Index n) {
#pragma omp simd
  for (Index i = 0; i < n; ++i) a[i] += b[i];
}

RECKON_CLONES double square_sum(const float* x, Index n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (Index i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

namespace {

// The constants of one update, in fp32 as the loop uses them.
struct AdamConstants {
  float gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2;
  float step_size;        // lr / (1 - beta1^t)
  float root_correction;  // 1 / sqrt(1 - beta2^t)
  float eps, decay;       // decay: lr * weight_decay
};

template <bool bf16>
RECKON_INLINE void update(const AdamConstants& c, const float* grad, float* w, float* m, float* v,
                          Index n) {
#pragma omp simd
  for (Index i = 0; i < n; ++i) {
    const float g = grad[i] * c.gradient_scale;
    const float mean = c.beta1 * m[i] + c.one_minus_beta1 * g;
    const float square = c.beta2 * v[i] + c.one_minus_beta2 * g * g;
    w[i] -= c.step_size * mean / (std::sqrt(square) * c.root_correction + c.eps) + c.decay * w[i];
    m[i] = bf16 ? to_bf16(mean) : mean;
    v[i] = bf16 ? to_bf16(square) : square;
  }
}

RECKON_CLONES void update_fp32(const AdamConstants& c, const float* grad, float* w, float* m,
                               float* v, Index n) {
  update<false>(c, grad, w, m, v, n);
}

RECKON_CLONES void update_bf16(const AdamConstants& c, const float* grad, float* w, float* m,
                               float* v, Index n) {
  update<true>(c, grad, w, m, v, n);
}

}  // namespace

// m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
// w -= lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay w)
// bf16 moments are rounded when stored; the update itself uses them unrounded.
void adam_update(const Adam& a, const float* grad, float* w, float* m, float* v, Index n) {
  const double t = static_cast<double>(a.step);
  const AdamConstants c{
      .gradient_scale = static_cast<float>(a.gradient_scale),
      .beta1 = static_cast<float>(a.beta1),
      .one_minus_beta1 = static_cast<float>(1 - a.beta1),
      .beta2 = static_cast<float>(a.beta2),
      .one_minus_beta2 = static_cast<float>(1 - a.beta2),
      .step_size = static_cast<float>(a.lr / (1 - std::pow(a.beta1, t))),
      .root_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(a.beta2, t))),
      .eps = static_cast<float>(a.eps),
      .decay = static_cast<float>(a.lr * a.weight_decay),
  };
  (a.bf16_moments ? update_bf16 : update_fp32)(c, grad, w, m, v, n);
}

}  // namespace reckon::real::cpu
