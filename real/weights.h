// Weights and gradients of the chunks that a rank holds, in flat buffers that data-parallel
// collectives and the optimizer treat as wholes, and the views on them that ops use.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "real/device.h"
#include "real/params.h"
#include "real/recipe.h"
#include "real/storage.h"

namespace reckon::real {

// A parameter in use; null where the model has none.
struct Ref {
  ConstView w;
  View g;
};

struct LayerRefs {
  Ref attn_norm, attn_norm_bias, mlp_norm, mlp_norm_bias;
  Ref q, k, v, q_bias, k_bias, v_bias, q_norm, k_norm;  // GQA
  Ref q_down, q_up, kv_down, kv_norm, kv_up;            // MLA; q_norm is shared with it
  Ref out, out_bias;
  Ref up, up_bias, down, down_bias;  // dense; with a gate `up` starts at the gate's rows
  Ref router, experts_up, experts_down, shared_up, shared_down;
  float* router_bias = nullptr;  // [experts]; moved by the load, not by gradients
  float* load = nullptr;         // [experts] token copies seen this step
  // In front of and behind an MTP layer.
  Ref hidden_norm, hidden_norm_bias, embedding_norm, embedding_norm_bias, projection;
  Ref head_norm, head_norm_bias;
};

// One flat buffer: a rank's share of a chunk's dense parameters, or of its experts.
struct Flat {
  Tensor weights;  // what products read: fp32, bf16, or fp32 values on the bf16 grid
  Tensor grads;    // fp32, sum over the step's micro-batches
  std::int64_t count = 0;
  // Starting values that `weights` is too narrow for; the optimizer takes them.
  std::vector<float> start;
};

struct ChunkWeights {
  int chunk = 0;
  ParamTable table;
  Flat dense, experts;
  std::vector<LayerRefs> parts;  // by sim::Op::part
  Ref head_norm, head_norm_bias;
  bool owns_embedding = false;

  const Flat& of(const Param& p) const { return p.expert ? experts : dense; }
};

// Mixtures of the rank, each with its bias and load.
struct RouterState {
  std::string name;  // "layers.3.router.bias"
  Tensor bias, load;
};

class Weights {
 public:
  // Where the weights go.
  struct Room {
    Meter& meter;
    Device& device;
  };
  // Allocates and initialises the chunks that `place` holds.
  Weights(const plan::ModelShape& model, const plan::Plan& plan, const Place& place,
          const std::vector<int>& chunks, const Recipe& recipe, const Room& room);

  ChunkWeights& chunk(int index);
  std::deque<ChunkWeights>& chunks() { return chunks_; }
  std::deque<RouterState>& routers() { return routers_; }
  Ref embedding, positions, head;  // null where no chunk of the rank uses them

 private:
  void bind(ChunkWeights& c, const plan::ModelShape& model, const plan::ChunkLayout& layout,
            const Room& room);
  std::deque<ChunkWeights> chunks_;
  std::deque<RouterState> routers_;
};

}  // namespace reckon::real
