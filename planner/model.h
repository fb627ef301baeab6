// The model: a decoder-only transformer, dense or mixture of experts, as plain data; and its
// parameter counts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sim/units.h"

namespace reckon::plan {

enum class Mlp { Gelu, SquaredRelu, SwiGlu, GeGlu };
// A gate: one more matrix beside the up-projection.
inline bool is_gated(Mlp mlp) {
  return mlp == Mlp::SwiGlu || mlp == Mlp::GeGlu;
}
enum class Norm { LayerNorm, RmsNorm };
enum class Positions { Rope, Learned, Alibi, None };
enum class RouterScore { Softmax, Sigmoid };

// Multi-head latent attention (DeepSeek-V2 report, section 2.1).
struct Mla {
  int q_lora = 0;  // 0: queries are not compressed
  int kv_lora = 0;
  int qk_nope = 0, qk_rope = 0, v = 0;
  bool operator==(const Mla&) const = default;
};

// YaRN's scaling of rotary embeddings (Peng et al. 2023), as DeepSeek-V3 writes it: for contexts
// of `factor` times `original_positions`. With m(c) = 1 + 0.1 c ln(factor), cosines and sines are
// multiplied with m(mscale) / m(mscale_all_dim), and the scale of the scores with
// m(mscale_all_dim)^2.
struct Yarn {
  double factor = 1;
  int original_positions = 0;
  double beta_fast = 32, beta_slow = 1;  // turns over original_positions: left alone from, slowed
                                         // in full from
  double mscale = 1, mscale_all_dim = 0;
  bool operator==(const Yarn&) const = default;
};

struct Moe {
  int experts = 0;
  int top_k = 0;
  int ffn = 0;         // hidden width of one routed expert
  int shared_ffn = 0;  // hidden width of all shared experts together; 0: none
  bool shared_gate = false;
  RouterScore score = RouterScore::Softmax;
  int groups = 1,
      limited_groups =
          1;  // experts form `groups` groups; a token uses at most `limited_groups` of them
  bool expert_bias = false;  // linear biases inside experts
  // Of the trainer alone: no figure of the planner depends on them.
  bool normalised_weights = true;  // the chosen scores are divided by their sum
  double route_scale = 1;          // and multiplied by this
  std::vector<bool> layers;        // which layers are mixtures; size == ModelShape::layers
  bool operator==(const Moe&) const = default;
};

struct ModelShape {
  std::string name;
  int layers = 0;
  int hidden = 0;
  int ffn = 0;  // of dense layers
  int heads = 0, kv_heads = 0;
  int head_dim = 0;  // of queries, keys and values; with MLA see `mla`
  std::optional<Mla> mla;
  std::optional<Moe> moe;
  std::int64_t vocab = 0;
  int max_positions = 0;  // of learned positions
  int mtp_depth = 0;      // multi-token-prediction layers after the last one
  bool tied_embeddings = false;
  Mlp mlp = Mlp::SwiGlu;
  Norm norm = Norm::RmsNorm;
  Positions positions = Positions::Rope;
  bool qkv_bias = false,
       linear_bias = false;  // linear_bias: on every linear map of attention and MLP
  bool qk_norm = false;
  bool parallel_residual = false;
  // Of the trainer alone: no figure of the planner depends on them.
  double rope_theta = 10000;
  std::optional<Yarn> yarn;
  double norm_eps = 1e-6;
  std::vector<int> windows;  // per layer attention window, 0 unlimited; empty: unlimited everywhere
  bool operator==(const ModelShape&) const = default;
};

// Parameters by where they live. A "layer" is one transformer block with its two norms.
struct Params {
  std::int64_t embedding = 0;  // input table, and learned positions
  std::int64_t head = 0;       // output projection; 0 when tied
  std::int64_t final_norm = 0;
  std::int64_t mtp = 0;                 // all MTP modules, without the shared embedding and head
  std::vector<std::int64_t> attention;  // per layer, norms included
  std::vector<std::int64_t> mlp;  // per layer: dense MLP, or router + shared experts of a mixture
  std::vector<std::int64_t> experts;  // per layer: all routed experts; 0 for dense layers
  std::int64_t total(bool with_mtp = true) const;
};

Params parameters(const ModelShape& model);

// Parameters that one token passes through: top_k of the routed experts, embedding table counted as
// published figures do.
std::int64_t activated_parameters(const ModelShape& model);

// Model flops of training on one token at sequence length `seq`: 6 per activated matrix parameter
// plus attention, embedding lookup free, head and MTP counted, recompute never. `causal`: count
// half of the attention square.
Flops train_flops_per_token(const ModelShape& model, int seq, bool causal);

bool is_moe_layer(const ModelShape& model, int layer);

}  // namespace reckon::plan
