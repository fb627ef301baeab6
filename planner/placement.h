// Which ranks form each group of a plan, rank by rank. groups.h has their sizes alone.
#pragma once

#include <vector>

#include "hw-models/machine.h"
#include "planner/plan.h"
#include "sim/work.h"

namespace reckon::plan {

// A way to share the ranks out in groups: members lie `stride` apart among the ranks of one stage.
struct GroupKind {
  const char* name = "";
  int size = 1, stride = 1;
  bool mirrored = false;  // and the same again on the stage from the other end: DualPipe's copies
};

// Those of the plan that have the shape of `group`: several can, and then an op does not say which
// it means.
std::vector<GroupKind> kinds_of(const sim::Group& group, const Plan& plan,
                                const hw::Cluster& cluster);

// All groups of a kind, by rank of the plan (tensor-parallel first, then context, data, pipeline).
std::vector<std::vector<int>> groups_of(const GroupKind& kind, const Plan& plan);

// All ranks as one group; the first and last stage's ranks in pairs, as the copies of an embedding.
std::vector<std::vector<int>> all_ranks(const Plan& plan);
std::vector<std::vector<int>> end_pairs(const Plan& plan);

// Sender and receiver of messages between neighbouring stages, of outputs or of gradients.
std::vector<std::vector<int>> stage_pairs(const Plan& plan, bool outputs);

}  // namespace reckon::plan
