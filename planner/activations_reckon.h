// What reckon's own trainer (Stack::reckon_ops, real/) keeps in memory: one row per tensor of
// real/pass.h with its size, the op that makes it and those that read it last.
#pragma once

#include <cstdint>
#include <vector>

#include "hw-models/stack.h"
#include "planner/model.h"
#include "planner/plan.h"

namespace reckon::plan {

// An op by its label, and which of its three actions: 'F' forward (repeated ones too), 'B' input
// gradient, 'W' weight gradient.
struct Moment {
  const char* label = nullptr;
  char pass = 0;
};

struct TrainerTensor {
  const char* name;
  double elements;               // of 4 bytes; a number stored as bf16 is half of one
  Moment made;                   // empty: by a neighbour, see Role
  Moment last, last2 = {};       // freed when both have read it; empty: by a neighbour
  std::uint32_t dropped_by = 0;  // RecomputeModule bits
  // The op that reads it last writes its result over it.
  bool overwritten = false;
  // What a selectively repeated forward op makes for nobody.
  bool unread_again = false;
  // Tensors that pass from part to part of a chunk.
  enum class Role : std::uint8_t { Own, Input, Output, OutputGrad, InputGrad } role = Role::Own;
};

// Bytes of an activation or a weight: 4 under an fp32 plan, else what the stack says of a logit,
// which the trainer stores as all of them.
double trainer_narrow_bytes(const Plan& plan, const hw::Stack& stack);

// One part of a chunk: a layer, an MTP module with its head, or the ends (embedding and head).
std::vector<TrainerTensor> trainer_layer(const ModelShape& model, const Plan& plan,
                                         const hw::Stack& stack, int seq, bool moe);
std::vector<TrainerTensor> trainer_mtp(const ModelShape& model, const Plan& plan,
                                       const hw::Stack& stack, int seq);
std::vector<TrainerTensor> trainer_ends(const ModelShape& model, const Plan& plan,
                                        const hw::Stack& stack, int seq, const ChunkLayout& chunk);

}  // namespace reckon::plan
