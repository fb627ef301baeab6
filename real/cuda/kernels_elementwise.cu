// Kernels bound by memory that treat each number, or each pair, by itself: sums, casts, rounding,
// rotary embedding, MLA's keys, biases, activations. Threads stride over the numbers in vectors of
// 16 bytes where addresses allow. The gradient of a bias adds up columns in two steps, parts of the
// rows first, so that the order is fixed.
#include "real/cuda/columns.h"
#include "real/cuda/device.h"
#include "real/cuda/kernels.h"
#include "real/cuda/launch.h"

namespace reckon::real::cuda {

namespace {

constexpr unsigned kThreads = 256;

__device__ Index first_item() {
  return Index{blockIdx.x} * blockDim.x + threadIdx.x;
}
__device__ Index all_threads() {
  return Index{gridDim.x} * blockDim.x;
}

template <int N>
__global__ void add_kernel(ConstView a, ConstView b, View out, Index n) {
  for (Index i = first_item() * N; i < n; i += all_threads() * N) {
    Pack<N> x = load<N>(a, i);
    const Pack<N> y = load<N>(b, i);
    for (int j = 0; j < N; ++j) x.v[j] += y.v[j];
    store<N>(out, i, x);
  }
}

template <int N>
__global__ void cast_kernel(ConstView x, View out, Index n) {
  for (Index i = first_item() * N; i < n; i += all_threads() * N) store<N>(out, i, load<N>(x, i));
}

template <int N>
__global__ void round_bf16_kernel(float* x, Index n) {
  for (Index i = first_item() * N; i < n; i += all_threads() * N) {
    Pack<N> p = load<N>(ConstView(x), i);
    for (int j = 0; j < N; ++j) p.v[j] = rounded(p.v[j], Element::Bf16);
    store<N>(View(x), i, p);
  }
}

template <int N>
__global__ void add_bias_kernel(View y, ConstView b, Index m, Index n) {
  for (Index i = first_item() * N; i < m * n; i += all_threads() * N) {
    Pack<N> x = load<N>(y, i);
    const Pack<N> bias = load<N>(b, i % n);
    for (int j = 0; j < N; ++j) x.v[j] += bias.v[j];
    store<N>(y, i, x);
  }
}

// Row r of dy is a term of column sums as it is.
struct BiasTerm {
  ConstView dy;
  template <int N>
  __device__ void add(Index row, Index column, Index width, Pack<N> (&sum)[1]) const {
    const Pack<N> d = load<N>(dy, row * width + column);
    for (int j = 0; j < N; ++j) sum[0].v[j] += d.v[j];
  }
};

// Each thread turns one pair.
__global__ void rope_kernel(RopeTable table, RopeView view, const std::int32_t* position,
                            float sign) {
  const Index half = table.dim / 2, pairs = view.rows * view.heads * half;
  for (Index at = first_item(); at < pairs; at += all_threads()) {
    const Index vector = at / half, i = at % half;
    const Index p = Index{position[vector / view.heads]} * half + i;
    const Index first = vector * view.stride + view.offset + i;
    const float a = load(view.x, first), b = load(view.x, first + half);
    const float c = table.cos[p], t = sign * table.sin[p];
    store(view.x, first, a * c - b * t);
    store(view.x, first + half, b * c + a * t);
  }
}

template <int N>
__global__ void assemble_kernel(KeysShape s, ConstView kv, ConstView rotated, View k, View v) {
  const Index per_head = s.nope + s.rope + s.v, n = s.tokens * s.heads * per_head;
  for (Index at = first_item() * N; at < n; at += all_threads() * N) {
    const Index head = at / per_head, i = at % per_head;  // head: of all tokens
    const Index from = head * (s.nope + s.v), to = head * (s.nope + s.rope);
    if (i < s.nope)
      store<N>(k, to + i, load<N>(kv, from + i));
    else if (i < s.nope + s.rope)
      store<N>(k, to + i, load<N>(rotated, head / s.heads * s.rope + i - s.nope));
    else
      store<N>(v, head * s.v + i - s.nope - s.rope, load<N>(kv, from + i - s.rope));
  }
}

// The part of each head, then the sums over heads.
template <int N>
__global__ void assemble_backward_kernel(KeysShape s, ConstView dk, ConstView dv, View d_kv,
                                         View d_rotated) {
  const Index per_head = s.nope + s.v, parts = s.tokens * s.heads * per_head;
  const Index n = parts + s.tokens * s.rope, key = s.nope + s.rope;
  for (Index at = first_item() * N; at < n; at += all_threads() * N) {
    if (at < parts) {
      const Index head = at / per_head, i = at % per_head;
      store<N>(d_kv, at,
               i < s.nope ? load<N>(dk, head * key + i) : load<N>(dv, head * s.v + i - s.nope));
      continue;
    }
    const Index token = (at - parts) / s.rope, i = (at - parts) % s.rope;
    Pack<N> sum{};
    for (Index head = 0; head < s.heads; ++head) {
      const Pack<N> d = load<N>(dk, (token * s.heads + head) * key + s.nope + i);
      for (int j = 0; j < N; ++j) sum.v[j] += d.v[j];
    }
    store<N>(d_rotated, at - parts, sum);
  }
}

// ---- activations, as in real/kernels_norms.cc

struct ValueAndSlope {
  float value, slope;
};

__device__ ValueAndSlope times_sigmoid(float x, float inner, float inner_slope) {
  const float p = 1.0f / (1.0f + expf(-inner));
  return {x * p, p + x * p * (1.0f - p) * inner_slope};
}

__device__ ValueAndSlope activation_at(Activation a, float x) {
  if (a == Activation::SwiGlu) return times_sigmoid(x, x, 1);
  if (a == Activation::SquaredRelu) {
    const float positive = x > 0 ? x : x * 0;  // NaN stays NaN
    return {positive * positive, 2 * positive};
  }
  constexpr float k = 1.5957691216f;  // 2 sqrt(2 / pi)
  return times_sigmoid(x, k * (x + 0.044715f * x * x * x), k * (1.0f + 3 * 0.044715f * x * x));
}

struct ActivationShape {
  Activation kind;
  bool gated;
  Index rows, width;
  const float* weight;  // [rows], or null: 1
};

// The number that act multiplies with, at column j of row i: `up`, or 1.
template <int N>
__device__ Pack<N> load_gate(const ActivationShape& s, ConstView x, Index row, Index j) {
  return load<N>(x, s.gated ? row * 2 * s.width + j : row * s.width + j);
}
template <int N>
__device__ Pack<N> load_up(const ActivationShape& s, ConstView x, Index row, Index j) {
  if (s.gated) return load<N>(x, row * 2 * s.width + s.width + j);
  Pack<N> one;
  for (int i = 0; i < N; ++i) one.v[i] = 1;
  return one;
}

template <int N>
__global__ void activation_kernel(ActivationShape s, ConstView x, View y) {
  for (Index at = first_item() * N; at < s.rows * s.width; at += all_threads() * N) {
    const Index row = at / s.width, j = at % s.width;
    Pack<N> p = load_gate<N>(s, x, row, j);
    const Pack<N> up = load_up<N>(s, x, row, j);
    const float weight = s.weight == nullptr ? 1.0f : s.weight[row];
    for (int i = 0; i < N; ++i) p.v[i] = activation_at(s.kind, p.v[i]).value * up.v[i] * weight;
    store<N>(y, at, p);
  }
}

// One pack of a row. Returns its part of dot(dy, act(x)).
template <int N>
__device__ float activation_backward_at(const ActivationShape& s, ConstView x, ConstView dy,
                                        View dx, View y, Index row, Index j) {
  const float weight = s.weight == nullptr ? 1.0f : s.weight[row];
  Pack<N> gate = load_gate<N>(s, x, row, j), up = load_up<N>(s, x, row, j), again;
  const Pack<N> d = load<N>(dy, row * s.width + j);
  float dot = 0;
  for (int i = 0; i < N; ++i) {
    const ValueAndSlope f = activation_at(s.kind, gate.v[i]);
    const float value = f.value * up.v[i], through = weight * d.v[i];
    dot += d.v[i] * value;
    again.v[i] = weight * value;
    gate.v[i] = through * up.v[i] * f.slope;
    up.v[i] = through * f.value;
  }
  if (s.gated) {
    store<N>(dx, row * 2 * s.width + j, gate);
    store<N>(dx, row * 2 * s.width + s.width + j, up);
  } else {
    store<N>(dx, row * s.width + j, gate);
  }
  if (y.at != nullptr) store<N>(y, row * s.width + j, again);
  return dot;
}

template <int N>
__global__ void activation_backward_kernel(ActivationShape s, ConstView x, ConstView dy, View dx,
                                           View y) {
  for (Index at = first_item() * N; at < s.rows * s.width; at += all_threads() * N)
    activation_backward_at<N>(s, x, dy, dx, y, at / s.width, at % s.width);
}

// A block per row, which has one dot product.
template <int N>
__global__ void weighted_backward_kernel(ActivationShape s, ConstView x, ConstView dy, View dx,
                                         View y, float* dweight) {
  __shared__ float room[kWarp];
  float dot = 0;
  for (Index j = Index{threadIdx.x} * N; j < s.width; j += Index{blockDim.x} * N)
    dot += activation_backward_at<N>(s, x, dy, dx, y, blockIdx.x, j);
  dot = block_sum(dot, room);
  if (threadIdx.x == 0) dweight[blockIdx.x] = dot;
}

ActivationShape activation_shape(Activation a, Index rows, Index width, const float* weight) {
  return {a, a == Activation::SwiGlu || a == Activation::GeGlu, rows, width, weight};
}

// A grid that strides over n numbers, `pack` at a time.

Grid strided(const Context& c, Index n, Index pack) {
  return {blocks_for(ceil_div(n, pack), kThreads, c.sm_count), kThreads};
}

}  // namespace

void add(const Context& c, ConstView a, ConstView b, View out, Index n) {
  with_pack(in_vectors(n, {a.at, b.at, out.at}), [&](auto pack) {
    launch(c.stream, strided(c, n, pack()), add_kernel<pack()>, a, b, out, n);
  });
}

void add_to(const Context& c, View a, ConstView b, Index n) {
  add(c, a, b, a, n);
}

void cast(const Context& c, ConstView x, View out, Index n) {
  with_pack(in_vectors(n, {x.at, out.at}), [&](auto pack) {
    launch(c.stream, strided(c, n, pack()), cast_kernel<pack()>, x, out, n);
  });
}

void zero(const Context& c, View x, Index n) {
  ok(cudaMemsetAsync(x.at, 0, static_cast<std::size_t>(n * bytes_of(x.element)), c.stream),
     "zeros");
}

void round_bf16(const Context& c, View x, Index n) {
  if (x.element == Element::Bf16) return;
  with_pack(in_vectors(n, {x.at}), [&](auto pack) {
    launch(c.stream, strided(c, n, pack()), round_bf16_kernel<pack()>, floats(x), n);
  });
}

void add_bias(const Context& c, View y, ConstView b, Index m, Index n) {
  with_pack(in_vectors(n, {y.at, b.at}), [&](auto pack) {
    launch(c.stream, strided(c, m * n, pack()), add_bias_kernel<pack()>, y, b, m, n);
  });
}

void bias_grad(const Context& c, ConstView dy, View db, Index m, Index n) {
  if (m == 0) return;
  const View sums[] = {db};
  add_columns<1>(c, {m, n}, in_vectors(n, {dy.at}), BiasTerm{dy}, sums);
}

void rope(const Context& c, const RopeTable& table, const RopeView& view,
          const std::int32_t* position, bool inverse) {
  const Index pairs = view.rows * view.heads * (table.dim / 2);
  launch(c.stream, strided(c, pairs, 1), rope_kernel, table, view, position,
         inverse ? -1.0f : 1.0f);
}

void assemble_keys(const Context& c, const KeysShape& s, ConstView kv, ConstView rotated, View k,
                   View v) {
  const bool wide = in_vectors(s.nope, {kv.at, k.at}) && in_vectors(s.rope, {rotated.at}) &&
                    in_vectors(s.v, {v.at});
  with_pack(wide, [&](auto pack) {
    launch(c.stream, strided(c, s.tokens * s.heads * (s.nope + s.rope + s.v), pack()),
           assemble_kernel<pack()>, s, kv, rotated, k, v);
  });
}

void assemble_keys_backward(const Context& c, const KeysShape& s, ConstView dk, ConstView dv,
                            View d_kv, View d_rotated) {
  const bool wide = in_vectors(s.nope, {dk.at, d_kv.at}) && in_vectors(s.rope, {d_rotated.at}) &&
                    in_vectors(s.v, {dv.at});
  with_pack(wide, [&](auto pack) {
    launch(c.stream, strided(c, s.tokens * (s.heads * (s.nope + s.v) + s.rope), pack()),
           assemble_backward_kernel<pack()>, s, dk, dv, d_kv, d_rotated);
  });
}

void weighted_activation_forward(const Context& c, Activation a, ConstView x, const float* weight,
                                 View y, Index rows, Index width) {
  const ActivationShape s = activation_shape(a, rows, width, weight);
  with_pack(in_vectors(width, {x.at, y.at}), [&](auto pack) {
    launch(c.stream, strided(c, rows * width, pack()), activation_kernel<pack()>, s, x, y);
  });
}

void activation_forward(const Context& c, Activation a, ConstView x, View y, Index rows,
                        Index width) {
  weighted_activation_forward(c, a, x, nullptr, y, rows, width);
}

void activation_backward(const Context& c, Activation a, ConstView x, ConstView dy, View dx, View y,
                         Index rows, Index width) {
  const ActivationShape s = activation_shape(a, rows, width, nullptr);
  with_pack(in_vectors(width, {x.at, dy.at, dx.at, y.at}), [&](auto pack) {
    launch(c.stream, strided(c, rows * width, pack()), activation_backward_kernel<pack()>, s, x, dy,
           dx, y);
  });
}

void weighted_activation_backward(const Context& c, Activation a, ConstView x, const float* weight,
                                  ConstView dy, View dx, View y, float* dweight, Index rows,
                                  Index width) {
  const ActivationShape s = activation_shape(a, rows, width, weight);
  with_pack(in_vectors(width, {x.at, dy.at, dx.at, y.at}), [&](auto pack) {
    launch(c.stream, {static_cast<unsigned>(rows), kThreads}, weighted_backward_kernel<pack()>, s,
           x, dy, dx, y, dweight);
  });
}

}  // namespace reckon::real::cuda
