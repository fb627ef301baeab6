// The fields of a model in JSON. Models have a catalogue (catalog/models.json) and can also be a
// Hugging Face config.json: {"hf_config": "path, relative to the scenario"}.
#pragma once

#include "hw-models/json_fields.h"
#include "planner/model.h"

namespace reckon::plan {

inline const auto& spellings(Mlp) {
  static constexpr hw::Spelling<Mlp> t[] = {{Mlp::Gelu, "gelu"},
                                            {Mlp::SquaredRelu, "squared-relu"},
                                            {Mlp::SwiGlu, "swiglu"},
                                            {Mlp::GeGlu, "geglu"}};
  return t;
}

inline const auto& spellings(Norm) {
  static constexpr hw::Spelling<Norm> t[] = {{Norm::LayerNorm, "layer-norm"},
                                             {Norm::RmsNorm, "rms-norm"}};
  return t;
}

inline const auto& spellings(Positions) {
  static constexpr hw::Spelling<Positions> t[] = {{Positions::Rope, "rope"},
                                                  {Positions::Learned, "learned"},
                                                  {Positions::Alibi, "alibi"},
                                                  {Positions::None, "none"}};
  return t;
}

inline const auto& spellings(RouterScore) {
  static constexpr hw::Spelling<RouterScore> t[] = {{RouterScore::Softmax, "softmax"},
                                                    {RouterScore::Sigmoid, "sigmoid"}};
  return t;
}

constexpr int kMaxLayers = 10000;
constexpr double kMaxWidth = 1e6, kMaxHeads = 1e5;

template <class V>
void fields(V& v, Mla& a) {
  v("q_lora", a.q_lora,
    {.doc = "rank of compressed queries; 0: none", .required = true, .max = kMaxWidth});
  v("kv_lora", a.kv_lora,
    {.doc = "rank of compressed keys and values", .required = true, .min = 1, .max = kMaxWidth});
  v("qk_nope", a.qk_nope,
    {.doc = "head width without position", .required = true, .min = 1, .max = kMaxWidth});
  v("qk_rope", a.qk_rope, {.doc = "head width with position", .required = true, .max = kMaxWidth});
  v("v", a.v, {.doc = "head width of values", .required = true, .min = 1, .max = kMaxWidth});
}

template <class V>
void fields(V& v, Yarn& y) {
  v("factor", y.factor,
    {.doc = "length of the context over original_positions",
     .required = true,
     .min = 1,
     .max = 1e6});
  v("original_positions", y.original_positions,
    {.doc = "length that the model was trained with before",
     .required = true,
     .min = 1,
     .max = 1e8});
  v("beta_fast", y.beta_fast,
    {.doc = "pairs that turn as often over original_positions keep their frequency; 32",
     .min = 1e-3,
     .max = 1e6});
  v("beta_slow", y.beta_slow,
    {.doc = "pairs that turn as rarely are slowed by the whole factor; 1",
     .min = 1e-3,
     .max = 1e6});
  v("mscale", y.mscale, {.doc = "growth of cosines and sines with ln(factor) / 10; 1", .max = 100});
  v("mscale_all_dim", y.mscale_all_dim,
    {.doc = "growth of the whole score's root, taken off cosines and sines; 0", .max = 100});
}
void finish(const hw::Value& v, Yarn& y);

// Moe::layers in JSON: the indices of the layers that are not mixtures.
struct DenseLayers {
  std::vector<bool>& mixture;
};
void read_custom(const hw::Value& v, DenseLayers& out, const hw::Rule& rule);
hw::ordered_json write_custom(const DenseLayers& layers);
hw::ordered_json schema_custom(const DenseLayers*);

template <class V>
void fields(V& v, Moe& m) {
  v("experts", m.experts, {.doc = "routed experts", .required = true, .min = 1, .max = 100000});
  v("top_k", m.top_k, {.doc = "experts per token", .required = true, .min = 1, .max = 100000});
  v("ffn", m.ffn,
    {.doc = "hidden width of one routed expert", .required = true, .min = 1, .max = kMaxWidth});
  v("shared_ffn", m.shared_ffn,
    {.doc = "hidden width of all shared experts; 0: none", .required = true, .max = kMaxWidth});
  v("shared_gate", m.shared_gate, {.doc = "shared experts have a sigmoid gate; false"});
  v("score", m.score, {.doc = "of the router", .required = true});
  v("groups", m.groups, {.doc = "of experts, for limited routing; 1", .min = 1, .max = 10000});
  v("limited_groups", m.limited_groups,
    {.doc = "groups that a token may use; all", .min = 1, .max = 10000});
  v("expert_bias", m.expert_bias, {.doc = "linear biases inside experts; false"});
  v("normalised_weights", m.normalised_weights,
    {.doc = "the chosen scores are divided by their sum; true"});
  v("route_scale", m.route_scale,
    {.doc = "factor of the routing weights; 1", .min = 1e-6, .max = 1e6});
  v("dense_layers", DenseLayers{m.layers}, {.doc = "layers that are not mixtures; none"});
}
void finish(const hw::Value& v, Moe& m);

// ModelShape::windows in JSON: a pattern, repeated over the layers.
struct WindowPattern {
  std::vector<int>& windows;
};
void read_custom(const hw::Value& v, WindowPattern& out, const hw::Rule& rule);
hw::ordered_json write_custom(const WindowPattern& pattern);
hw::ordered_json schema_custom(const WindowPattern*);

template <class V>
void fields(V& v, ModelShape& m) {
  v("name", m.name, {.doc = "shown in reports"});
  v("layers", m.layers,
    {.doc = "transformer blocks, without MTP", .required = true, .min = 1, .max = kMaxLayers});
  v("hidden", m.hidden, {.doc = "width", .required = true, .min = 1, .max = kMaxWidth});
  v("ffn", m.ffn,
    {.doc = "hidden width of dense layers; 0: none is dense", .required = true, .max = 1e7});
  v("heads", m.heads, {.doc = "attention heads", .required = true, .min = 1, .max = kMaxHeads});
  v("kv_heads", m.kv_heads,
    {.doc = "key and value heads", .required = true, .min = 1, .max = kMaxHeads});
  v("head_dim", m.head_dim, {.doc = "head width, without mla", .max = kMaxWidth});
  v("mla", m.mla, {.doc = "multi-head latent attention"});
  v("moe", m.moe, {.doc = "mixture of experts"});
  v("vocab", m.vocab,
    {.doc = "rows of the embedding table", .required = true, .min = 1, .max = 1e8});
  v("max_positions", m.max_positions, {.doc = "of learned positions", .max = 1e8});
  v("mtp_depth", m.mtp_depth, {.doc = "multi-token-prediction modules; 0", .max = 100});
  v("tied_embeddings", m.tied_embeddings, {.doc = "head shares the input table; false"});
  v("mlp", m.mlp, {.doc = "activation and gate", .required = true});
  v("norm", m.norm, {.doc = "kind of norm", .required = true});
  v("positions", m.positions, {.doc = "position encoding", .required = true});
  v("qkv_bias", m.qkv_bias, {.doc = "biases on query, key, value; false"});
  v("linear_bias", m.linear_bias, {.doc = "biases on every linear map; false"});
  v("qk_norm", m.qk_norm, {.doc = "norms on queries and keys; false"});
  v("parallel_residual", m.parallel_residual, {.doc = "attention beside the MLP; false"});
  v("rope_theta", m.rope_theta,
    {.doc = "base of the rotary embedding; 10,000", .min = 1, .max = 1e12});
  v("yarn", m.yarn,
    {.doc = "YaRN's scaling of the rotary embedding, of the trainer alone: no cost depends on it"});
  v("norm_eps", m.norm_eps, {.doc = "added under the norms' root; 1e-6", .min = 1e-12, .max = 1});
  v("windows", WindowPattern{m.windows},
    {.doc = "attention window per layer, 0 unlimited, repeated over the layers"});
  v.notes("sources", "where the shape is from");
}
void finish(const hw::Value& v, ModelShape& m);

// By catalogue name. Errors: InputError that names the nearest.
const ModelShape& model(const std::string& name);

}  // namespace reckon::plan

namespace reckon::hw {
template <>
struct Catalogue<plan::ModelShape> {
  static constexpr bool exists = true;
  static constexpr const char* what = "a model";
  static const std::map<std::string, plan::ModelShape>& entries();
};
}  // namespace reckon::hw
