// RMS and layer norm: a block per row, which reads the row from memory once (a second look finds it
// in the cache), and gradients of weights as column sums in a fixed order. Equations as in
// real/kernels_norms.cc. The residual sum is fused in front: sum = x + residual is rounded as it is
// stored, and the norm is of the rounded sum.
#include "real/cuda/columns.h"
#include "real/cuda/device.h"
#include "real/cuda/kernels.h"
#include "real/cuda/launch.h"

namespace reckon::real::cuda {

namespace {

struct Source {
  ConstView x, residual;  // residual may be null
  View sum;               // with residual: where x + residual is kept
};

template <int N>
__global__ void forward_kernel(NormShape s, Source in, ConstView w, ConstView b, View y,
                               float* statistics) {
  __shared__ float room[kWarp];
  const Index at = blockIdx.x * s.width;
  const Index first = Index{threadIdx.x} * N, step = Index{blockDim.x} * N;
  const ConstView x = in.residual.at == nullptr ? in.x : ConstView(in.sum);

  float sum = 0, squares = 0;
  for (Index j = first; j < s.width; j += step) {
    Pack<N> p = load<N>(in.x, at + j);
    if (in.residual.at != nullptr) {
      const Pack<N> r = load<N>(in.residual, at + j);
      for (int i = 0; i < N; ++i) p.v[i] = rounded(p.v[i] + r.v[i], in.sum.element);
      store<N>(in.sum, at + j, p);
    }
    for (int i = 0; i < N; ++i) {
      sum += p.v[i];
      squares += p.v[i] * p.v[i];
    }
  }
  const float width = static_cast<float>(s.width);
  float mean = 0;
  if (s.layer_norm) {
    mean = block_sum(sum, room) / width;
    squares = 0;  // again, around the mean
    for (Index j = first; j < s.width; j += step) {
      const Pack<N> p = load<N>(x, at + j);
      for (int i = 0; i < N; ++i) squares += (p.v[i] - mean) * (p.v[i] - mean);
    }
  }
  const float r = 1.0f / sqrtf(block_sum(squares, room) / width + s.eps);

  for (Index j = first; j < s.width; j += step) {
    Pack<N> p = load<N>(x, at + j);
    const Pack<N> scale = load<N>(w, j);
    for (int i = 0; i < N; ++i) p.v[i] = (p.v[i] - mean) * r * scale.v[i];
    if (b.at != nullptr) {
      const Pack<N> bias = load<N>(b, j);
      for (int i = 0; i < N; ++i) p.v[i] += bias.v[i];
    }
    store<N>(y, at + j, p);
  }
  if (threadIdx.x != 0) return;
  if (s.layer_norm) {
    statistics[2 * Index{blockIdx.x}] = mean;
    statistics[2 * Index{blockIdx.x} + 1] = r;
  } else {
    statistics[blockIdx.x] = r;
  }
}

struct RowStatistics {
  float mean, inverse_deviation;
};

__device__ RowStatistics statistics_of(const NormShape& s, const float* statistics, Index row) {
  if (s.layer_norm) return {statistics[2 * row], statistics[2 * row + 1]};
  return {0, statistics[row]};
}

template <int N>
__global__ void input_grad_kernel(NormShape s, ConstView dy, ConstView x, ConstView w,
                                  const float* statistics, View dx, bool accumulate) {
  __shared__ float room[kWarp];
  const Index at = blockIdx.x * s.width;
  const Index first = Index{threadIdx.x} * N, step = Index{blockDim.x} * N;
  const RowStatistics of = statistics_of(s, statistics, blockIdx.x);
  const float mean = of.mean, r = of.inverse_deviation;

  float sum_g = 0, sum_g_xhat = 0;
  for (Index j = first; j < s.width; j += step) {
    const Pack<N> d = load<N>(dy, at + j), p = load<N>(x, at + j), scale = load<N>(w, j);
    for (int i = 0; i < N; ++i) {
      const float g = d.v[i] * scale.v[i];
      sum_g += g;
      sum_g_xhat += g * ((p.v[i] - mean) * r);
    }
  }
  const float width = static_cast<float>(s.width);
  const float mean_g = s.layer_norm ? block_sum(sum_g, room) / width : 0;
  const float mean_g_xhat = block_sum(sum_g_xhat, room) / width;

  for (Index j = first; j < s.width; j += step) {
    const Pack<N> d = load<N>(dy, at + j), p = load<N>(x, at + j), scale = load<N>(w, j);
    Pack<N> out{};
    if (accumulate) out = load<N>(dx, at + j);
    for (int i = 0; i < N; ++i) {
      const float xhat = (p.v[i] - mean) * r;
      out.v[i] += r * (d.v[i] * scale.v[i] - mean_g - xhat * mean_g_xhat);
    }
    store<N>(dx, at + j, out);
  }
}

// dw: dy xhat; db: dy
struct WeightTerms {
  NormShape shape;
  ConstView dy, x;
  const float* statistics;
  template <int N>
  __device__ void add(Index row, Index column, Index width, Pack<N> (&sum)[2]) const {
    const RowStatistics of = statistics_of(shape, statistics, row);
    const Pack<N> d = load<N>(dy, row * width + column), p = load<N>(x, row * width + column);
    for (int j = 0; j < N; ++j) {
      sum[0].v[j] += d.v[j] * ((p.v[j] - of.mean) * of.inverse_deviation);
      sum[1].v[j] += d.v[j];
    }
  }
};

// A warp for every 256 numbers of a row in vectors, 8 warps at most.
unsigned threads_of(Index width, bool wide) {
  const Index warps = ceil_div(width, wide ? 256 : 32);
  return static_cast<unsigned>(32 * (warps < 8 ? warps : 8));
}

void forward(const Context& c, const NormShape& s, const Source& in, ConstView w, ConstView b,
             View y, float* statistics) {
  const bool wide =
      in_vectors(s.width, {in.x.at, in.residual.at, in.sum.at, w.at, b.at, y.at});  // null too
  with_pack(wide, [&](auto pack) {
    launch(c.stream, {static_cast<unsigned>(s.rows), threads_of(s.width, wide)},
           forward_kernel<pack()>, s, in, w, b, y, statistics);
  });
}

}  // namespace

void norm_forward(const Context& c, const NormShape& s, ConstView x, ConstView w, ConstView b,
                  View y, float* statistics) {
  forward(c, s, {x, {}, {}}, w, b, y, statistics);
}

void norm_residual_forward(const Context& c, const NormShape& s, ConstView x, ConstView residual,
                           View sum, ConstView w, ConstView b, View y, float* statistics) {
  forward(c, s, {x, residual, sum}, w, b, y, statistics);
}

void norm_backward(const Context& c, const NormShape& s, ConstView dy, ConstView x, ConstView w,
                   const float* statistics, View dx, View dw, View db, bool accumulate) {
  if (s.rows == 0) return;
  const bool wide = in_vectors(s.width, {dy.at, x.at, w.at, dx.at});
  // First the weights: dx may be dy.
  if (dw || db) {
    const View sums[] = {dw, s.layer_norm ? db : View()};
    add_columns<2>(c, {s.rows, s.width}, wide, WeightTerms{s, dy, x, statistics}, sums);
  }
  with_pack(wide, [&](auto pack) {
    launch(c.stream, {static_cast<unsigned>(s.rows), threads_of(s.width, wide)},
           input_grad_kernel<pack()>, s, dy, x, w, statistics, dx, accumulate);
  });
}

}  // namespace reckon::real::cuda
