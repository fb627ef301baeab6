// The order inside an F&B pair is the one of DeepSeek's published trace, layer by layer:
//   compute   attention(F)  mlp(B)  mlp(W)  mlp(F)  attention(B)  attention(W)
//   exchange  combine.grad  dispatch  dispatch.grad  combine
// so that each exchange runs under the other direction's compute.
#include "planner/chunk_block.h"

#include <algorithm>
#include <cmath>

namespace reckon::plan {

namespace {

using sim::Phase;
using sim::Stream;

const char* phase_name(Phase p) {
  switch (p) {
    case Phase::F: return "F";
    case Phase::B: return "B";
    case Phase::W: return "W";
    case Phase::BW: return "BW";
    case Phase::FB: return "FB";
    case Phase::Optimizer: return "optimizer";
  }
  return "?";
}

class Writer {
 public:
  Writer(const ChunkContext& c, Phase phase)
      : c_(c),
        out_(phase_name(phase)),
        ops_(c.model, c.plan, c.stack, c.groups, c.footprint, c.seq, out_) {}

  std::shared_ptr<const sim::Block> finish() { return out_.finish(); }

  void forward(const ChunkLayout& chunk) {
    begin_forward(chunk);
    for (int i = 0; i < chunk.layers; ++i) forward_layer(chunk, i);
    end_forward(chunk);
  }

  void backward(const ChunkLayout& chunk, bool input, bool weights) {
    begin_backward(chunk, input, weights);
    for (int i = chunk.layers - 1; i >= 0; --i) backward_layer(chunk, i, input, weights);
    end_backward(chunk, weights);
  }

  void pair(const ChunkLayout& f, const ChunkLayout& b) {
    begin_forward(f);
    begin_backward(b, true, true);
    const int both = std::min(f.layers, b.layers);
    std::uint32_t grad_dispatch = BlockWriter::kNoOp, combined = BlockWriter::kNoOp;
    for (int i = 0; i < both; ++i) {
      const int back = b.layers - 1 - i;  // its place in the chunk
      const int lf = f.first_layer + i, lb = b.first_layer + back;
      const auto enter = [&](Phase phase) {
        out_.enter(phase);
        out_.part(phase == Phase::F ? i : back);
      };
      if (i == 0) grad_dispatch = start_backward(b, back);
      if (i > 0) end_forward_layer(f, i - 1, combined);
      enter(Phase::F);
      ops_.attention_forward(lf);
      const auto dispatched = ops_.is_moe(lf) ? ops_.dispatch_forward() : BlockWriter::kNoOp;
      enter(Phase::B);
      out_.after(grad_dispatch);
      ops_.mlp_backward(lb);
      const auto grad_combined = ops_.is_moe(lb) ? ops_.combine_backward() : BlockWriter::kNoOp;
      enter(Phase::W);
      ops_.mlp_weight_grad(lb);
      enter(Phase::F);
      out_.after(dispatched);
      ops_.mlp_forward(lf);
      combined = ops_.is_moe(lf) ? ops_.combine_forward() : BlockWriter::kNoOp;
      enter(Phase::B);
      out_.after(grad_combined);
      ops_.attention_backward(lb);
      grad_dispatch = back > 0 ? start_backward(b, back - 1) : BlockWriter::kNoOp;
      enter(Phase::W);
      ops_.attention_weight_grad(lb);
    }
    if (both > 0) end_forward_layer(f, both - 1, combined);
    // Layers that have no partner.
    for (int i = both; i < f.layers; ++i) forward_layer(f, i);
    end_forward(f);
    for (int i = both; i < b.layers; ++i) {
      const int layer = b.first_layer + b.layers - 1 - i;
      if (i == both && grad_dispatch != BlockWriter::kNoOp) {
        // Its gradient exchange is already under way.
        out_.enter(Phase::B);
        out_.part(b.layers - 1 - i);
        out_.after(grad_dispatch);
        ops_.mlp_backward(layer);
        out_.after(ops_.combine_backward());
        ops_.attention_backward(layer);
        out_.enter(Phase::W);
        ops_.mlp_weight_grad(layer);
        ops_.attention_weight_grad(layer);
      } else {
        backward_layer(b, b.layers - 1 - i, true, true);
      }
    }
    end_backward(b, true);
  }

