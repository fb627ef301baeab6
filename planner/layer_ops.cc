// Byte counts are per element of bf16 tensors (2 bytes) unless said otherwise; each is the kernel's
// reads plus writes. The op list of the DeepSeek recipe follows DeepSeek's published H800 trace
// (deepseek-ai/profile-data, train); that of other recipes follows Megatron-Core and Transformer
// Engine.
#include "planner/layer_ops.h"

#include <algorithm>
#include <cmath>

namespace reckon::plan {

using sim::MemoryKind;
using sim::Pass;
using sim::Stream;

namespace {

std::int64_t whole_rows(double x) {
  return std::max<std::int64_t>(1, std::llround(x));
}

}  // namespace

LayerOps::LayerOps(const ModelShape& model, const Plan& plan, const hw::Stack& stack,
                   const Groups& groups, const hw::Footprint& footprint, int seq, BlockWriter& out)
    : model_(model),
      plan_(plan),
      stack_(stack),
      groups_(groups),
      seq_(seq),
      shape_(rank_shape(model, plan, stack, seq)),
      footprint_(footprint),
      out_(out) {}

bool LayerOps::recomputes(std::uint32_t module) const {
  return plan_.recompute.mode == Recompute::Mode::Selective &&
         (plan_.recompute.modules & module) != 0;
}

void LayerOps::memory(const char* label, MemoryKind kind, double bytes, int kernels) {
  if (bytes > 0 || kernels > 0)
    out_.compute(label,
                 sim::MemoryBound{
                     .kind = kind, .traffic = Bytes(element() / 2 * bytes), .kernels = kernels});
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
  out_.compute(l.label, sim::MatMul{.m = whole_rows(l.m),
                                    .n = l.n,
                                    .k = l.k,
                                    .pass = Pass::Forward,
                                    .dtype = l.quantise ? shape_.linear : unquantised()});
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
  out_.compute(l.label, sim::MatMul{.m = whole_rows(l.m),
                                    .n = l.n,
                                    .k = l.k,
                                    .pass = Pass::InputGrad,
                                    .dtype = l.quantise ? shape_.linear : unquantised()});
  if (quantised && block_fp8()) {
    // Both operands of the weight gradient, quantised along the tokens.
    memory("quantise.columns.grad", MemoryKind::Quantise,
           (l.quantise_grad ? 3 : 2) * l.m * static_cast<double>(l.n));
    if (l.split_input)
      memory("quantise.columns.input", MemoryKind::Quantise, 3 * l.m * static_cast<double>(l.k));
  }
}

void LayerOps::linear_weight_grad(const Linear& l) {
  out_.compute(l.label, sim::MatMul{.m = whole_rows(l.m),
                                    .n = l.n,
                                    .k = l.k,
                                    .pass = Pass::WeightGrad,
                                    .dtype = l.quantise ? shape_.linear : unquantised()});
  if (!stack_.fused_wgrad_accumulation)  // main gradient += weight gradient
    memory("accumulate.grad", MemoryKind::Elementwise,
           static_cast<double>(l.n * l.k) * (2 + 2 * stack_.grad_bytes.si));
}

void LayerOps::grouped(const char* label, std::int64_t n, std::int64_t k, Pass pass) {
  out_.compute(label, sim::GroupedMatMul{.groups = shape_.experts,
                                         .m = whole_rows(shape_.expert_rows),
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
  if (residual && !reckon())  // gradient of the skip connection added
    memory("residual.grad", MemoryKind::Elementwise, 6 * e);
}

void LayerOps::recompute_norm(const char* label) {
  if (!recomputes(kNorm) || block_fp8()) return;
  out_.enter(sim::Phase::B, true);
  memory(label, MemoryKind::Norm, 4 * shape_.split_tokens * static_cast<double>(model_.hidden));
  out_.enter(sim::Phase::B);
}

void LayerOps::enter_tensor_parallel(const char* label) {
  // Without sequence parallelism the input is whole on every rank; the backward reduces in leave_.
  if (plan_.tp == 1 || !plan_.sequence_parallel) return;
  const auto op = out_.communicate(label, whole_tokens(), Stream::Model);
  if (!plan_.overlap.tp) out_.after(op);
}

std::uint32_t LayerOps::gather_again(const char* label) {
  if (plan_.tp == 1 || !plan_.sequence_parallel || plan_.overlap.tp) return BlockWriter::kNoOp;
  return out_.communicate(label, whole_tokens(), Stream::Model);
}

sim::Collective LayerOps::whole_tokens() const {
  return {.kind = sim::CollectiveKind::AllGather,
          .bytes = Bytes(element() * shape_.tokens * model_.hidden),
          .group = groups_.tp};
}

void LayerOps::leave_tensor_parallel(const char* label, bool backward) {
  if (plan_.tp == 1) return;
  const Bytes full(element() * shape_.tokens * model_.hidden);
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
  const bool gate = gated();
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

}  // namespace reckon::plan
