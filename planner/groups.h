// Which ranks form each parallel group, and the sizes of one rank's share of a layer.
#pragma once

#include "hw-models/machine.h"
#include "hw-models/stack.h"
#include "planner/model.h"
#include "planner/plan.h"
#include "sim/work.h"

namespace reckon::plan {

// Ranks are numbered tensor-parallel first, then context, then data, then pipeline (Megatron-LM's
// tp-cp-dp-pp); experts fold over the same ranks as etp, ep, expert-data (Liu et al. 2025, "MoE
// Parallel Folding"). Consecutive ranks fill nodes.
struct Groups {
  sim::Group tp, cp, dp, ep, etp, edp;
  sim::Group dp_cp;             // ranks that hold the same dense parameters
  sim::Group shard, replica;    // of dp_cp: optimizer or FSDP shards, and copies of each shard
  sim::Group edp_shard;         // of edp
  bool pipe_inter_node = true;  // neighbouring stages sit on different nodes
};

Groups groups(const Plan& plan, const hw::Cluster& cluster);

// One rank's sizes for one micro-batch.
struct RankShape {
  double tokens = 0;        // of the micro-batch on this rank's context slice
  double split_tokens = 0;  // of norms and residuals: tokens / tp with sequence parallelism
  std::int64_t heads = 0, kv_heads = 0;  // per rank
  std::int64_t experts = 0;              // per rank
  double expert_rows =
      0;  // token copies that this rank's experts receive, on the busiest rank of the group
  sim::DType linear = sim::DType::Bf16;
};

RankShape rank_shape(const ModelShape& model, const Plan& plan, const hw::Stack& stack, int seq);

}  // namespace reckon::plan
