#include "sim/work.h"

#include <algorithm>
#include <bit>

namespace reckon::sim {

double visible_pairs(const Attention& a) {
  const auto q = static_cast<double>(a.seq_q), k = static_cast<double>(a.seq_k);
  if (!a.causal) return a.window > 0 ? q * std::min(k, static_cast<double>(a.window)) : q * k;
  // Query i (from 1) of the last seq_q positions sees k - q + i keys, at most `window`.
  const double first = k - q + 1, last = k;
  if (a.window <= 0 || last <= static_cast<double>(a.window)) return q * (first + last) / 2;
  const auto w = static_cast<double>(a.window);
  if (first >= w) return q * w;
  const double growing = w - first;  // queries that see fewer than w keys
  return growing * (first + w - 1) / 2 + (q - growing) * w;
}

namespace {

struct FlopCount {
  double operator()(const MatMul& o) const {
    return 2.0 * static_cast<double>(o.batch) * static_cast<double>(o.m) *
           static_cast<double>(o.n) * static_cast<double>(o.k);
  }
  double operator()(const GroupedMatMul& o) const {
    return 2.0 * static_cast<double>(o.m) * static_cast<double>(o.n) * static_cast<double>(o.k);
  }
  // Forward: q k^T and p v. Backward: five products of the same pairs, q k^T again, dv, dp, dq,
  // dk (FlashAttention-2, section 2.3.2).
  double operator()(const Attention& o) const {
    const double per_pair =
        o.backward ? 6.0 * static_cast<double>(o.qk_dim) + 4.0 * static_cast<double>(o.v_dim)
                   : 2.0 * static_cast<double>(o.qk_dim + o.v_dim);
    return static_cast<double>(o.batch * o.heads) * visible_pairs(o) * per_pair;
  }
  template <class Other>
  double operator()(const Other&) const {
    return 0;
  }
};

}  // namespace

namespace {

// Multiply and fold (Knuth's golden-ratio constant), field by field.
struct Hash {
  std::uint64_t state = 0;

  void mix(std::uint64_t x) {
    state = (state ^ x) * 0x9E3779B97F4A7C15u;
    state ^= state >> 32;
  }
  // Adding zero makes -0, which is equal to 0, the same.
  void mix(double x) { mix(std::bit_cast<std::uint64_t>(x + 0.0)); }
  void mix(std::int64_t x) { mix(static_cast<std::uint64_t>(x)); }
  void mix(Bytes b) { mix(b.si); }
  void mix(Group g) {
    mix(static_cast<std::uint64_t>(g.size) << 32 | static_cast<std::uint64_t>(g.per_node));
  }
  // What is left of a work: enumerations and small counts.
  void mix_small(int a, int b = 0, int c = 0) {
    mix(static_cast<std::uint64_t>(a) << 40 ^ static_cast<std::uint64_t>(b) << 20 ^
        static_cast<std::uint64_t>(c));
  }

  void operator()(const MatMul& o) {
    mix(o.m), mix(o.n), mix(o.k), mix(o.batch);
    mix_small(static_cast<int>(o.pass), static_cast<int>(o.dtype));
  }
  void operator()(const GroupedMatMul& o) {
    mix(o.groups), mix(o.m), mix(o.n), mix(o.k);
    mix_small(static_cast<int>(o.pass), static_cast<int>(o.dtype));
  }
  // kv_heads, qk_dim and v_dim belong to the model: they tell no two works of it apart.
  void operator()(const Attention& o) {
    mix(o.batch), mix(o.heads), mix(o.seq_q), mix(o.seq_k), mix(o.window);
    mix_small(static_cast<int>(o.dtype), o.causal, o.backward);
  }
  void operator()(const MemoryBound& o) {
    mix(o.traffic);
    mix_small(static_cast<int>(o.kind), o.kernels);
  }
  void operator()(const Collective& o) {
    mix(o.bytes), mix(o.group);
    mix_small(static_cast<int>(o.kind));
  }
  void operator()(const TokenExchange& o) {
    mix(o.tokens), mix(o.remote_nodes), mix(o.bytes_per_token), mix(o.group);
    mix_small(o.combine, o.node_forwarding);
  }
  void operator()(const Transfer& o) {
    mix(o.bytes);
    mix_small(o.inter_node);
  }
  void operator()(const Barrier& o) { mix(o.group); }
};

}  // namespace

std::size_t hash(const Work& work) {
  Hash h{.state = work.index()};
  std::visit([&](const auto& op) { h(op); }, work);
  return h.state;
}

Flops flops(const Work& work) {
  return Flops(std::visit(FlopCount{}, work));
}

}  // namespace reckon::sim
