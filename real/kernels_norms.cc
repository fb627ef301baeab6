// Norms, rotary embedding and activations.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "real/kernels.h"
#include "real/vectors.h"
#include "sim/check.h"

namespace reckon::real::cpu {

// ---- norms. xhat = (x - mean) r with r = 1 / sqrt(variance + eps); without layer_norm mean = 0,
// so that the variance is the mean square. y = xhat w + b.

namespace {

// y = x * r * w; returns r
RECKON_CLONES float rms_row(const NormShape& s, const float* x, const float* w, float* y) {
  const float squares = sum_of(s.width, [=](Index j) { return x[j] * x[j]; });
  const float r = 1.0f / std::sqrt(squares / static_cast<float>(s.width) + s.eps);
#pragma omp simd
  for (Index j = 0; j < s.width; ++j) y[j] = x[j] * r * w[j];
  return r;
}

struct MeanAndInverse {
  float mean, inverse_deviation;
};

RECKON_CLONES MeanAndInverse layer_row(const NormShape& s, const float* x, const float* w,
                                       const float* b, float* y) {
  const float width = static_cast<float>(s.width);
  const float mean = sum_of(s.width, [=](Index j) { return x[j]; }) / width;
  const float squares = sum_of(s.width, [=](Index j) { return (x[j] - mean) * (x[j] - mean); });
  const float r = 1.0f / std::sqrt(squares / width + s.eps);
  if (b != nullptr) {
#pragma omp simd
    for (Index j = 0; j < s.width; ++j) y[j] = (x[j] - mean) * r * w[j] + b[j];
  } else {
#pragma omp simd
    for (Index j = 0; j < s.width; ++j) y[j] = (x[j] - mean) * r * w[j];
  }
  return {mean, r};
}

struct NormGradients {
  float *dx, *dw, *db;  // db may be null
};

// With g = dy w: dx = r (g - mean(g) - xhat mean(g xhat)), mean(g) only in layer norm;
// dw = dy xhat; db = dy.
template <bool layer_norm, bool accumulate>
RECKON_INLINE void backward_row(const NormShape& s, const float* dy, const float* x, const float* w,
                                MeanAndInverse of, const NormGradients& out) {
  const float mean = layer_norm ? of.mean : 0, r = of.inverse_deviation;
  const float width = static_cast<float>(s.width);
  const float mean_g =
      layer_norm ? sum_of(s.width, [=](Index j) { return dy[j] * w[j]; }) / width : 0;
  const float mean_g_xhat =
      sum_of(s.width, [=](Index j) { return dy[j] * w[j] * ((x[j] - mean) * r); }) / width;
#pragma omp simd
  for (Index j = 0; j < s.width; ++j) {
    const float d = dy[j], xhat = (x[j] - mean) * r;
    const float dx = r * (d * w[j] - mean_g - xhat * mean_g_xhat);
    out.dw[j] += d * xhat;
    out.dx[j] = accumulate ? out.dx[j] + dx : dx;
  }
}

RECKON_CLONES void rms_backward_row(const NormShape& s, const float* dy, const float* x,
                                    const float* w, MeanAndInverse of, const NormGradients& out,
                                    bool accumulate) {
  accumulate ? backward_row<false, true>(s, dy, x, w, of, out)
             : backward_row<false, false>(s, dy, x, w, of, out);
}

RECKON_CLONES void layer_backward_row(const NormShape& s, const float* dy, const float* x,
                                      const float* w, MeanAndInverse of, const NormGradients& out,
                                      bool accumulate) {
  accumulate ? backward_row<true, true>(s, dy, x, w, of, out)
             : backward_row<true, false>(s, dy, x, w, of, out);
}

}  // namespace

void norm_forward(const NormShape& s, const float* x, const float* w, const float* b, float* y,
                  float* statistics) {
  for (Index i = 0; i < s.rows; ++i) {
    const Index at = i * s.width;
    if (s.layer_norm) {
      const MeanAndInverse of = layer_row(s, x + at, w, b, y + at);
      statistics[2 * i] = of.mean;
      statistics[2 * i + 1] = of.inverse_deviation;
    } else {
      statistics[i] = rms_row(s, x + at, w, y + at);
    }
  }
}

void norm_backward(const NormShape& s, const float* dy, const float* x, const float* w,
                   const float* statistics, float* dx, float* dw, float* db, bool accumulate) {
  for (Index i = 0; i < s.rows; ++i) {
    const Index at = i * s.width;
    const NormGradients out{dx + at, dw, db};
    if (s.layer_norm) {
      const MeanAndInverse of{statistics[2 * i], statistics[2 * i + 1]};
      layer_backward_row(s, dy + at, x + at, w, of, out, accumulate);
    } else {
      rms_backward_row(s, dy + at, x + at, w, {0, statistics[i]}, out, accumulate);
    }
  }
  if (s.layer_norm && db != nullptr) bias_grad(dy, db, s.rows, s.width);
}

// ---- rotary embedding. Pair i turns by position * theta^(-2i/dim). YaRN (Peng et al. 2023,
// section 3.2) divides the slow pairs' frequency by its factor, leaves that of the fast ones, and
// blends between: fast and slow are counted in turns over the original length.

namespace {

// The pair that makes `turns` turns over the original length: solved from
// turns = length / (2 pi theta^(2i/dim)).
double pair_of_turns(const RopeSettings& s, double turns, Index dim) {
  const double length = static_cast<double>(s.original_positions);
  return static_cast<double>(dim) * std::log(length / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(s.theta));
}

double frequency(const RopeSettings& s, Index pair, Index dim) {
  const double i = static_cast<double>(pair), d = static_cast<double>(dim);
  const double plain = std::pow(s.theta, -2 * i / d);
  if (s.yarn_factor <= 1) return plain;
  const double low = std::max(0.0, std::floor(pair_of_turns(s, s.yarn_beta_fast, dim)));
  double high = std::min(d - 1, std::ceil(pair_of_turns(s, s.yarn_beta_slow, dim)));
  if (high <= low) high = low + 0.001;  // as the reference implementation: a step
  const double slowed = std::clamp((i - low) / (high - low), 0.0, 1.0);
  return slowed * plain / s.yarn_factor + (1 - slowed) * plain;
}

RECKON_CLONES void rotate(float* x, Index half, const float* cosine, const float* sine,
                          float sign) {
#pragma omp simd
  for (Index i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half], c = cosine[i], t = sign * sine[i];
    x[i] = a * c - b * t;
    x[i + half] = b * c + a * t;
  }
}

}  // namespace

