// Byte counts are per element of bf16 tensors (2 bytes) unless said otherwise; each is the kernel's
// reads plus writes. The op list of the DeepSeek recipe follows DeepSeek's published H800 trace
// (deepseek-ai/profile-data, train); that of other recipes follows Megatron-Core and Transformer
// Engine.
#include "planner/layer_ops.h"

#include <algorithm>
#include <cmath>

#include "hw-models/routing.h"

namespace reckon::plan {

using sim::MemoryKind;
using sim::Pass;
using sim::Stream;

namespace {

std::int64_t rows(double x) {
  return std::max<std::int64_t>(1, std::llround(x));
}

// Bytes of one fp8 element with its share of a 4-byte scale per 128.
constexpr double kBlockFp8 = 1 + 4.0 / 128;

bool gated(Mlp mlp) {
  return mlp == Mlp::SwiGlu || mlp == Mlp::GeGlu;
}

}  // namespace

LayerOps::LayerOps(const ModelShape& model, const Plan& plan, const hw::Stack& stack,
                   const Groups& groups, int seq, BlockWriter& out)
    : model_(model),
      plan_(plan),
      stack_(stack),
      groups_(groups),
      seq_(seq),
      shape_(rank_shape(model, plan, stack, seq)),
      out_(out) {}

bool LayerOps::recomputes(std::uint32_t module) const {
  return plan_.recompute.mode == Recompute::Mode::Selective &&
         (plan_.recompute.modules & module) != 0;
}

void LayerOps::memory(const char* label, MemoryKind kind, double bytes, int kernels) {
  if (bytes > 0 || kernels > 0)
    out_.compute(label,
                 sim::MemoryBound{.kind = kind, .traffic = Bytes(bytes), .kernels = kernels});
}

void LayerOps::linear_forward(const Linear& l) {
  const bool quantised = fp8() && l.quantise;
  if (quantised && l.split_input) {
    // 1x128 scales: bf16 in, fp8 out, and the scales laid out for the GEMM. Per tensor or 1x32: the
    // column-wise copy for the weight gradient is written in the same pass.
    const double elements = l.m * static_cast<double>(l.k);
    memory("quantise", MemoryKind::Quantise, elements * (block_fp8() ? 2 + kBlockFp8 : 4),
           block_fp8() ? 2 : 1);
  }
  out_.compute(l.label, sim::MatMul{.m = rows(l.m),
                                    .n = l.n,
                                    .k = l.k,
                                    .pass = Pass::Forward,
                                    .dtype = quantised ? shape_.linear : unquantised()});
}

void LayerOps::linear_input_grad(const Linear& l) {
  const bool quantised = fp8() && l.quantise;
  if (quantised) {
    const double elements = l.m * static_cast<double>(l.n);
    if (block_fp8()) {
      memory("transpose.weight", MemoryKind::Quantise, 2 * static_cast<double>(l.n * l.k));
      if (l.quantise_grad)
        memory("quantise.grad", MemoryKind::Quantise, (2 + kBlockFp8) * elements, 2);
    } else {
      memory("quantise.grad", MemoryKind::Quantise, 4 * elements);
    }
  }
  out_.compute(l.label, sim::MatMul{.m = rows(l.m),
                                    .n = l.n,
                                    .k = l.k,
                                    .pass = Pass::InputGrad,
                                    .dtype = quantised ? shape_.linear : unquantised()});
  if (quantised && block_fp8()) {
    // Both operands of the weight gradient, quantised along the tokens.
    memory("quantise.columns.grad", MemoryKind::Quantise,
           (l.quantise_grad ? 3 : 2) * l.m * static_cast<double>(l.n));
    if (l.split_input)
      memory("quantise.columns.input", MemoryKind::Quantise, 3 * l.m * static_cast<double>(l.k));
  }
}

void LayerOps::linear_weight_grad(const Linear& l) {
  const bool quantised = fp8() && l.quantise;
  out_.compute(l.label, sim::MatMul{.m = rows(l.m),
                                    .n = l.n,
                                    .k = l.k,
                                    .pass = Pass::WeightGrad,
                                    .dtype = quantised ? shape_.linear : unquantised()});
  if (!stack_.fused_wgrad_accumulation)  // main gradient += weight gradient
    memory("accumulate.grad", MemoryKind::Elementwise,
           static_cast<double>(l.n * l.k) * (2 + 2 * stack_.grad_bytes.si));
}

void LayerOps::grouped(const char* label, std::int64_t n, std::int64_t k, Pass pass) {
  out_.compute(label, sim::GroupedMatMul{.groups = shape_.experts,
                                         .m = rows(shape_.expert_rows),
                                         .n = n,
                                         .k = k,
                                         .pass = pass,
                                         .dtype = shape_.linear});
}

void LayerOps::norm_forward(const char* label, double tokens, std::int64_t width, bool residual) {
  const double e = tokens * static_cast<double>(width);
  // Fused with the residual sum (read x and residual, write both), as DeepSeek's; else a kernel of
  // its own.
  if (residual && block_fp8()) return memory(label, MemoryKind::Norm, 8 * e);
  memory(label, MemoryKind::Norm, (stack_.fused_norm ? 4 : 16) * e, stack_.fused_norm ? 1 : 4);
}

void LayerOps::norm_backward(const char* label, double tokens, std::int64_t width, bool residual) {
  const double e = tokens * static_cast<double>(width);
  if (residual && block_fp8()) return memory(label, MemoryKind::Norm, 8 * e, 3);
  memory(label, MemoryKind::Norm, (stack_.fused_norm ? 6 : 24) * e, stack_.fused_norm ? 2 : 6);
  if (residual)  // gradient of the skip connection added
    memory("residual.grad", MemoryKind::Elementwise, 6 * e);
}

void LayerOps::enter_tensor_parallel(const char* label, bool backward) {
  if (plan_.tp == 1) return;
  const Bytes full(2 * shape_.tokens * model_.hidden);
  if (!plan_.sequence_parallel)
    return;  // the input is whole on every rank; the backward reduces in leave_
  const sim::Collective gather{
      .kind = sim::CollectiveKind::AllGather, .bytes = full, .group = groups_.tp};
  const auto op = out_.communicate(label, gather, Stream::Model);
  if (!plan_.overlap.tp) out_.after(op);
  if (backward && !plan_.overlap.tp) {
    // The sharded forward input is gathered again for the weight gradient, under the input-gradient
    // product.
    out_.communicate("tp.regather", gather, Stream::Model);
  }
}

void LayerOps::leave_tensor_parallel(const char* label, bool backward) {
  if (plan_.tp == 1) return;
  const Bytes full(2 * shape_.tokens * model_.hidden);
  const auto kind =
      plan_.sequence_parallel ? sim::CollectiveKind::ReduceScatter : sim::CollectiveKind::AllReduce;
  const sim::Collective reduce{.kind = kind, .bytes = full, .group = groups_.tp};
  // Overlapped: pieces of the sum travel while the product that makes them runs, so it need not
  // wait for its end.
  if (plan_.overlap.tp && !backward)
    out_.after(out_.communicate_after(out_.before_last_compute(), label, reduce, Stream::Model));
  else
    out_.exchange(label, reduce, Stream::Model);
}

void LayerOps::activation(const char* label, double row_count, std::int64_t width, bool backward,
                          bool routed) {
  const double e = row_count * static_cast<double>(width);
  const bool gate = gated(model_.mlp);
  if (block_fp8() && gate) {
    // Forward: activation, routing weight and quantisation in one kernel (read 2x2, write 1); the
    // input kept in fp8. Backward: the input decompressed, activation again and its gradient (read
    // 2x2 + 2, write 2x2 + 2).
    if (!backward) {
      memory(label, MemoryKind::Elementwise, 5 * e);
      return;
    }
    memory("dequantise.saved", MemoryKind::Quantise, 6 * e);
    memory(label, MemoryKind::Elementwise, 12 * e);
    if (routed) memory("router.weight.grad", MemoryKind::Elementwise, 2 * e, 2);
    return;
  }
  const double fused = backward ? (gate ? 10 : 6) : (gate ? 6 : 4);
  const double factor = stack_.fused_activation ? 1 : (gate ? 2.0 : 1.5);
  memory(label, MemoryKind::Elementwise, fused * factor * e, stack_.fused_activation ? 1 : 3);
  if (routed && !stack_.fused_permute)  // routing weight multiplied in
    memory("router.scale", MemoryKind::Elementwise, (backward ? 10 : 4) * e);
}

// Attention
// ----------------------------------------------------------------------------------------------------------

void LayerOps::context_exchange(bool backward) {
  if (plan_.cp == 1) return;
  const auto kv_width =
      model_.mla ? model_.mla->qk_nope + model_.mla->qk_rope + model_.mla->v : 2 * model_.head_dim;
  const auto kv_heads = model_.mla ? shape_.heads : shape_.kv_heads;
  // Keys and values travel round the ring; backward also their gradients.
  const Bytes all(2.0 * shape_.tokens * plan_.cp * static_cast<double>(kv_heads) * kv_width *
                  (backward ? 2 : 1));
  out_.communicate(
      "attn.ring",
      sim::Collective{.kind = sim::CollectiveKind::AllGather, .bytes = all, .group = groups_.cp},
      Stream::Model);
}

void LayerOps::core_attention(int layer, bool backward) {
  context_exchange(backward);
  const std::uint32_t ring = plan_.cp > 1 ? out_.last() : BlockWriter::kNoOp;
  sim::Attention a{
      .batch = plan_.micro_batch,
      .heads = shape_.heads,
      .kv_heads = model_.mla ? shape_.heads : shape_.kv_heads,
      .seq_q = seq_ / plan_.cp,
      // The zigzag split gives every rank the mean visible length.
      .seq_k = plan_.cp == 1 || !stack_.balanced_context ? seq_ : (seq_ + seq_ / plan_.cp) / 2,
      .qk_dim = model_.mla ? model_.mla->qk_nope + model_.mla->qk_rope : model_.head_dim,
      .v_dim = model_.mla ? model_.mla->v : model_.head_dim,
      .window = model_.windows.empty() ? 0 : model_.windows[static_cast<std::size_t>(layer)],
      .causal = true,
      .backward = backward,
      .dtype = unquantised()};
  out_.compute("attn.core", a);
  out_.after(ring);  // the ring moves under the product
}

void LayerOps::mla_assemble() {
  const Mla& a = *model_.mla;
  const double heads = shape_.tokens * static_cast<double>(shape_.heads);
  memory("attn.rope", MemoryKind::Elementwise, 4 * heads * a.qk_rope);
  memory("attn.assemble", MemoryKind::Elementwise, heads * (4 * a.qk_nope + 2 * a.qk_rope), 2);
  memory("attn.latent_copies", MemoryKind::Elementwise,
         shape_.tokens * (4 * a.kv_lora + 8 * a.qk_rope), 5);
}

void LayerOps::attention_forward(int layer) {
  const double t = shape_.tokens, ts = shape_.split_tokens;
  const std::int64_t h = model_.hidden;
  norm_forward("attn.norm", ts, h, true);
  if (model_.mla) {
    const Mla& a = *model_.mla;
    const std::int64_t qk = a.qk_nope + a.qk_rope;
    if (a.q_lora > 0) {
      linear_forward({"attn.q_down", ts, a.q_lora, h});
      linear_forward({"attn.kv_down", ts, a.kv_lora + a.qk_rope, h});
      memory("attn.q_norm", MemoryKind::Norm, 4 * ts * a.q_lora);
    } else {
      linear_forward({"attn.kv_down", ts, a.kv_lora + a.qk_rope, h});
    }
    memory("attn.kv_norm", MemoryKind::Norm, 4 * ts * a.kv_lora);
    if (plan_.tp > 1 && plan_.sequence_parallel)
      out_.exchange("attn.gather",
                    sim::Collective{.kind = sim::CollectiveKind::AllGather,
                                    .bytes = Bytes(2 * t * (a.q_lora + a.kv_lora + a.qk_rope)),
                                    .group = groups_.tp},
                    Stream::Model);
    linear_forward({"attn.q_up", t, shape_.heads * qk, a.q_lora > 0 ? a.q_lora : h});
    linear_forward({"attn.kv_up", t, shape_.heads * (a.qk_nope + a.v), a.kv_lora});
    mla_assemble();
  } else {
    const std::int64_t q = shape_.heads * model_.head_dim, kv = shape_.kv_heads * model_.head_dim;
    enter_tensor_parallel("attn.gather", false);
    linear_forward({"attn.qkv", t, q + 2 * kv, h});
    if (model_.qk_norm)
      memory("attn.qk_norm", MemoryKind::Norm, 4 * t * static_cast<double>(q + kv), 2);
    if (model_.positions == Positions::Rope)
      memory("attn.rope", MemoryKind::Elementwise,
             (stack_.fused_rope ? 4 : 12) * t * static_cast<double>(q + kv),
             stack_.fused_rope ? 2 : 8);
  }
  core_attention(layer, false);
  const std::int64_t v = shape_.heads * (model_.mla ? model_.mla->v : model_.head_dim);
  // DeepSeek's recipe keeps the attention output in 12 bits for the backward pass.
  if (block_fp8()) memory("attn.pack", MemoryKind::Quantise, 3.5 * t * static_cast<double>(v));
  linear_forward({"attn.out", t, h, v});
  leave_tensor_parallel("attn.reduce", false);
  const double e = ts * static_cast<double>(h);
  if (block_fp8())
    memory("attn.scale", MemoryKind::Elementwise, 4 * e);
  else
    memory("attn.residual", MemoryKind::Elementwise,
           (stack_.fused_residual ? 6 : 12) * e + (stack_.dropout ? e : 0),
           stack_.fused_residual ? 1 : 3);
  norm_forward("mlp.norm", ts, h, true);
  if (!is_moe(layer)) return;
  const Moe& moe = *model_.moe;
  linear_forward({"router.gemm", shape_.tokens / plan_.tp, moe.experts, h, false});
  memory("router", MemoryKind::Router, router_bytes(60), stack_.fused_router ? 4 : 38);
  if (block_fp8()) memory("quantise.dispatch", MemoryKind::Quantise, (2 + kBlockFp8) * e);
  if (stack_.dispatcher == hw::Dispatcher::AllToAll && plan_.ep * plan_.etp > 0) {
    // Token copies sorted by destination before they leave.
    const double copies = shape_.tokens / plan_.tp * moe.top_k * static_cast<double>(h);
    memory("permute", MemoryKind::Permute, (stack_.fused_permute ? 4 : 6) * copies,
           stack_.fused_permute ? 2 : 6);
  }
}

void LayerOps::attention_backward(int layer) {
  const double t = shape_.tokens, ts = shape_.split_tokens;
  const std::int64_t h = model_.hidden;
  const double e = ts * static_cast<double>(h);
  if (is_moe(layer)) {
    const Moe& moe = *model_.moe;
    if (stack_.dispatcher == hw::Dispatcher::AllToAll) {
      const double copies = shape_.tokens / plan_.tp * moe.top_k * static_cast<double>(h);
      memory("permute", MemoryKind::Permute, (stack_.fused_permute ? 4 : 6) * copies,
             stack_.fused_permute ? 1 : 4);
    }
    memory("router", MemoryKind::Router, router_bytes(22), stack_.fused_router ? 3 : 25);
    const Linear router{"router.gemm", shape_.tokens / plan_.tp, moe.experts, h, false};
    linear_input_grad(router);
    linear_weight_grad(router);
    memory("router.add", MemoryKind::Elementwise, 6 * e);
  }
  norm_backward("mlp.norm", ts, h, true);
  if (block_fp8())
    memory("attn.scale", MemoryKind::Elementwise, 4 * e);
  else if (stack_.dropout)
    memory("attn.residual", MemoryKind::Elementwise, 5 * e);
  const std::int64_t v = shape_.heads * (model_.mla ? model_.mla->v : model_.head_dim);
  if (block_fp8()) memory("attn.unpack", MemoryKind::Quantise, 3.5 * t * static_cast<double>(v));
  enter_tensor_parallel("attn.gather", true);
  linear_input_grad({"attn.out", t, h, v});
  if (model_.mla) {
    const Mla& a = *model_.mla;
    const std::int64_t qk = a.qk_nope + a.qk_rope;
    const double heads = t * static_cast<double>(shape_.heads);
    const Linear q_up{"attn.q_up", t, shape_.heads * qk, a.q_lora > 0 ? a.q_lora : h};
    const Linear kv_up{"attn.kv_up", t, shape_.heads * (a.qk_nope + a.v), a.kv_lora};
    if (recomputes(kMlaUp)) {
      out_.enter(sim::Phase::B, true);
      memory("attn.q_norm", MemoryKind::Norm, 4 * ts * a.q_lora);
      memory("attn.kv_norm", MemoryKind::Norm, 4 * ts * a.kv_lora);
      linear_forward(q_up);
      linear_forward(kv_up);
      mla_assemble();
      out_.enter(sim::Phase::B);
    }
    core_attention(layer, true);
    memory("attn.rope", MemoryKind::Elementwise, 4 * heads * a.qk_rope);
    linear_input_grad(q_up);
    memory("attn.assemble", MemoryKind::Elementwise,
           heads * (4 * a.qk_nope + 4 * a.v + 2 * a.qk_rope), 4);
    linear_input_grad(kv_up);
    if (plan_.tp > 1 && plan_.sequence_parallel)
      out_.exchange("attn.reduce",
                    sim::Collective{.kind = sim::CollectiveKind::ReduceScatter,
                                    .bytes = Bytes(2 * t * (a.q_lora + a.kv_lora + a.qk_rope)),
                                    .group = groups_.tp},
                    Stream::Model);
    memory("attn.kv_norm", MemoryKind::Norm, 8 * ts * a.kv_lora, 2);
    memory("attn.latent_copies", MemoryKind::Elementwise, 20 * ts * (a.kv_lora + a.qk_rope), 7);
    if (a.q_lora > 0) memory("attn.q_norm", MemoryKind::Norm, 8 * ts * a.q_lora, 2);
    if (recomputes(kNorm)) {
      out_.enter(sim::Phase::B, true);
      memory("attn.norm", MemoryKind::Norm, 4 * e);
      out_.enter(sim::Phase::B);
    }
    linear_input_grad({"attn.kv_down", ts, a.kv_lora + a.qk_rope, h});
    if (a.q_lora > 0) {
      linear_input_grad({"attn.q_down", ts, a.q_lora, h});
      memory("attn.add", MemoryKind::Elementwise, 6 * e);
    }
  } else {
    const std::int64_t q = shape_.heads * model_.head_dim, kv = shape_.kv_heads * model_.head_dim;
    if (recomputes(kCoreAttention)) {
      out_.enter(sim::Phase::B, true);
      core_attention(layer, false);
      out_.enter(sim::Phase::B);
    }
    core_attention(layer, true);
    if (model_.positions == Positions::Rope)
      memory("attn.rope", MemoryKind::Elementwise,
             (stack_.fused_rope ? 4 : 12) * t * static_cast<double>(q + kv),
             stack_.fused_rope ? 2 : 8);
    if (model_.qk_norm)
      memory("attn.qk_norm", MemoryKind::Norm, 6 * t * static_cast<double>(q + kv), 4);
    linear_input_grad({"attn.qkv", t, q + 2 * kv, h});
    leave_tensor_parallel("attn.reduce", true);
    if (recomputes(kNorm)) {
      out_.enter(sim::Phase::B, true);
      memory("attn.norm", MemoryKind::Norm, 4 * e);
      out_.enter(sim::Phase::B);
    }
  }
  norm_backward("attn.norm", ts, h, true);
}

void LayerOps::attention_weight_grad(int layer) {
  (void)layer;
  const double t = shape_.tokens, ts = shape_.split_tokens;
  const std::int64_t h = model_.hidden;
  const std::int64_t v = shape_.heads * (model_.mla ? model_.mla->v : model_.head_dim);
  linear_weight_grad({"attn.out", t, h, v});
  if (model_.mla) {
    const Mla& a = *model_.mla;
    linear_weight_grad({"attn.kv_up", t, shape_.heads * (a.qk_nope + a.v), a.kv_lora});
    linear_weight_grad(
        {"attn.q_up", t, shape_.heads * (a.qk_nope + a.qk_rope), a.q_lora > 0 ? a.q_lora : h});
    linear_weight_grad({"attn.kv_down", ts, a.kv_lora + a.qk_rope, h});
    if (a.q_lora > 0) linear_weight_grad({"attn.q_down", ts, a.q_lora, h});
  } else {
    const std::int64_t q = shape_.heads * model_.head_dim, kv = shape_.kv_heads * model_.head_dim;
    linear_weight_grad({"attn.qkv", t, q + 2 * kv, h});
  }
}

// MLP and experts
// ----------------------------------------------------------------------------------------------------

std::uint32_t LayerOps::token_exchange(const char* label, bool combine, double element_bytes) {
  const Moe& moe = *model_.moe;
  if (plan_.ep == 1) return BlockWriter::kNoOp;
  const hw::Routing routing{.experts = moe.experts,
                            .top_k = moe.top_k,
                            .ranks = plan_.ep,
                            .ranks_per_node = groups_.ep.per_node,
                            .groups = moe.groups,
                            .limited_groups = moe.limited_groups};
  const double tokens = shape_.tokens / plan_.tp * stack_.expert_imbalance;
  // Scales of 1x128 blocks travel with fp8 tokens; routing indices and weights with every dispatch.
  const double scales = element_bytes < 2 ? 4.0 / 128 : 0;
  const Bytes per_token(model_.hidden * (element_bytes + scales) +
                        (combine ? 0 : 12.0 * moe.top_k));
  return out_.communicate(label,
                          hw::token_exchange(routing, tokens, per_token, groups_.ep, combine,
                                             stack_.dispatcher != hw::Dispatcher::AllToAll),
                          Stream::Expert);
}

std::uint32_t LayerOps::dispatch_forward() {
  return token_exchange("dispatch", false, block_fp8() ? 1 : 2);
}
std::uint32_t LayerOps::combine_forward() {
  return token_exchange("combine", true, 2);
}
std::uint32_t LayerOps::dispatch_backward() {
  return token_exchange("combine.grad", false, block_fp8() ? 1 : 2);
}
std::uint32_t LayerOps::combine_backward() {
  return token_exchange("dispatch.grad", true, 2);
}

void LayerOps::mlp_forward(int layer) {
  const std::int64_t h = model_.hidden, gates = gated(model_.mlp) ? 2 : 1;
  if (!is_moe(layer)) {
    const std::int64_t f = model_.ffn / plan_.tp;
    enter_tensor_parallel("mlp.gather", false);
    linear_forward({"mlp.up", shape_.tokens, gates * f, h});
    activation("mlp.activation", shape_.tokens, f, false, false);
    linear_forward({"mlp.down", shape_.tokens, h, f, true, !block_fp8()});
    leave_tensor_parallel("mlp.reduce", false);
    return;
  }
  const Moe& moe = *model_.moe;
  const double r = shape_.expert_rows, he = static_cast<double>(h);
  const std::int64_t f = moe.ffn / plan_.etp;
  const double weights = static_cast<double>(shape_.experts * h * f);
  if (plan_.etp > 1)
    out_.exchange("etp.gather",
                  sim::Collective{.kind = sim::CollectiveKind::AllGather,
                                  .bytes = Bytes(2 * r * he),
                                  .group = groups_.etp},
                  Stream::Model);
  if (stack_.dispatcher == hw::Dispatcher::AllToAll) {
    if (shape_.experts > 1)
      memory("permute.local", MemoryKind::Permute, 4 * r * he, stack_.fused_permute ? 2 : 4);
  } else {
    // Row of every token copy: a latency-bound kernel on few blocks, as the traffic that takes as
    // long.
    memory("permute.map", MemoryKind::Permute, 17e3 * received_tokens(), 2);
    memory("permute.local", MemoryKind::Permute, (block_fp8() ? 2 * kBlockFp8 : 4) * r * he);
    if (block_fp8())
      memory("quantise.scales", MemoryKind::Quantise, 8.0 / 128 * r * (he + static_cast<double>(f)),
             4);
  }
  if (block_fp8()) {
    memory("transpose.weight", MemoryKind::Quantise, 2 * static_cast<double>(gates) * weights, 2);
  } else if (fp8()) {
    memory("quantise", MemoryKind::Quantise, 4 * r * he);
  }
  grouped("experts.up", gates * f, h, Pass::Forward);
  activation("experts.activation", r, f, false, true);
  if (block_fp8())
    memory("transpose.weight", MemoryKind::Quantise, 2 * weights, 2);
  else if (fp8())
    memory("quantise", MemoryKind::Quantise, 4 * r * static_cast<double>(f));
  grouped("experts.down", h, f, Pass::Forward);
  if (stack_.dispatcher == hw::Dispatcher::AllToAll) {
    if (shape_.experts > 1)
      memory("unpermute.local", MemoryKind::Permute, 4 * r * he, stack_.fused_permute ? 1 : 3);
  } else {
    memory("unpermute.local", MemoryKind::Permute, 2 * r * he + 2 * received_tokens() * he);
  }
  if (plan_.etp > 1)
    out_.exchange("etp.reduce",
                  sim::Collective{.kind = sim::CollectiveKind::ReduceScatter,
                                  .bytes = Bytes(2 * r * he),
                                  .group = groups_.etp},
                  Stream::Model);
  if (moe.shared_ffn > 0) {
    const std::int64_t fs = moe.shared_ffn / plan_.tp;
    enter_tensor_parallel("shared.gather", false);
    linear_forward({"shared.up", shape_.tokens, gates * fs, h, true, !block_fp8()});
    activation("shared.activation", shape_.tokens, fs, false, false);
    linear_forward({"shared.down", shape_.tokens, h, fs, true, !block_fp8()});
    leave_tensor_parallel("shared.reduce", false);
  }
  if (block_fp8()) {  // the activation's inputs kept in fp8
    memory("quantise.saved", MemoryKind::Quantise, 6 * r * static_cast<double>(f));
    if (moe.shared_ffn > 0)
      memory("quantise.saved", MemoryKind::Quantise, 6 * shape_.tokens * moe.shared_ffn / plan_.tp);
  }
}

// Passes over the fp32 scores of all experts; a fused router makes a tenth of them.
double LayerOps::router_bytes(double passes) const {
  return passes * (stack_.fused_router ? 0.1 : 1) * 4 * shape_.tokens / plan_.tp *
         model_.moe->experts;
}

double LayerOps::received_tokens() const {
  const Moe& moe = *model_.moe;
  const hw::Routing routing{.experts = moe.experts,
                            .top_k = moe.top_k,
                            .ranks = plan_.ep,
                            .ranks_per_node = groups_.ep.per_node,
                            .groups = moe.groups,
                            .limited_groups = moe.limited_groups};
  return shape_.expert_rows * hw::expected_footprint(routing).ranks / moe.top_k;
}

void LayerOps::mlp_backward(int layer) {
  const std::int64_t h = model_.hidden, gates = gated(model_.mlp) ? 2 : 1;
  if (!is_moe(layer)) {
    const std::int64_t f = model_.ffn / plan_.tp;
    if (recomputes(kMlp)) {
      out_.enter(sim::Phase::B, true);
      enter_tensor_parallel("mlp.gather", false);
      linear_forward({"mlp.up", shape_.tokens, gates * f, h});
      out_.enter(sim::Phase::B);
    }
    enter_tensor_parallel("mlp.gather", true);
    linear_input_grad({"mlp.down", shape_.tokens, h, f});
    if (recomputes(kActivation) && !block_fp8()) {
      out_.enter(sim::Phase::B, true);
      activation("mlp.activation", shape_.tokens, f, false, false);
      out_.enter(sim::Phase::B);
    }
    activation("mlp.activation", shape_.tokens, f, true, false);
    linear_input_grad({"mlp.up", shape_.tokens, gates * f, h});
    leave_tensor_parallel("mlp.reduce", true);
    return;
  }
  const Moe& moe = *model_.moe;
  const double r = shape_.expert_rows, he = static_cast<double>(h);
  const std::int64_t f = moe.ffn / plan_.etp;
  const auto fd = static_cast<double>(f), gd = static_cast<double>(gates);
  if (recomputes(kMoe)) {
    out_.enter(sim::Phase::B, true);
    out_.after(dispatch_forward());
    mlp_forward(layer);
    out_.after(combine_forward());
    out_.enter(sim::Phase::B);
  }
  if (moe.shared_ffn > 0) {
    const std::int64_t fs = moe.shared_ffn / plan_.tp;
    enter_tensor_parallel("shared.gather", true);
    linear_input_grad({"shared.down", shape_.tokens, h, fs, true, !block_fp8(), !block_fp8()});
    activation("shared.activation", shape_.tokens, fs, true, false);
  }
  if (plan_.etp > 1)
    out_.exchange("etp.gather",
                  sim::Collective{.kind = sim::CollectiveKind::AllGather,
                                  .bytes = Bytes(2 * r * he),
                                  .group = groups_.etp},
                  Stream::Model);
  if (stack_.dispatcher == hw::Dispatcher::AllToAll) {
    if (shape_.experts > 1)
      memory("permute.local", MemoryKind::Permute, 4 * r * he, stack_.fused_permute ? 1 : 3);
  } else {
    memory("permute.local", MemoryKind::Permute, (block_fp8() ? 2 * kBlockFp8 : 4) * r * he);
  }
  if (fp8() && !block_fp8()) memory("quantise.grad", MemoryKind::Quantise, 4 * r * he);
  grouped("experts.down", h, f, Pass::InputGrad);
  if (recomputes(kActivation) && !block_fp8()) {
    out_.enter(sim::Phase::B, true);
    activation("experts.activation", r, f, false, true);
    out_.enter(sim::Phase::B);
  }
  activation("experts.activation", r, f, true, true);
  if (block_fp8()) {
    memory("quantise.columns.input", MemoryKind::Quantise, 3 * r * fd);
    if (recomputes(kNorm)) {
      out_.enter(sim::Phase::B, true);
      memory("mlp.norm", MemoryKind::Norm, 4 * shape_.split_tokens * he);
      memory("quantise", MemoryKind::Quantise, 3 * shape_.split_tokens * he);
      out_.enter(sim::Phase::B);
    }
    memory("quantise.grad", MemoryKind::Quantise, 3 * r * gd * fd, 2);
  } else if (fp8()) {
    memory("quantise.grad", MemoryKind::Quantise, 4 * r * gd * fd);
  }
  grouped("experts.up", gates * f, h, Pass::InputGrad);
  if (stack_.dispatcher == hw::Dispatcher::AllToAll) {
    if (shape_.experts > 1)
      memory("unpermute.local", MemoryKind::Permute, 4 * r * he, stack_.fused_permute ? 1 : 3);
  } else {
    memory("unpermute.local", MemoryKind::Permute, 2 * r * he + 2 * received_tokens() * he);
  }
  if (plan_.etp > 1)
    out_.exchange("etp.reduce",
                  sim::Collective{.kind = sim::CollectiveKind::ReduceScatter,
                                  .bytes = Bytes(2 * r * he),
                                  .group = groups_.etp},
                  Stream::Model);
  if (block_fp8()) memory("quantise.columns.grad", MemoryKind::Quantise, 3 * r * gd * fd);
  if (moe.shared_ffn > 0) {
    if (block_fp8())
      memory("dequantise.input", MemoryKind::Quantise, (2 + kBlockFp8) * shape_.tokens * he);
    linear_input_grad({"shared.up", shape_.tokens, gates * (moe.shared_ffn / plan_.tp), h});
    leave_tensor_parallel("shared.reduce", true);
  }
}

void LayerOps::mlp_weight_grad(int layer) {
  const std::int64_t h = model_.hidden, gates = gated(model_.mlp) ? 2 : 1;
  if (!is_moe(layer)) {
    const std::int64_t f = model_.ffn / plan_.tp;
    linear_weight_grad({"mlp.down", shape_.tokens, h, f});
    linear_weight_grad({"mlp.up", shape_.tokens, gates * f, h});
    return;
  }
  const Moe& moe = *model_.moe;
  const std::int64_t f = moe.ffn / plan_.etp;
  const double r = shape_.expert_rows, he = static_cast<double>(h);
  if (moe.shared_ffn > 0)
    linear_weight_grad({"shared.down", shape_.tokens, h, moe.shared_ffn / plan_.tp});
  // fp8 rows received from other ranks are gathered and quantised again along the tokens.
  if (block_fp8()) memory("quantise.columns.grad", MemoryKind::Quantise, 2 * r * he);
  grouped("experts.down", h, f, Pass::WeightGrad);
  if (block_fp8()) memory("quantise.columns.input", MemoryKind::Quantise, 2 * r * he);
  grouped("experts.up", gates * f, h, Pass::WeightGrad);
  if (!stack_.fused_wgrad_accumulation)
    memory(
        "accumulate.grad", MemoryKind::Elementwise,
        static_cast<double>(shape_.experts * (gates + 1) * f * h) * (2 + 2 * stack_.grad_bytes.si));
  if (moe.shared_ffn > 0)
    linear_weight_grad({"shared.up", shape_.tokens, gates * (moe.shared_ffn / plan_.tp), h});
}

void LayerOps::rest_forward(int layer) {
  const double e = shape_.split_tokens * model_.hidden;
  if (is_moe(layer) && stack_.dispatcher == hw::Dispatcher::AllToAll) {
    const double copies = shape_.tokens / plan_.tp * model_.moe->top_k * model_.hidden;
    memory("unpermute", MemoryKind::Permute, (stack_.fused_permute ? 2 : 6) * copies + 2 * e,
           stack_.fused_permute ? 1 : 4);
  }
  if (block_fp8()) return;  // fused with the next norm
  memory("mlp.residual", MemoryKind::Elementwise,
         (stack_.fused_residual ? 6 : 12) * e + (stack_.dropout ? e : 0),
         stack_.fused_residual ? 1 : 3);
}

void LayerOps::rest_backward(int layer) {
  const double e = shape_.split_tokens * model_.hidden;
  if (stack_.dropout && !block_fp8()) memory("mlp.residual", MemoryKind::Elementwise, 5 * e);
  if (!is_moe(layer)) return;
  if (block_fp8()) {
    memory("quantise.dispatch", MemoryKind::Quantise, (2 + kBlockFp8) * e);
  } else if (stack_.dispatcher == hw::Dispatcher::AllToAll) {
    const double copies = shape_.tokens / plan_.tp * model_.moe->top_k * model_.hidden;
    memory("unpermute", MemoryKind::Permute, (stack_.fused_permute ? 4 : 8) * copies,
           stack_.fused_permute ? 1 : 4);
  }
}

void LayerOps::forward(int layer) {
  attention_forward(layer);
  if (is_moe(layer)) out_.after(dispatch_forward());
  mlp_forward(layer);
  if (is_moe(layer)) out_.after(combine_forward());
  rest_forward(layer);
}

// Selective checkpointing per op: outputs of attention and of every second matrix product are kept
// (of q, k, v, out, gate, up, down those with odd numbers), everything else is repeated.
// torchtitan, "selective" with option "op".
void LayerOps::recompute_per_op(int layer) {
  if (!recomputes(kPerOp) || model_.mla || is_moe(layer)) return;
  out_.enter(sim::Phase::B, true);
  const double t = shape_.tokens, ts = shape_.split_tokens;
  const std::int64_t h = model_.hidden, kv = shape_.kv_heads * model_.head_dim,
                     q = shape_.heads * model_.head_dim;
  const std::int64_t f = model_.ffn / plan_.tp;
  norm_forward("attn.norm", ts, h, true);
  linear_forward({"attn.qkv", t, kv, h});
  if (model_.positions == Positions::Rope)
    memory("attn.rope", MemoryKind::Elementwise, 4 * t * static_cast<double>(q + kv), 2);
  linear_forward({"attn.out", t, h, q});
  memory("attn.residual", MemoryKind::Elementwise, 6 * ts * static_cast<double>(h));
  norm_forward("mlp.norm", ts, h, true);
  linear_forward({"mlp.up", t, f, h});
  activation("mlp.activation", t, f, false, false);
  out_.enter(sim::Phase::B);
}

void LayerOps::backward(int layer, bool input, bool weights) {
  if (input) {
    recompute_per_op(layer);
    rest_backward(layer);
    if (is_moe(layer)) out_.after(dispatch_backward());
    mlp_backward(layer);
  }
  std::uint32_t grad_combine = BlockWriter::kNoOp;
  if (input && is_moe(layer)) grad_combine = combine_backward();
  if (weights) {
    out_.enter(sim::Phase::W);
    mlp_weight_grad(layer);
    out_.enter(sim::Phase::B);
  }
  out_.after(grad_combine);
  if (input) attention_backward(layer);
  if (weights) {
    out_.enter(sim::Phase::W);
    attention_weight_grad(layer);
    out_.enter(sim::Phase::B);
  }
}

// Ends of the model
// --------------------------------------------------------------------------------------------------

void LayerOps::embedding_forward() {
  const double e = shape_.tokens * model_.hidden;
  memory("embedding", MemoryKind::Embedding, 4 * e, plan_.tp > 1 ? 4 : 1);
  if (model_.positions == Positions::Learned)
    memory("embedding.positions", MemoryKind::Elementwise, 6 * e);
  if (stack_.dropout) memory("embedding.dropout", MemoryKind::Elementwise, 5 * e);
  leave_tensor_parallel("embedding.reduce", false);
}

void LayerOps::embedding_weight_grad() {
  const double e = shape_.tokens * model_.hidden;
  enter_tensor_parallel("embedding.gather", false);
  // Sorted scatter-add into fp32 rows.
  memory("embedding", MemoryKind::Embedding, (2 + 8) * e, 4);
}

void LayerOps::head_forward() {
  norm_forward("head.norm", shape_.split_tokens, model_.hidden, false);
  enter_tensor_parallel("head.gather", false);
  const std::int64_t v = model_.vocab / plan_.tp;
  linear_forward({"head", shape_.tokens, v, model_.hidden, false});
  // Fused: the loss reads the bf16 logits twice (maximum and sum, then the probability of the
  // target). Unfused: cast to fp32, maximum, subtraction, exponential, sum, quotient: each a pass.
  memory("head.loss", MemoryKind::CrossEntropy,
         shape_.tokens * static_cast<double>(v) * (stack_.fused_cross_entropy ? 4 : 34),
         stack_.fused_cross_entropy ? 2 : 8);
  if (plan_.tp > 1)
    out_.exchange("head.loss.reduce",
                  sim::Collective{.kind = sim::CollectiveKind::AllReduce,
                                  .bytes = Bytes(12 * shape_.tokens),
                                  .group = groups_.tp},
                  Stream::Model);
}

void LayerOps::head_backward() {
  const std::int64_t v = model_.vocab / plan_.tp;
  memory("head.loss", MemoryKind::CrossEntropy,
         shape_.tokens * static_cast<double>(v) * (stack_.fused_cross_entropy ? 4 : 14),
         stack_.fused_cross_entropy ? 1 : 3);
  linear_input_grad({"head", shape_.tokens, v, model_.hidden, false});
  leave_tensor_parallel("head.reduce", true);
  norm_backward("head.norm", shape_.split_tokens, model_.hidden, false);
}

void LayerOps::head_weight_grad() {
  linear_weight_grad({"head", shape_.tokens, model_.vocab / plan_.tp, model_.hidden, false});
}

void LayerOps::mtp_projection_forward() {
  norm_forward("mtp.norm", shape_.split_tokens, 2 * static_cast<std::int64_t>(model_.hidden),
               false);
  linear_forward({"mtp.projection", shape_.split_tokens, model_.hidden,
                  2 * static_cast<std::int64_t>(model_.hidden)});
}

void LayerOps::mtp_projection_backward() {
  linear_input_grad({"mtp.projection", shape_.split_tokens, model_.hidden,
                     2 * static_cast<std::int64_t>(model_.hidden)});
  norm_backward("mtp.norm", shape_.split_tokens, 2 * static_cast<std::int64_t>(model_.hidden),
                false);
}

void LayerOps::mtp_projection_weight_grad() {
  linear_weight_grad({"mtp.projection", shape_.split_tokens, model_.hidden,
                      2 * static_cast<std::int64_t>(model_.hidden)});
}

}  // namespace reckon::plan
