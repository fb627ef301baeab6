#include "planner/import_hf.h"

#include <catch2/catch.hpp>

#include "planner/model_fields.h"

using namespace reckon;
using namespace reckon::plan;
using Catch::Matchers::Contains;

namespace {

ModelShape import_text(const std::string& text) {
  const hw::Document d = hw::parse_json("config.json", text);
  return import_hf(hw::Value(d));
}

// Parameters in billions, MTP left out. `total`: of the released weights (hub file sizes, model
// cards). `activated`: top-k experts and all the rest, both embedding tables counted; what the
// cards print is this, rounded, mostly without the input table (DeepSeek-V3 "37B": 37.55 - 0.93).
struct Published {
  const char* name;
  double total, activated;
};
constexpr Published kPublished[] = {
    {"deepseek-v2", 235.7, 21.38},       // "236B", "21B"
    {"deepseek-v3", 671.0, 37.55},       // "671B", "37B"
    {"glm-4.5", 352.8, 33.63},           // "355B" with MTP, "32B" without tables
    {"gpt-neox-20b", 20.55, 20.55},      // "20B"
    {"gpt-oss-120b", 116.83, 5.71},      // "116.83B", "5.13B" without the input table
    {"gpt-oss-20b", 20.91, 4.19},        // "20.91B", "3.61B" without the input table
    {"gpt2", 0.1244, 0.1244},            // "124M"
    {"kimi-k2", 1026.4, 32.86},          // "1T", "32B"
    {"llama3.1-405b", 405.85, 405.85},   // "405B"
    {"llama3.1-70b", 70.55, 70.55},      // "70B"
    {"llama3.1-8b", 8.03, 8.03},         // "8B"
    {"mixtral-8x22b", 140.62, 39.15},    // "141B", "39B"
    {"mixtral-8x7b", 46.70, 12.88},      // "46.7B", "12.9B"
    {"qwen2-57b-a14b", 57.41, 14.25},    // "57.41B", "14B"
    {"qwen3-235b-a22b", 235.09, 22.19},  // "235B", "22B"
    {"qwen3-30b-a3b", 30.53, 3.353},     // "30.5B", "3.3B"
};

}  // namespace

TEST_CASE("16 configs import to the published parameter counts, and to the catalogue's models") {
  const hw::Document d =
      hw::read_json_file(RECKON_SOURCE_DIR "/tests/planner/data/hf_configs.json");
  CHECK(d.root.size() == std::size(kPublished));
  for (const Published& p : kPublished) {
    INFO(p.name);
    const auto config = hw::Value(d).find(p.name);
    REQUIRE(config);
    ModelShape m = import_hf(*config);
    CHECK(static_cast<double>(parameters(m).total(false)) == Approx(p.total * 1e9).epsilon(0.005));
    CHECK(static_cast<double>(activated_parameters(m)) == Approx(p.activated * 1e9).epsilon(0.005));
    m.name = p.name;
    CHECK(m == model(p.name));
  }
}

TEST_CASE("models outside the Hugging Face families count as published") {
  const auto billions = [](const char* name) {
    return static_cast<double>(parameters(model(name)).total()) / 1e9;
  };
  CHECK(billions("gpt3-175b") == Approx(174.6).epsilon(0.005));        // SC21, table 2
  CHECK(billions("nemotron-4-340b") == Approx(341.0).epsilon(0.005));  // 9.4B + 331.6B
  CHECK(billions("nemotron-4-15b") == Approx(15.6).epsilon(0.005));    // 3.2B + 12.5B
  CHECK(billions("llama2-7b") == Approx(6.74).epsilon(0.005));
  CHECK(billions("llama2-13b") == Approx(13.02).epsilon(0.005));
  CHECK(billions("llama2-70b") == Approx(68.98).epsilon(0.005));
}

TEST_CASE("DeepSeek-V3's MTP module has 11.5B parameters of its own (README: 14B with tables)") {
  CHECK(static_cast<double>(parameters(model("deepseek-v3")).mtp) ==
        Approx(11.61e9).epsilon(0.005));
}