RopeTable rope_table(const RopeSettings& s, Index positions, Index dim) {
  check(dim % 2 == 0, "rotated dimensions come in pairs");
  RopeTable table{.dim = dim};
  const Index half = dim / 2;
  table.cos.resize(static_cast<std::size_t>(positions * half));
  table.sin.resize(table.cos.size());
  for (Index i = 0; i < half; ++i) {
    const double f = frequency(s, i, dim);
    for (Index p = 0; p < positions; ++p) {
      const auto at = static_cast<std::size_t>(p * half + i);
      const double angle = static_cast<double>(p) * f;
      table.cos[at] = static_cast<float>(std::cos(angle) * s.yarn_mscale);
      table.sin[at] = static_cast<float>(std::sin(angle) * s.yarn_mscale);
    }
  }
  return table;
}

void rope(const RopeTable& table, const RopeView& view, const std::int32_t* position,
          bool inverse) {
  const Index half = table.dim / 2;
  if (half == 0) return;
  const Index positions = static_cast<Index>(table.cos.size()) / half;
  for (Index r = 0; r < view.rows; ++r) {
    const Index p = position[r];
    check(p >= 0 && p < positions, "the rotary table covers every position");
    const float* cosine = table.cos.data() + p * half;
    const float* sine = table.sin.data() + p * half;
    for (Index h = 0; h < view.heads; ++h)
      rotate(view.x + (r * view.heads + h) * view.stride + view.offset, half, cosine, sine,
             inverse ? -1.0f : 1.0f);
  }
}

// ---- activations. silu(x) = x sigmoid(x). gelu(x) = x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)),
// the tanh form of Hendrycks & Gimpel 2016.

