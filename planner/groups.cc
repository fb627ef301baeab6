#include "planner/groups.h"

#include <algorithm>

namespace reckon::plan {

namespace {

// `size` ranks that are `stride` apart, on nodes of `node` ranks.
sim::Group strided(int size, int stride, int node) {
  return {.size = size, .per_node = std::clamp(node / stride, 1, size)};
}

}  // namespace

Groups groups(const Plan& p, const hw::Cluster& cluster) {
  const int node = std::max(1, std::min(cluster.node.gpus, world_size(p)));
  const bool both_ways =
      p.schedule == ScheduleKind::DualPipe;  // every chunk lives on two pipeline ranks
  Groups g;
  g.tp = strided(p.tp, 1, node);
  g.cp = strided(p.cp, p.tp, node);
  g.dp = strided(p.dp, p.tp * p.cp, node);
  g.dp_cp = strided(p.dp * p.cp, p.tp, node);
  g.etp = strided(p.etp, 1, node);
  g.ep = strided(p.ep, p.etp, node);
  const int edp = std::max(1, p.tp * p.cp * p.dp / (p.ep * p.etp));
  g.edp = strided(edp, p.ep * p.etp, node);
  const int shard = p.shard_group > 0 ? p.shard_group : g.dp_cp.size;
  g.shard = strided(shard, p.tp, node);
  g.replica = strided(std::max(1, g.dp_cp.size / shard), p.tp * shard, node);
  g.edp_shard = strided(p.shard_group > 0 ? std::min(edp, shard) : edp, p.ep * p.etp, node);
  if (both_ways) {
    g.dp_cp.size *= 2;
    g.shard.size *= 2;
    g.edp.size *= 2;
    g.edp_shard.size *= 2;
  }
  g.pipe_inter_node = p.tp * p.cp * p.dp >= node;
  return g;
}

RankShape rank_shape(const ModelShape& m, const Plan& p, const hw::Stack& stack, int seq) {
  RankShape s;
  s.tokens = static_cast<double>(p.micro_batch) * seq / p.cp;
  s.split_tokens = p.sequence_parallel ? s.tokens / p.tp : s.tokens;
  s.heads = std::max(1, m.heads / p.tp);
  s.kv_heads = std::max(1, m.kv_heads / p.tp);
  if (m.moe) {
    s.experts = std::max(1, m.moe->experts / p.ep);
    // Balanced: every rank sends top_k copies of its tokens and, experts being spread evenly,
    // receives as many; the etp ranks of an expert see each other's copies too.
    const double imbalance = p.ep > 1 ? stack.expert_imbalance : 1;
    s.expert_rows = s.tokens / p.tp * m.moe->top_k * p.etp * imbalance;
  }
  switch (p.precision) {
    case Precision::Fp32: s.linear = sim::DType::Tf32; break;
    case Precision::Fp16: s.linear = sim::DType::Fp16; break;
    case Precision::Bf16: s.linear = sim::DType::Bf16; break;
    case Precision::Fp8: s.linear = sim::DType::Fp8; break;
    case Precision::Fp8DeepSeek: s.linear = sim::DType::Fp8Block; break;
    case Precision::Mxfp8: s.linear = sim::DType::Mxfp8; break;
  }
  return s;
}

}  // namespace reckon::plan
