// Sources of keys and defaults: huggingface/transformers, models/<family>/configuration_<family>.py
// (commit 008e5743; gpt_oss 02b8f42b, gpt2 01ae98ae), and the hub's own config.json files for what
// the classes leave out (scoring_func, topk_method).
#include "planner/import_hf.h"

#include <fmt/format.h>

#include <cmath>

#include "planner/model_fields.h"

namespace reckon::plan {

namespace {

// One config.json, read key by key with the defaults of its class.
class Config {
 public:
  explicit Config(const hw::Value& v) : v_(v) {}

  std::optional<hw::Value> find(const char* key) const {
    auto value = v_.find(key);
    if (value && value->json().is_null()) value.reset();
    return value;
  }
  int integer(const char* key, int otherwise, int min = 0) const {
    const auto value = find(key);
    return value ? static_cast<int>(hw::read_integer(*value, min, 1e8)) : otherwise;
  }
  double number(const char* key, double otherwise) const {
    const auto value = find(key);
    return value ? hw::read_number(*value, 0, 1e15) : otherwise;
  }
  bool flag(const char* key, bool otherwise) const {
    const auto value = find(key);
    return value ? hw::read_bool(*value) : otherwise;
  }
  std::string text(const char* key, const char* otherwise) const {
    const auto value = find(key);
    return value ? hw::read_text(*value) : otherwise;
  }
  const hw::Value& value() const { return v_; }

