// Embedding, output projection with the loss, and the projection in front of an MTP layer.
#include "planner/layer_ops.h"

namespace reckon::plan {

using sim::MemoryKind;
using sim::Pass;
using sim::Stream;

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
  enter_tensor_parallel("embedding.gather");
  // Sorted scatter-add into fp32 rows.
  memory("embedding", MemoryKind::Embedding, (2 + 8) * e, 4);
}

void LayerOps::head_forward() {
  norm_forward("head.norm", shape_.split_tokens, model_.hidden, false);
  enter_tensor_parallel("head.gather");
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
