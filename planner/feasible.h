// What makes a plan illegal, for one plan or for very many of them.
#pragma once

#include <string>

#include "planner/predict.h"

namespace reckon::plan {

// The rules by subject, in the order in which they are asked. Each says which parts of a plan it
// reads, so that an enumeration can drop all plans that share them.
enum class Rule {
  Sizes,        // degrees, micro-batch
  WithinLayer,  // tp, cp, sequence_parallel
  Experts,      // tp, cp, dp, ep, etp
  Layers,       // pp, vpp, layout
  Recompute,    // recompute
  Schedule,     // pp, vpp, dp, micro_batch, schedule
  Shards,       // dp, cp, shard_group
  Numbers,      // precision
  Abilities,    // everything
};

struct Question {
  const ModelShape& model;
  const hw::Cluster& cluster;
  const hw::Stack& stack;
  const Plan& plan;
  const StepShape& step;
};

// The reason that one rule gives against a plan, or nullptr. A fixed text; `detail`, when given,
// receives the figures of this case. Without it nothing is allocated.
const char* objection(Rule rule, const Question& question, std::string* detail = nullptr);

}  // namespace reckon::plan
