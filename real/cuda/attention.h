// What the kernels of attention share: which keys a query sees, and where heads lie. Internal to
// kernels_attention*.cu.
#pragma once

#include "real/cuda/device.h"
#include "real/cuda/kernels.h"
#include "real/cuda/launch.h"

namespace reckon::real::cuda {

constexpr float kLog2E = 1.4426950408889634f;  // exp(x) = 2^(x log2 e): one instruction
constexpr float kLn2 = 0.6931471805599453f;

struct Span {
  int begin, end;
};

// Keys that a query sees, and queries that see a key. 32-bit: a sequence has less than 2^31 tokens.
struct Mask {
  int seq_q, seq_k, window;
  const std::int32_t* positions;

  RECKON_DEVICE int position(int row) const { return positions == nullptr ? row : positions[row]; }
  RECKON_DEVICE Span keys(int position_of_query) const {
    Span s;
    s.end = position_of_query + 1 < seq_k ? position_of_query + 1 : seq_k;
    s.end = s.end > 0 ? s.end : 0;
    s.begin = window > 0 ? position_of_query - window + 1 : 0;
    s.begin = s.begin < 0 ? 0 : s.begin < s.end ? s.begin : s.end;
    return s;
  }
  // The first and the last position of rows [row, row + rows).
  RECKON_DEVICE Span range(int row, int rows) const {
    const int last = row + rows < seq_q ? row + rows : seq_q;
    if (positions == nullptr) return {row, last - 1};
    Span s{positions[row], positions[row]};
    for (int i = row + 1; i < last; ++i) {
      s.begin = positions[i] < s.begin ? positions[i] : s.begin;
      s.end = positions[i] > s.end ? positions[i] : s.end;
    }
    return s;
  }
  // Keys that any query of a range of positions sees, and whether all of them see all of [key,
  // key + keys).
  RECKON_DEVICE Span keys_of_range(Span positions_of) const {
    return {keys(positions_of.begin).begin, keys(positions_of.end).end};
  }
  RECKON_DEVICE bool all_see(Span positions_of, int key, int count) const {
    return key + count <= keys(positions_of.begin).end && key >= keys(positions_of.end).begin;
  }
};

// q, dq: [batch, seq_q, heads, qk_dim]; k, dk: [batch, seq_k, kv_heads, qk_dim]; v, out, dout
// alike.
struct Heads {
  int heads, kv_heads, seq_q, seq_k, qk_dim, v_dim;

  // First element of a head in the first row, and elements from row to row.
  RECKON_DEVICE Index q(int sample, int head) const {
    return (Index{sample} * seq_q * heads + head) * qk_dim;
  }
  RECKON_DEVICE Index k(int sample, int kv_head) const {
    return (Index{sample} * seq_k * kv_heads + kv_head) * qk_dim;
  }
  RECKON_DEVICE Index v(int sample, int kv_head) const {
    return (Index{sample} * seq_k * kv_heads + kv_head) * v_dim;
  }
  RECKON_DEVICE Index out(int sample, int head) const {
    return (Index{sample} * seq_q * heads + head) * v_dim;
  }
  RECKON_DEVICE Index rows(int sample, int head) const {  // of lse
    return (Index{sample} * heads + head) * seq_q;
  }
  RECKON_DEVICE Index q_stride() const { return Index{heads} * qk_dim; }
  RECKON_DEVICE Index k_stride() const { return Index{kv_heads} * qk_dim; }
  RECKON_DEVICE Index v_stride() const { return Index{kv_heads} * v_dim; }
  RECKON_DEVICE Index out_stride() const { return Index{heads} * v_dim; }
};

struct AttentionTask {
  Heads heads;
  Mask mask;
  float scale;
  ConstView q, k, v;
};

struct AttentionGradients {
  ConstView dout;
  const float *lse, *dout_dot_out;  // [batch, heads, seq_q]
  View dq, dk, dv;
};

// Kernels that take any size and kind (kernels_attention_plain.cu).
void plain_attention_forward(const Context& c, const AttentionTask& t, Index batch, View out,
                             float* lse);
void plain_attention_backward(const Context& c, const AttentionTask& t, Index batch,
                              const AttentionGradients& g);

}  // namespace reckon::real::cuda