TEST_CASE("a missing key means the class default, null included") {
  CHECK(import_text(R"({"model_type": "deepseek_v3"})").moe->experts == 256);
  CHECK(import_text(R"({"model_type": "deepseek_v3"})").mtp_depth == 1);
  CHECK(import_text(R"({"model_type": "kimi_k2", "num_nextn_predict_layers": 0})").mtp_depth == 0);
  CHECK(import_text(R"({"model_type": "deepseek_v2", "q_lora_rank": null})").mla->q_lora == 0);
  CHECK(import_text(R"({"model_type": "llama"})").kv_heads == 32);
  CHECK(import_text(R"({"model_type": "gpt2", "n_inner": null})").ffn == 3072);
  CHECK(import_text(R"({"model_type": "gpt_oss"})").windows[0] == 128);
  CHECK(import_text(R"({"model_type": "gpt_oss"})").windows[1] == 0);
  CHECK(import_text(R"({"text_config": {"model_type": "llama"}})").layers == 32);
}

TEST_CASE("YaRN's settings are imported, other scalings are not") {
  // DeepSeek-V3's config.json.
  const ModelShape m = import_text(R"({"model_type": "deepseek_v3", "rope_theta": 10000,
      "max_position_embeddings": 163840, "rope_scaling": {"beta_fast": 32, "beta_slow": 1,
      "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
      "original_max_position_embeddings": 4096, "type": "yarn"}})");
  REQUIRE(m.yarn);
  CHECK(*m.yarn ==
        Yarn{.factor = 40, .original_positions = 4096, .mscale = 1, .mscale_all_dim = 1});
  // The newer spelling; a context's length from the model's; the factor of cosines itself:
  // 0.1 * 0.5 ln 8 + 1 = 1.103972.
  const ModelShape newer = import_text(R"({"model_type": "llama", "max_position_embeddings": 2048,
      "rope_parameters": {"rope_type": "yarn", "rope_theta": 500000, "factor": 8,
      "attention_factor": 1.103972}})");
  REQUIRE(newer.yarn);
  CHECK(newer.rope_theta == 500000);
  CHECK(newer.yarn->original_positions == 2048);
  CHECK(newer.yarn->mscale == Approx(0.5).epsilon(1e-4));
  CHECK(!import_text(R"({"model_type": "llama", "rope_scaling": {"rope_type": "llama3",
      "factor": 8}})")
             .yarn);
  CHECK(!import_text(R"({"model_type": "llama", "rope_scaling": null})").yarn);
  CHECK_THROWS_WITH(import_text(R"({"model_type": "llama", "rope_scaling": {"type": "yarn"}})"),
                    Contains("/rope_scaling: expected the key \"factor\""));
  CHECK_THROWS_WITH(import_text(R"({"model_type": "llama", "rope_scaling": {"type": "yarn",
      "factor": 4, "beta_fast": 1, "beta_slow": 2}})"),
                    Contains("/rope_scaling/beta_slow: expected fewer turns than beta_fast"));
}

TEST_CASE("configs that the schema can't express are refused, not guessed") {
  CHECK_THROWS_WITH(import_text(R"({"model_type": "deepseek_v4"})"),
                    Contains("/model_type: ") && Contains("did you mean \"deepseek_v3\"?"));
  CHECK_THROWS_WITH(import_text(R"({"model_type": "deepseek_v3", "index_topk": 2048})"),
                    Contains("/index_topk: expected a plain transformer"));
  CHECK_THROWS_WITH(import_text(R"({"hidden_size": 4096})"), Contains("model_type"));
  CHECK_THROWS_WITH(import_text(R"({"model_type": "llama", "hidden_size": "4096"})"),
                    Contains("/hidden_size: expected an integer"));
  CHECK_THROWS_WITH(import_text(R"({"model_type": "llama", "num_key_value_heads": 5})"),
                    Contains("a divisor of the 32 heads"));
}
