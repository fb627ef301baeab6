// Attention, residual, norms, and the router of a mixture. See layer_ops.cc for where the byte
// counts come from.
#include <utility>

#include "planner/layer_ops.h"

namespace reckon::plan {

using sim::MemoryKind;
using sim::Pass;
using sim::Stream;

void LayerOps::context_exchange(bool backward) {
  if (plan_.cp == 1) return;
  const auto kv_width =
      model_.mla ? model_.mla->qk_nope + model_.mla->qk_rope + model_.mla->v : 2 * model_.head_dim;
  const auto kv_heads = model_.mla ? shape_.heads : shape_.kv_heads;
  // Keys and values travel round the ring; backward also their gradients.
  const Bytes all(element() * shape_.tokens * plan_.cp * static_cast<double>(kv_heads) * kv_width);
  if (reckon()) {  // gathered before the product (Llama 3 report, section 3.3.2)
    out_.exchange(
        backward ? "attn.context.regather" : "attn.context.gather",
        sim::Collective{.kind = sim::CollectiveKind::AllGather, .bytes = all, .group = groups_.cp},
        Stream::Model);
    return;
  }
  out_.communicate("attn.ring",
                   sim::Collective{.kind = sim::CollectiveKind::AllGather,
                                   .bytes = (backward ? 2 : 1) * all,
                                   .group = groups_.cp},
                   Stream::Model);
}

void LayerOps::core_attention(int layer, bool backward) {
  context_exchange(backward);
  const std::uint32_t ring = plan_.cp > 1 && !reckon() ? out_.last() : BlockWriter::kNoOp;
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
  if (reckon() && backward && plan_.cp > 1) {
    const auto width = static_cast<double>(a.kv_heads * (a.qk_dim + a.v_dim));
    out_.exchange("attn.context.reduce",
                  sim::Collective{.kind = sim::CollectiveKind::ReduceScatter,
                                  .bytes = Bytes(element() * shape_.tokens * plan_.cp * width),
                                  .group = groups_.cp},
                  Stream::Model);
  }
}

void LayerOps::mla_assemble() {
  const Mla& a = *model_.mla;
  const double heads = shape_.tokens * static_cast<double>(shape_.heads);
  memory("attn.rope", MemoryKind::Elementwise, 4 * heads * a.qk_rope);
  if (reckon())  // key and value apart, the key's rotary half copied to every head
    return memory("attn.assemble", MemoryKind::Elementwise,
                  heads * (4 * a.qk_nope + 2 * a.qk_rope + 4 * a.v));
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
    const Bytes latents(element() * t * (a.q_lora + a.kv_lora + a.qk_rope));
    if (plan_.tp > 1 && plan_.sequence_parallel)
      out_.exchange(
          "attn.gather",
          sim::Collective{
              .kind = sim::CollectiveKind::AllGather, .bytes = latents, .group = groups_.tp},
          Stream::Model);
    linear_forward({"attn.q_up", t, shape_.heads * qk, a.q_lora > 0 ? a.q_lora : h});
    linear_forward({"attn.kv_up", t, shape_.heads * (a.qk_nope + a.v), a.kv_lora});
    mla_assemble();
  } else {
    const std::int64_t q = shape_.heads * model_.head_dim, kv = shape_.kv_heads * model_.head_dim;
    enter_tensor_parallel("attn.gather");
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
  if (reckon() && plan_.tp * plan_.cp > 1)  // scores of a whole sequence, for its balance loss
    out_.exchange("router.balance",
                  sim::Collective{.kind = sim::CollectiveKind::AllReduce,
                                  .bytes = Bytes(8.0 * plan_.micro_batch * moe.experts),
                                  .group = {.size = plan_.tp * plan_.cp,
                                            .per_node = groups_.tp.per_node * groups_.cp.per_node}},
                  Stream::Model);
  permute_copies();
}

// Token copies sorted by destination before they leave.
void LayerOps::permute_copies() {
  if (stack_.dispatcher != hw::Dispatcher::AllToAll) return;
  const double copies =
      shape_.tokens / plan_.tp * model_.moe->top_k * static_cast<double>(model_.hidden);
  memory("permute", MemoryKind::Permute, (stack_.fused_permute ? 4 : 6) * copies,
         stack_.fused_permute ? 2 : 6);
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
    if (!reckon()) memory("router.add", MemoryKind::Elementwise, 6 * e);
  }
  norm_backward("mlp.norm", ts, h, true);
  if (block_fp8())
    memory("attn.scale", MemoryKind::Elementwise, 4 * e);
  else if (stack_.dropout)
    memory("attn.residual", MemoryKind::Elementwise, 5 * e);
  const std::int64_t v = shape_.heads * (model_.mla ? model_.mla->v : model_.head_dim);
  if (block_fp8()) memory("attn.unpack", MemoryKind::Quantise, 3.5 * t * static_cast<double>(v));
  if (!model_.mla) recompute_norm("attn.norm");
  enter_tensor_parallel("attn.gather");
  if (!model_.mla) attention_again_ = gather_again("attn.regather");
  linear_input_grad({"attn.out", t, h, v});
  if (model_.mla) {
    const Mla& a = *model_.mla;
    const std::int64_t qk = a.qk_nope + a.qk_rope;
    const double heads = t * static_cast<double>(shape_.heads);
    const Linear q_up{"attn.q_up", t, shape_.heads * qk, a.q_lora > 0 ? a.q_lora : h};
    const Linear kv_up{"attn.kv_up", t, shape_.heads * (a.qk_nope + a.v), a.kv_lora};
    const Bytes latents(element() * t * (a.q_lora + a.kv_lora + a.qk_rope));
    const bool split = plan_.tp > 1 && plan_.sequence_parallel;
    const auto regather = [&] {  // of the up-projections' inputs, for their weight gradients
      return out_.communicate(
          "attn.regather",
          sim::Collective{
              .kind = sim::CollectiveKind::AllGather, .bytes = latents, .group = groups_.tp},
          Stream::Model);
    };
    if (split && !recomputes(kMlaUp)) attention_again_ = regather();
    if (recomputes(kMlaUp)) {
      out_.enter(sim::Phase::B, true);
      if (a.q_lora > 0) memory("attn.q_norm", MemoryKind::Norm, 4 * ts * a.q_lora);
      memory("attn.kv_norm", MemoryKind::Norm, 4 * ts * a.kv_lora);
      if (split) out_.after(regather());
      linear_forward(q_up);
      linear_forward(kv_up);
      mla_assemble();
      out_.enter(sim::Phase::B);
    }
    core_attention(layer, true);
    memory("attn.rope", MemoryKind::Elementwise, 4 * heads * a.qk_rope);
    linear_input_grad(q_up);
    memory("attn.assemble", MemoryKind::Elementwise,
           heads * (4 * a.qk_nope + 4 * a.v + 2 * a.qk_rope), reckon() ? 1 : 4);
    linear_input_grad(kv_up);
    if (split)
      out_.exchange(
          "attn.reduce",
          sim::Collective{
              .kind = sim::CollectiveKind::ReduceScatter, .bytes = latents, .group = groups_.tp},
          Stream::Model);
    memory("attn.kv_norm", MemoryKind::Norm, 8 * ts * a.kv_lora, 2);
    if (!reckon())
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
      if (!reckon()) memory("attn.add", MemoryKind::Elementwise, 6 * e);
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
  }
  norm_backward("attn.norm", ts, h, true);
}

void LayerOps::attention_weight_grad(int layer) {
  (void)layer;
  out_.after(std::exchange(attention_again_, BlockWriter::kNoOp));
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

}  // namespace reckon::plan