 private:
  hw::Value v_;
};

// Sizes that all families but gpt2 spell alike.
struct Defaults {
  int layers, hidden, ffn, heads, kv_heads, vocab;  // kv_heads 0: as many as heads
};

ModelShape common(const Config& c, const Defaults& d) {
  ModelShape m;
  m.layers = c.integer("num_hidden_layers", d.layers, 1);
  m.hidden = c.integer("hidden_size", d.hidden, 1);
  m.ffn = c.integer("intermediate_size", d.ffn, 1);
  m.heads = c.integer("num_attention_heads", d.heads, 1);
  m.kv_heads = c.integer("num_key_value_heads", d.kv_heads ? d.kv_heads : m.heads, 1);
  m.head_dim = c.integer("head_dim", m.hidden / m.heads, 1);
  m.vocab = c.integer("vocab_size", d.vocab, 1);
  m.tied_embeddings = c.flag("tie_word_embeddings", false);
  return m;
}

// MoE from `first`, every `freq`-th layer.
std::vector<bool> mixture_layers(const Config& c, int layers, int first_default) {
  const int first = c.integer("first_k_dense_replace", first_default);
  const int freq = c.integer("moe_layer_freq", 1, 1);
  std::vector<bool> mixture;
  for (int l = 0; l < layers; ++l) mixture.push_back(l >= first && l % freq == 0);
  return mixture;
}

ModelShape deepseek(const Config& c, bool v3) {
  ModelShape m = common(c, v3 ? Defaults{61, 7168, 18432, 128, 128, 129280}
                              : Defaults{32, 4096, 11008, 32, 32, 32000});
  m.kv_heads = m.heads;  // num_key_value_heads means nothing with latent attention
  m.head_dim = 0;
  const bool compressed = !c.value().find("q_lora_rank") || c.find("q_lora_rank");
  m.mla = Mla{.q_lora = compressed ? c.integer("q_lora_rank", 1536) : 0,  // null: no compression
              .kv_lora = c.integer("kv_lora_rank", 512, 1),
              .qk_nope = c.integer("qk_nope_head_dim", 128, 1),
              .qk_rope = c.integer("qk_rope_head_dim", 64),
              .v = c.integer("v_head_dim", 128, 1)};
  Moe e;
  e.experts = c.integer("n_routed_experts", v3 ? 256 : 64, 1);
  e.top_k = c.integer("num_experts_per_tok", v3 ? 8 : 6, 1);
  e.ffn = c.integer("moe_intermediate_size", v3 ? 2048 : 1407, 1);
  e.shared_ffn = c.integer("n_shared_experts", v3 ? 1 : 2) * e.ffn;
  e.score = c.text("scoring_func", v3 ? "sigmoid" : "softmax") == "sigmoid" ? RouterScore::Sigmoid
                                                                            : RouterScore::Softmax;
  if (c.text("topk_method", v3 ? "noaux_tc" : "greedy") != "greedy") {
    e.groups = c.integer("n_group", v3 ? 8 : 1, 1);
    e.limited_groups = c.integer("topk_group", v3 ? 4 : 1, 1);
  }
  e.layers = mixture_layers(c, m.layers, v3 ? 3 : 0);
  m.moe = e;
  if (v3) m.mtp_depth = c.integer("num_nextn_predict_layers", c.integer("num_mtp_layers", 1));
  return m;
}

ModelShape glm4_moe(const Config& c) {
  ModelShape m = common(c, {46, 4096, 10944, 96, 8, 151552});
  Moe e;
  e.experts = c.integer("n_routed_experts", 128, 1);
  e.top_k = c.integer("num_experts_per_tok", 8, 1);
  e.ffn = c.integer("moe_intermediate_size", 1408, 1);
  e.shared_ffn = c.integer("n_shared_experts", 1) * e.ffn;
  e.score = RouterScore::Sigmoid;
  e.groups = c.integer("n_group", 1, 1);
  e.limited_groups = c.integer("topk_group", 1, 1);
  e.layers = mixture_layers(c, m.layers, 1);
  m.moe = e;
  m.qkv_bias = c.flag("attention_bias", false);
  m.qk_norm = c.flag("use_qk_norm", false);
  m.mtp_depth = c.integer("num_nextn_predict_layers", 1);
  return m;
}

ModelShape mixtral(const Config& c) {
  ModelShape m = common(c, {32, 4096, 14336, 32, 8, 32000});
  m.moe = Moe{.experts = c.integer("num_local_experts", 8, 1),
              .top_k = c.integer("num_experts_per_tok", 2, 1),
              .ffn = m.ffn,
              .layers = std::vector<bool>(static_cast<std::size_t>(m.layers), true)};
  m.ffn = 0;
  if (const int window = c.integer("sliding_window", 0)) m.windows = {window};
  return m;
}

// Qwen2-MoE has a gated shared expert and biases on q, k, v; Qwen3-MoE has norms on q and k.
ModelShape qwen_moe(const Config& c, bool qwen3) {
  ModelShape m = common(c, qwen3 ? Defaults{24, 2048, 6144, 32, 4, 151936}
                                 : Defaults{24, 2048, 5632, 16, 16, 151936});
  Moe e;
  e.experts = c.integer("num_experts", qwen3 ? 128 : 60, 1);
  e.top_k = c.integer("num_experts_per_tok", qwen3 ? 8 : 4, 1);
  e.ffn = c.integer("moe_intermediate_size", qwen3 ? 768 : 1408, 1);
  const int step = c.integer("decoder_sparse_step", 1, 1);
  for (int l = 0; l < m.layers; ++l) e.layers.push_back((l + 1) % step == 0);
  if (const auto dense = c.find("mlp_only_layers")) {
    dense->expect_array("layer indices");
    for (std::size_t i = 0; i < dense->size(); ++i)
      e.layers[static_cast<std::size_t>(hw::read_integer(dense->at(i), 0, m.layers - 1))] = false;
  }
  if (qwen3) {
    m.qk_norm = true;  // not a field: always on in this family
    m.qkv_bias = c.flag("attention_bias", false);
  } else {
    m.qkv_bias = c.flag("qkv_bias", true);
    e.shared_ffn = c.integer("shared_expert_intermediate_size", 5632);
    e.shared_gate = e.shared_ffn > 0;
  }
  m.moe = e;
  if (c.flag("use_sliding_window", false))
    if (const int window = c.integer("sliding_window", 0)) m.windows = {window};
  return m;
}

// Attention sinks (one number per head) are left out of the count.
ModelShape gpt_oss(const Config& c) {
  ModelShape m = common(c, {36, 2880, 2880, 64, 8, 201088});
  m.head_dim = c.integer("head_dim", 64, 1);
  m.linear_bias = c.flag("attention_bias", true);
  m.moe = Moe{.experts = c.integer("num_local_experts", 128, 1),
              .top_k = c.integer("num_experts_per_tok", c.integer("experts_per_token", 4, 1), 1),
              .ffn = m.ffn,
              .expert_bias = true,
              .layers = std::vector<bool>(static_cast<std::size_t>(m.layers), true)};
  m.ffn = 0;
  const int window = c.integer("sliding_window", 128);
  if (const auto types = c.find("layer_types")) {
    types->expect_array("layer types");
    const std::string valid[] = {"sliding_attention", "full_attention"};
    for (std::size_t i = 0; i < types->size(); ++i)
      m.windows.push_back(hw::read_choice(types->at(i), valid) == 0 ? window : 0);
    if (static_cast<int>(m.windows.size()) != m.layers)
      types->fail(fmt::format("one type for each of the {} layers", m.layers));
  } else {
    m.windows = {window, 0};
  }
  return m;
}

ModelShape llama(const Config& c) {
  ModelShape m = common(c, {32, 4096, 11008, 32, 0, 32000});
  m.qkv_bias = c.flag("attention_bias", false);
  m.linear_bias = m.qkv_bias && c.flag("mlp_bias", false);
  return m;
}

ModelShape gpt_neox(const Config& c) {
  ModelShape m = common(c, {44, 6144, 24576, 64, 0, 50432});
  m.mlp = Mlp::Gelu;
  m.norm = Norm::LayerNorm;
  m.linear_bias = true;
  m.parallel_residual = c.flag("use_parallel_residual", true);
  return m;
}

ModelShape gpt2(const Config& c) {
  ModelShape m;
  m.layers = c.integer("n_layer", 12, 1);
  m.hidden = c.integer("n_embd", 768, 1);
  m.ffn = c.integer("n_inner", 4 * m.hidden, 1);
  m.heads = m.kv_heads = c.integer("n_head", 12, 1);
  m.head_dim = m.hidden / m.heads;
  m.vocab = c.integer("vocab_size", 50257, 1);
  m.positions = Positions::Learned;
  m.max_positions = c.integer("n_positions", 1024, 1);
  m.tied_embeddings = c.flag("tie_word_embeddings", true);
  m.mlp = Mlp::Gelu;
  m.norm = Norm::LayerNorm;
  m.linear_bias = true;
  return m;
}

// What the trainer knows of rotary embeddings: theta where it is given, and YaRN (its keys are
// those of transformers, modeling_rope_utils.py). "rope_parameters" is the newer name.
void rotary(const Config& c, ModelShape& m) {
  m.rope_theta = c.number("rope_theta", m.rope_theta);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto value = c.find(key);
    if (!value) continue;
    value->expect_object("settings of the rotary embedding");
    const Config r(*value);
    m.rope_theta = r.number("rope_theta", m.rope_theta);
    if (r.text("rope_type", r.text("type", "default").c_str()) != "yarn") continue;
    if (!r.find("factor")) value->fail_got("the key \"factor\"", "YaRN without it");
    Yarn y{.factor = r.number("factor", 1),
           .original_positions = r.integer("original_max_position_embeddings",
                                           c.integer("max_position_embeddings", 4096, 1), 1),
           .beta_fast = r.number("beta_fast", 32),
           .beta_slow = r.number("beta_slow", 1),
           .mscale = r.number("mscale", 1),
           .mscale_all_dim = r.number("mscale_all_dim", 0)};
    // Given as the factor of cosines and sines itself.
    if (const auto given = r.find("attention_factor"); given && y.factor > 1) {
      y.mscale = (hw::read_number(*given, 1, 100) - 1) / (0.1 * std::log(y.factor));
      y.mscale_all_dim = 0;
    }
    finish(*value, y);
    m.yarn = y;
  }
}

// Keys of models that this schema can't express.
void refuse_other_kinds(const Config& c) {
  constexpr std::pair<const char*, const char*> kinds[] = {
      {"index_topk", "sparse attention"},
      {"hc_mult", "hyper-connections"},
      {"compress_ratios", "compressed attention"},
      {"linear_attn_config", "linear attention"},
      {"full_attention_interval", "linear attention"},
      {"hybrid_override_pattern", "state-space layers"},
      {"interleave_moe_layer_step", "interleaved mixtures of another family"},
      {"routed_expert_hidden_size", "latent experts"},
      {"moe_latent_size", "latent experts"}};
  for (const auto& [key, what] : kinds)
    if (const auto v = c.find(key))
      v->fail_got("a plain transformer", fmt::format("\"{}\" ({})", key, what));
}

}  // namespace