namespace {

struct ValueAndSlope {
  float value, slope;
};

struct Silu {
  RECKON_INLINE static ValueAndSlope at(float x) {
    const float p = fast_sigmoid(x);
    return {x * p, p + x * p * (1.0f - p)};
  }
};

struct Gelu {
  RECKON_INLINE static ValueAndSlope at(float x) {
    constexpr float k = 1.5957691216f;  // 2 sqrt(2 / pi)
    const float p = fast_sigmoid(k * (x + 0.044715f * x * x * x));
    const float inner_slope = k * (1.0f + 3 * 0.044715f * x * x);
    return {x * p, p + x * p * (1.0f - p) * inner_slope};
  }
};

struct SquaredRelu {
  RECKON_INLINE static ValueAndSlope at(float x) {
    const float positive = x > 0 ? x : x * 0;  // NaN stays NaN
    return {positive * positive, 2 * positive};
  }
};

template <class F>
RECKON_INLINE void gated_forward(const float* x, float* y, Index rows, Index width) {
  for (Index i = 0; i < rows; ++i) {
    const float *gate = x + i * 2 * width, *up = gate + width;
#pragma omp simd
    for (Index j = 0; j < width; ++j) y[i * width + j] = F::at(gate[j]).value * up[j];
  }
}

template <class F>
RECKON_INLINE void plain_forward(const float* x, float* y, Index n) {
#pragma omp simd
  for (Index i = 0; i < n; ++i) y[i] = F::at(x[i]).value;
}

struct ActivationGradients {
  float *dx, *y;  // y may be null
};

template <class F, bool again>
RECKON_INLINE void gated_backward(const float* x, const float* dy, const ActivationGradients& out,
                                  Index rows, Index width) {
  for (Index i = 0; i < rows; ++i) {
    const float *gate = x + i * 2 * width, *up = gate + width, *d = dy + i * width;
    float *dgate = out.dx + i * 2 * width, *dup = dgate + width, *y = out.y + i * width;
#pragma omp simd
    for (Index j = 0; j < width; ++j) {
      const auto [value, slope] = F::at(gate[j]);
      const float u = up[j];
      dgate[j] = d[j] * u * slope;
      dup[j] = d[j] * value;
      if (again) y[j] = value * u;
    }
  }
}

template <class F, bool again>
RECKON_INLINE void plain_backward(const float* x, const float* dy, const ActivationGradients& out,
                                  Index n) {
#pragma omp simd
  for (Index i = 0; i < n; ++i) {
    const auto [value, slope] = F::at(x[i]);
    out.dx[i] = dy[i] * slope;
    if (again) out.y[i] = value;
  }
}

}  // namespace

RECKON_CLONES void activation_forward(Activation a, const float* x, float* y, Index rows,
                                      Index width) {
  switch (a) {
    case Activation::SwiGlu: return gated_forward<Silu>(x, y, rows, width);
    case Activation::GeGlu: return gated_forward<Gelu>(x, y, rows, width);
    case Activation::Gelu: return plain_forward<Gelu>(x, y, rows * width);
    case Activation::SquaredRelu: return plain_forward<SquaredRelu>(x, y, rows * width);
  }
}

namespace {

template <bool again>
RECKON_INLINE void backward(Activation a, const float* x, const float* dy,
                            const ActivationGradients& out, Index rows, Index width) {
  switch (a) {
    case Activation::SwiGlu: return gated_backward<Silu, again>(x, dy, out, rows, width);
    case Activation::GeGlu: return gated_backward<Gelu, again>(x, dy, out, rows, width);
    case Activation::Gelu: return plain_backward<Gelu, again>(x, dy, out, rows * width);
    case Activation::SquaredRelu:
      return plain_backward<SquaredRelu, again>(x, dy, out, rows * width);
  }
}

RECKON_CLONES void backward_only(Activation a, const float* x, const float* dy,
                                 const ActivationGradients& out, Index rows, Index width) {
  backward<false>(a, x, dy, out, rows, width);
}

RECKON_CLONES void backward_and_value(Activation a, const float* x, const float* dy,
                                      const ActivationGradients& out, Index rows, Index width) {
  backward<true>(a, x, dy, out, rows, width);
}

}  // namespace

void activation_backward(Activation a, const float* x, const float* dy, float* dx, float* y,
                         Index rows, Index width) {
  (y == nullptr ? backward_only : backward_and_value)(a, x, dy, {dx, y}, rows, width);
}

}  // namespace reckon::real::cpu