 private:
  bool sharded() const { return c_.plan.zero == Zero::Full; }

  bool recomputed(int index) const {
    const Recompute& r = c_.plan.recompute;
    return r.mode == Recompute::Mode::Full && (r.full_layers == 0 || index < r.full_layers);
  }

  void end_forward_layer(const ChunkLayout& f, int index, std::uint32_t combined) {
    out_.enter(Phase::F);
    out_.part(index);
    out_.after(combined);
    ops_.rest_forward(f.first_layer + index);
  }

  // Starts the gradient exchange of the layer at `index` of the chunk.
  std::uint32_t start_backward(const ChunkLayout& b, int index) {
    const int layer = b.first_layer + index;
    out_.part(index);
    recompute_layer(index, layer);
    out_.enter(Phase::B);
    ops_.rest_backward(layer);
    return ops_.is_moe(layer) ? ops_.dispatch_backward() : BlockWriter::kNoOp;
  }

  void recompute_layer(int index, int layer) {
    if (!recomputed(index)) return;
    out_.enter(Phase::B, true);
    ops_.forward(layer);
    out_.enter(Phase::B);
  }

  void forward_layer(const ChunkLayout& chunk, int index) {
    const int layer = chunk.first_layer + index;
    out_.enter(Phase::F);
    out_.part(index);
    gather_layer(layer);
    ops_.forward(layer);
    layer_done();
  }

  void backward_layer(const ChunkLayout& chunk, int index, bool input, bool weights) {
    const int layer = chunk.first_layer + index;
    out_.enter(Phase::B);
    out_.part(index);
    if (input) {
      gather_layer(layer);
      recompute_layer(index, layer);
    }
    ops_.backward(layer, input, weights);
    layer_done();
    if (weights) reduce_layer(layer);
  }

  // Fully sharded parameters: a layer is gathered while the one before it computes, and its
  // gradients are reduced under the ones after it.
  void gather_layer(int layer) {
    if (!sharded()) return;
    const auto l = static_cast<std::size_t>(layer);
    gather(static_cast<double>(c_.params.attention[l] + c_.params.mlp[l]) / c_.plan.tp,
           static_cast<double>(c_.params.experts[l]) / (c_.plan.ep * c_.plan.etp));
  }

  void gather(double dense, double experts) {
    const auto add = [&](double count, const sim::Group& group) {
      if (count <= 0 || group.size <= 1) return;
      out_.after(out_.communicate_after(
          layer_before_last_, "fsdp.gather",
          sim::Collective{
              .kind = sim::CollectiveKind::AllGather, .bytes = Bytes(2 * count), .group = group},
          Stream::Data));
    };
    add(dense, c_.groups.shard);
    add(experts, c_.groups.edp_shard);
  }

  void layer_done() {
    layer_before_last_ = last_layer_;
    last_layer_ = out_.last_compute();
  }

  void reduce_layer(int layer) {
    if (!sharded()) return;
    const auto l = static_cast<std::size_t>(layer);
    reduce(static_cast<double>(c_.params.attention[l] + c_.params.mlp[l]) / c_.plan.tp,
           static_cast<double>(c_.params.experts[l]) / (c_.plan.ep * c_.plan.etp));
  }

  void reduce(double dense, double experts) {
    const auto add = [&](double count, const sim::Group& shard, const sim::Group& replica) {
      if (count <= 0) return;
      const Bytes bytes = count * c_.stack.reduce_bytes;
      if (shard.size > 1)
        out_.communicate(
            "fsdp.reduce",
            sim::Collective{
                .kind = sim::CollectiveKind::ReduceScatter, .bytes = bytes, .group = shard},
            Stream::Data);
      if (replica.size > 1)
        out_.communicate("fsdp.replicas",
                         sim::Collective{.kind = sim::CollectiveKind::AllReduce,
                                         .bytes = bytes / std::max(1, shard.size),
                                         .group = replica},
                         Stream::Data);
    };
    add(dense, c_.groups.shard, c_.groups.replica);
    add(experts, c_.groups.edp_shard, {});
  }

