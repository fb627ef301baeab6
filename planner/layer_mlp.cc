// The dense MLP; experts with their exchanges and permutations; shared experts. See layer_ops.cc
// for where the byte counts come from.
#include <utility>

#include "planner/layer_ops.h"

namespace reckon::plan {

using sim::MemoryKind;
using sim::Pass;
using sim::Stream;

hw::Routing routing(const ModelShape& model, const Plan& plan, const Groups& groups) {
  const Moe& moe = *model.moe;
  return {.experts = moe.experts,
          .top_k = moe.top_k,
          .ranks = plan.ep,
          .ranks_per_node = groups.ep.per_node,
          .groups = moe.groups,
          .limited_groups = moe.limited_groups};
}

std::uint32_t LayerOps::token_exchange(const char* label, bool combine, double element_bytes) {
  const Moe& moe = *model_.moe;
  if (plan_.ep == 1) return BlockWriter::kNoOp;
  hw::Routing traffic = routing(model_, plan_, groups_);
  traffic.busiest = stack_.expert_imbalance;
  const double tokens = shape_.tokens / plan_.tp;
  // Scales of 1x128 blocks travel with fp8 tokens; routing indices and weights with every dispatch.
  const double scales = element_bytes < 2 ? 4.0 / 128 : 0;
  const Bytes per_token(model_.hidden * (element_bytes + scales) +
                        (combine ? 0 : 12.0 * moe.top_k));
  return out_.communicate(
      label,
      hw::token_exchange(traffic, footprint_, tokens, per_token, groups_.ep, combine,
                         stack_.dispatcher != hw::Dispatcher::AllToAll),
      Stream::Expert);
}

std::uint32_t LayerOps::dispatch_forward() {
  return token_exchange("dispatch", false, block_fp8() ? 1 : element());
}
std::uint32_t LayerOps::combine_forward() {
  return token_exchange("combine", true, element());
}
std::uint32_t LayerOps::dispatch_backward() {
  return token_exchange("combine.grad", false, block_fp8() ? 1 : element());
}
std::uint32_t LayerOps::combine_backward() {
  return token_exchange("dispatch.grad", true, element());
}

void LayerOps::mlp_forward(int layer) {
  const std::int64_t h = model_.hidden, gates = gated() ? 2 : 1;
  if (!is_moe(layer)) {
    const std::int64_t f = model_.ffn / plan_.tp;
    enter_tensor_parallel("mlp.gather");
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
                                  .bytes = Bytes(element() * r * he),
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
                                  .bytes = Bytes(element() * r * he),
                                  .group = groups_.etp},
                  Stream::Model);
  if (moe.shared_ffn > 0) {
    const std::int64_t fs = moe.shared_ffn / plan_.tp;
    enter_tensor_parallel("shared.gather");
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
  return shape_.expert_rows * footprint_.ranks / model_.moe->top_k;
}

void LayerOps::mlp_backward(int layer) {
  const std::int64_t h = model_.hidden, gates = gated() ? 2 : 1;
  if (reckon()) recompute_norm("mlp.norm");  // what is repeated below reads it
  if (!is_moe(layer)) {
    const std::int64_t f = model_.ffn / plan_.tp;
    if (recomputes(kMlp)) {
      out_.enter(sim::Phase::B, true);
      enter_tensor_parallel("mlp.gather");
      linear_forward({"mlp.up", shape_.tokens, gates * f, h});
      out_.enter(sim::Phase::B);
    }
    if (!reckon()) recompute_norm("mlp.norm");
    enter_tensor_parallel("mlp.gather");
    mlp_again_ = gather_again("mlp.regather");
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
    permute_copies();
    out_.after(dispatch_forward());
    mlp_forward(layer);
    out_.after(combine_forward());
    out_.enter(sim::Phase::B);
  }
  if (!reckon()) recompute_norm("mlp.norm");
  if (moe.shared_ffn > 0) {
    const std::int64_t fs = moe.shared_ffn / plan_.tp;
    enter_tensor_parallel("shared.gather");
    mlp_again_ = gather_again("shared.regather");
    linear_input_grad({"shared.down", shape_.tokens, h, fs, true, !block_fp8(), !block_fp8()});
    activation("shared.activation", shape_.tokens, fs, true, false);
  }
  if (plan_.etp > 1)
    out_.exchange("etp.gather",
                  sim::Collective{.kind = sim::CollectiveKind::AllGather,
                                  .bytes = Bytes(element() * r * he),
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
                                  .bytes = Bytes(element() * r * he),
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
  const std::int64_t h = model_.hidden, gates = gated() ? 2 : 1;
  out_.after(std::exchange(mlp_again_, BlockWriter::kNoOp));
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

}  // namespace reckon::plan
