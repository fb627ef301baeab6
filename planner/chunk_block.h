// Blocks of one pipeline chunk: its layers, embedding, head and MTP modules, in the order of one
// pass.
#pragma once

#include <map>
#include <memory>
#include <utility>

#include "planner/layer_ops.h"
#include "sim/program.h"

namespace reckon::plan {

// Expected footprints of a model's routing, worked out once for each way to spread the experts.
class Footprints {
 public:
  const hw::Footprint& of(const ModelShape& model, const Plan& plan, const Groups& groups);

 private:
  std::map<std::pair<int, int>, hw::Footprint> known_;  // ep, ranks of it on a node
};

struct ChunkContext {
  const ModelShape& model;
  const Params& params;
  const Plan& plan;
  const hw::Stack& stack;
  const Groups& groups;
  const hw::Footprint& footprint;
  int seq;
};

// `phase` F, B, W, BW of `forward` or `backward` alone; FB needs both.
std::shared_ptr<const sim::Block> chunk_block(const ChunkContext& context, sim::Phase phase,
                                              const ChunkLayout* forward,
                                              const ChunkLayout* backward);

}  // namespace reckon::plan
