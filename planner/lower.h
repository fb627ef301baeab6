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
#include "planner/chunk_block.h"
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

  // The same with the plan's own schedule, many times cheaper where an earlier plan had it too. The
  // result is overwritten by the next call.
  const sim::Program& lower_in_place(const Plan& plan, const StepShape& step);

 private:
  struct Parameters {  // of one chunk, on one rank
    double dense = 0, experts = 0;
  };
  using Key = std::vector<int>;

  // What a block runs: a forward pass of one chunk, a backward pass of one, or both. -1: none.
  // Optimizer: a role's tail.
  struct Pass {
    sim::Phase phase = sim::Phase::F;
    int forward = -1, backward = -1;
    bool operator==(const Pass&) const = default;
  };
  struct Held {  // a chunk on a role, and the slots that use it first and make its last gradient
    std::uint32_t chunk = 0, first_use = 0, last_gradient = 0;
  };
  // What the schedule alone decides of a Program: slots and messages. fill() adds the rest.
  struct Skeleton {
    sim::Program program;
    std::vector<Pass> passes;             // per block of the program
    std::vector<std::vector<Held>> held;  // per role
  };

  using Blocks = std::map<std::array<int, 3>,
                          std::shared_ptr<const sim::Block>>;  // phase, compositions of two chunks

  static Skeleton skeleton(const Plan& plan, const Schedule& schedule);
  void fill(Skeleton& skeleton, const Plan& plan, const StepShape& step);
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
  Footprints footprints_;
  std::map<Key, Blocks> blocks_;
  std::map<Key, int> compositions_;
  std::map<std::vector<double>, std::shared_ptr<const sim::Block>> optimizer_blocks_;
  std::map<std::array<int, 5>, Skeleton> skeletons_;  // schedule, pp, vpp, micro-batches, pairs
  std::size_t kept_slots_ = 0;                        // in them
};

// The order with Megatron's expert overlap: from the warm-up on, each backward pass is paired with
// the forward pass that follows it, and the warm-up is one forward longer.
Schedule pair_backward_with_next_forward(const Schedule& schedule);

}  // namespace reckon::plan
