// Blocks of one pipeline chunk: its layers, embedding, head and MTP modules, in the order of one
// pass.
#pragma once

#include <memory>

#include "planner/layer_ops.h"
#include "sim/program.h"

namespace reckon::plan {

struct ChunkContext {
  const ModelShape& model;
  const Params& params;
  const Plan& plan;
  const hw::Stack& stack;
  const Groups& groups;
  int seq;
};

// `phase` F, B, W, BW of `forward` or `backward` alone; FB needs both.
std::shared_ptr<const sim::Block> chunk_block(const ChunkContext& context, sim::Phase phase,
                                              const ChunkLayout* forward,
                                              const ChunkLayout* backward);

}  // namespace reckon::plan