ModelShape import_hf(const hw::Value& config) {
  config.expect_object("a Hugging Face config.json");
  if (const auto inner = config.find("text_config")) return import_hf(*inner);
  const Config c(config);
  const auto type = c.find("model_type");
  if (!type) config.fail_got("the key \"model_type\"", "an object without it");
  refuse_other_kinds(c);
  const std::string families[] = {"deepseek_v3", "kimi_k2",   "deepseek_v2", "mixtral",
                                  "qwen2_moe",   "qwen3_moe", "glm4_moe",    "gpt_oss",
                                  "llama",       "gpt_neox",  "gpt2"};
  const std::string family = families[hw::read_choice(*type, families)];
  ModelShape m = family == "deepseek_v3" || family == "kimi_k2" ? deepseek(c, true)
                 : family == "deepseek_v2"                      ? deepseek(c, false)
                 : family == "mixtral"                          ? mixtral(c)
                 : family == "qwen2_moe"                        ? qwen_moe(c, false)
                 : family == "qwen3_moe"                        ? qwen_moe(c, true)
                 : family == "glm4_moe"                         ? glm4_moe(c)
                 : family == "gpt_oss"                          ? gpt_oss(c)
                 : family == "llama"                            ? llama(c)
                 : family == "gpt_neox"                         ? gpt_neox(c)
                                                                : gpt2(c);
  if (m.positions == Positions::Rope) rotary(c, m);
  if (m.moe) finish(config, *m.moe);
  finish(config, m);
  if (m.name.empty()) m.name = family;
  return m;
}

}  // namespace reckon::plan
