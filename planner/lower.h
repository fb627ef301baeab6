// From a Plan to the Program that it means: blocks of ops per pipeline chunk, slots in schedule
// order, messages between them, gradient and parameter collectives, the optimizer. Knows shapes and
// bytes, no clock.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <vector>

#include "hw-models/machine.h"
#include "hw-models/stack.h"
#include "planner/groups.h"
#include "planner/memory.h"
#include "planner/model.h"
#include "planner/plan.h"
#include "planner/schedule.h"
#include "sim/program.h"

namespace reckon::plan {

// Lowers plans of one model on one cluster with one stack. Keeps the blocks that it has written:
// plans of a search share most of them. One thread at a time.
class Lowering {
 public:
  Lowering(const ModelShape& model, const hw::Cluster& cluster, const hw::Stack& stack);

  // REQUIRES: !why_illegal(...); `schedule` is make_schedule of the plan.
  sim::Program lower(const Plan& plan, const StepShape& step, const Schedule& schedule);

 private:
  struct Parameters {  // of one chunk, on one rank
    double dense = 0, experts = 0;
  };
  using Key = std::vector<int>;

  using Blocks = std::map<std::array<int, 3>,
                          std::shared_ptr<const sim::Block>>;  // phase, compositions of two chunks

  Blocks& blocks_of(const Plan& plan, const Groups& groups,
                    int seq);                 // of plans that agree in all that shapes a block
  int composition(const ChunkLayout& chunk);  // chunks of equal content have equal numbers
  std::shared_ptr<const sim::Block> optimizer_block(const Plan& plan, const Groups& groups,
                                                    double dense, double experts);
  // Without the embedding, which a rank holds once.
  Parameters chunk_parameters(const Plan& plan, const ChunkLayout& chunk) const;
  bool uses_embedding(const ChunkLayout& chunk) const;
  // On every tensor-parallel rank: norms, router, latent maps.
  double replicated_parameters(const Plan& plan, const ChunkLayout& chunk) const;

  const ModelShape model_;
  const hw::Cluster cluster_;
  const hw::Stack stack_;
  const Params params_;
  std::map<Key, Blocks> blocks_;
  std::map<Key, int> compositions_;
  std::map<std::vector<double>, std::shared_ptr<const sim::Block>> optimizer_blocks_;
};

// The order with Megatron's expert overlap: from the warm-up on, each backward pass is paired with
// the forward pass that follows it, and the warm-up is one forward longer.
Schedule pair_backward_with_next_forward(const Schedule& schedule);

}  // namespace reckon::plan
