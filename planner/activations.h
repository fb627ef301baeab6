// What a pass leaves behind in memory: a table of tensors per layer, and the sums that the memory
// walk needs.
#pragma once

#include <cstdint>
#include <vector>

#include "hw-models/stack.h"
#include "planner/model.h"
#include "planner/plan.h"

namespace reckon::plan {

// One tensor kept on one GPU for the backward pass of one micro-batch.
struct SavedTensor {
  enum class Needed {
    ForB,      // freed when the input gradients are done
    ForBAndW,  // input of a linear map: the weight gradient needs it too
    ForW,      // gradient of a linear map's output: alive only between a separate B and its W
  };
  const char* module;
  const char* tensor;
  double elements;
  double bytes_each;
  std::uint32_t dropped_by = 0;  // RecomputeModule bits: any of them recomputes it instead
  Needed needed = Needed::ForB;
};

// Tensors of one transformer layer, of the head with its loss, or of the embedding. Norm statistics
// and routing indices (below 0.1 %) are left out.
std::vector<SavedTensor> layer_tensors(const ModelShape& model, const Plan& plan,
                                       const hw::Stack& stack, int seq, bool moe);
std::vector<SavedTensor> head_tensors(const ModelShape& model, const Plan& plan,
                                      const hw::Stack& stack, int seq);
std::vector<SavedTensor> embedding_tensors(const ModelShape& model, const Plan& plan,
                                           const hw::Stack& stack, int seq);

// Sums over a table, in bytes.
struct TensorSums {
  double all = 0;      // without recomputation
  double kept = 0;     // from F to B, after recomputation dropped its part
  double for_w = 0;    // from a separate B to its W
  double working = 0;  // largest set of gradients alive inside the backward pass
};

// Sums of every part that a chunk can hold.
struct ActivationSums {
  TensorSums dense, moe, mtp, head, embedding;
  double checkpoint = 0;  // input of one layer, what full recomputation keeps
  double loss = 0;        // transient: what the loss needs beside the logits it keeps
};
ActivationSums activation_sums(const ModelShape& model, const Plan& plan, const hw::Stack& stack,
                               int seq);

}  // namespace reckon::plan
