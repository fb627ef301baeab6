// What one op does: shapes and bytes, never durations. The vocabulary that the simulators price and
// the trainer runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <variant>

#include "sim/units.h"

namespace reckon::sim {

enum class DType : std::uint8_t { Fp32, Tf32, Fp16, Bf16, Fp8, Fp8Block, Mxfp8, Nvfp4 };
// Fp8: one scale per tensor (or row). Fp8Block: 1x128 activation and 128x128 weight scales. Mxfp8:
// 1x32 scales.

// Which product of a linear map y[m,n] = x[m,k] w[k,n] this is; m, n, k always name the forward
// shape.
enum class Pass : std::uint8_t {
  Forward,     // y = x w
  InputGrad,   // dx[m,k] = dy w^T
  WeightGrad,  // dw[k,n] += x^T dy
};

// One dense matrix product, 2 m n k flops, `batch` times.
struct MatMul {
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t batch = 1;
  Pass pass = Pass::Forward;
  DType dtype = DType::Bf16;
  bool operator==(const MatMul&) const = default;
};

// `groups` products that share n and k; their rows add up to m.
struct GroupedMatMul {
  std::int64_t groups = 1;
  std::int64_t m = 0, n = 0, k = 0;
  Pass pass = Pass::Forward;
  DType dtype = DType::Bf16;
  bool operator==(const GroupedMatMul&) const = default;
};

// softmax(q k^T) v over `batch` sequences. Causal: query i sees keys up to seq_k - seq_q + i.
struct Attention {
  std::int64_t batch = 1;
  std::int64_t heads = 1, kv_heads = 1;
  std::int64_t seq_q = 0, seq_k = 0;
  std::int64_t qk_dim = 0, v_dim = 0;
  std::int64_t window = 0;  // 0: unlimited; otherwise each query sees at most this many keys
  bool causal = true;
  bool backward = false;  // all of dq, dk, dv
  DType dtype = DType::Bf16;
  bool operator==(const Attention&) const = default;
};

// A kernel limited by memory traffic. The kind picks the measured bandwidth efficiency.
enum class MemoryKind : std::uint8_t {
  Elementwise,  // add, activation, rotary embedding, casts, dropout, softmax of an unfused
                // attention
  Norm,
  Quantise,  // to fp8 with scales, with or without a transpose
  Transpose,
  Permute,    // gather or scatter of token rows
  Router,     // scores, top-k, counts: small launches more than bytes
  Embedding,  // table lookup and its scattered gradient
  CrossEntropy,
  Optimizer,
};

struct MemoryBound {
  MemoryKind kind = MemoryKind::Elementwise;
  Bytes traffic;    // read + written
  int kernels = 1;  // launches that this op stands for
  bool operator==(const MemoryBound&) const = default;
};

// A group of ranks that communicate. Ranks [0, size) laid out on nodes with per_node of them in
// each.
struct Group {
  int size = 1;
  int per_node = 1;  // members that share one NVLink domain
  bool operator==(const Group&) const = default;
};

enum class CollectiveKind : std::uint8_t { AllReduce, AllGather, ReduceScatter, AllToAll };

// `bytes`: the full (gathered, or to be reduced) buffer of one rank; for AllToAll what one rank
// sends, itself included.
struct Collective {
  CollectiveKind kind = CollectiveKind::AllReduce;
  Bytes bytes;
  Group group;
  bool operator==(const Collective&) const = default;
};

// Token exchange of mixture-of-experts layers. With node_forwarding each token travels once over
// the network to every distinct remote node that holds one of its experts, entering it at the rank
// with the sender's own position, and from there (and inside the sender's node) once over NVLink to
// every other distinct rank (a dispatch); or back, added up on the way (a combine). Without it
// every chosen expert gets its own copy of the token, in one message per rank, as in a plain
// all-to-all.
struct TokenExchange {
  double tokens = 0;           // tokens per rank before the dispatch
  double remote_nodes = 0;     // expected distinct nodes per token, own node not counted
  double ranks = 0;            // expected distinct ranks per token, own rank counted if chosen
  double off_node_copies = 0;  // without forwarding: expected copies per token to other nodes
  double local_copies = 0;     // expected copies per token over NVLink
  Bytes bytes_per_token;       // payload with scales
  Group group;
  bool combine = false;
  bool node_forwarding = true;
  bool operator==(const TokenExchange&) const = default;
};

// Point to point to the same position of a neighbouring pipeline stage, or a ring step.
struct Transfer {
  Bytes bytes;
  bool inter_node = true;
  bool operator==(const Transfer&) const = default;
};

// Waits for other ranks of the group without moving payload.
struct Barrier {
  Group group;
  bool operator==(const Barrier&) const = default;
};

using Work = std::variant<MatMul, GroupedMatMul, Attention, MemoryBound, Collective, TokenExchange,
                          Transfer, Barrier>;

// Equal works have equal hashes; nothing but the content enters.
std::size_t hash(const Work& work);

// 2 per multiply-add; attention counts only the (query, key) pairs that the mask lets through; 0
// for the rest.
Flops flops(const Work& work);

// (query, key) pairs that the mask lets through, for one head of one sequence.
double visible_pairs(const Attention& a);

}  // namespace reckon::sim