  double ends_parameters(const ChunkLayout& chunk) const {
    double n = 0;
    if (chunk.embedding) n += static_cast<double>(c_.params.embedding);
    if (chunk.head) n += static_cast<double>(c_.params.head + c_.params.final_norm);
    return n / c_.plan.tp;
  }

  void begin_forward(const ChunkLayout& chunk) {
    out_.enter(Phase::F);
    out_.part(kEnds);
    if (sharded()) gather(ends_parameters(chunk), 0);
    if (chunk.embedding) ops_.embedding_forward();
  }

  void end_forward(const ChunkLayout& chunk) {
    out_.enter(Phase::F);
    out_.part(kEnds);
    if (chunk.head) ops_.head_forward();
    for (int d = 0; d < chunk.mtp; ++d) {
      out_.part(chunk.layers + d);
      ops_.embedding_forward();
      ops_.mtp_projection_forward();
      ops_.forward(c_.model.layers - 1);
      ops_.head_forward();
    }
  }

  void begin_backward(const ChunkLayout& chunk, bool input, bool weights) {
    const auto weight_part = [&](auto write) {
      if (!weights) return;
      out_.enter(Phase::W);
      write();
      out_.enter(Phase::B);
    };
    out_.enter(Phase::B);
    for (int d = chunk.mtp - 1; d >= 0; --d) {
      out_.part(chunk.layers + d);
      if (input) ops_.head_backward();
      weight_part([&] { ops_.head_weight_grad(); });
      ops_.backward(c_.model.layers - 1, input, weights);
      if (input) ops_.mtp_projection_backward();
      weight_part([&] {
        ops_.mtp_projection_weight_grad();
        ops_.embedding_weight_grad();
      });
    }
    out_.part(kEnds);
    if (chunk.head) {
      if (input) ops_.head_backward();
      weight_part([&] { ops_.head_weight_grad(); });
    }
  }

  void end_backward(const ChunkLayout& chunk, bool weights) {
    if (!weights) return;
    out_.enter(Phase::W);
    out_.part(kEnds);
    if (chunk.embedding) ops_.embedding_weight_grad();
    if (sharded()) reduce(ends_parameters(chunk), 0);
  }

  // Op::part: layers count from 0, MTP modules on from there.
  static constexpr int kEnds = -1;

  const ChunkContext& c_;
  BlockWriter out_;
  LayerOps ops_;
  std::uint32_t last_layer_ = BlockWriter::kNoOp, layer_before_last_ = BlockWriter::kNoOp;
};

}  // namespace

const hw::Footprint& Footprints::of(const ModelShape& model, const Plan& plan,
                                    const Groups& groups) {
  const auto [it, fresh] = known_.try_emplace({plan.ep, groups.ep.per_node});
  if (fresh && model.moe) it->second = hw::expected_footprint(routing(model, plan, groups));
  return it->second;
}

std::shared_ptr<const sim::Block> chunk_block(const ChunkContext& context, Phase phase,
                                              const ChunkLayout* forward,
                                              const ChunkLayout* backward) {
  // The busiest rank holds up its group at the next exchange. Inside a W that runs alone there is
  // none, so the rank counts whose sum over the chunk's layers is largest; layers being
  // independent, it lies above the mean by 1 / sqrt(layers) of what the busiest does in one layer.
  hw::Stack stack = context.stack;
  if (phase == Phase::W)
    stack.expert_imbalance =
        1 + (stack.expert_imbalance - 1) / std::sqrt(std::max(1, backward->layers + backward->mtp));
  const ChunkContext own{context.model,  context.params,    context.plan, stack,
                         context.groups, context.footprint, context.seq};
  Writer w(own, phase);
  switch (phase) {
    case Phase::F: w.forward(*forward); break;
    case Phase::B: w.backward(*backward, true, false); break;
    case Phase::W: w.backward(*backward, false, true); break;
    case Phase::BW: w.backward(*backward, true, true); break;
    case Phase::FB: w.pair(*forward, *backward); break;
    case Phase::Optimizer: check(false, "the optimizer is not a pass of a chunk");
  }
  return w.finish();
}

}  // namespace reckon::plan
